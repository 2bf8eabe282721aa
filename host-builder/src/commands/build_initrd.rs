//! `build-initrd`: from a profile to an initrd.

use super::build_report::Report;
use crate::cache::{Cache, Staged};
use crate::cli::BuildInitrd;
use crate::error::{Doing, Error, Result};
use crate::kernel_modules::build::{Built, build};
use crate::kernel_modules::index::Index;
use crate::lock::{Artifact, Lock, Set};
use crate::pack::pack;
use crate::plan::{Inputs, Plan, plan};
use crate::profile::Profile;
use crate::resolve;
use crate::select;
use crate::toolroot::Toolroot;
use crate::trees::Tree;
use crate::ui::{Ui, print};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Runs the command.
pub fn run(args: &BuildInitrd) -> Result<()> {
    let ui = Ui::new(args.quiet || args.json);
    let capabilities = select::capabilities(&args.capabilities)?;
    check_outputs(args)?;
    let cache = Cache::open()?;
    let (profile, text) = Profile::load(&args.profile)?;
    profile.check_capabilities(&capabilities)?;
    let lock = ui.stage("resolve", || lock_of(args, &profile, &text, &cache, &ui))?;
    ui.stage("fetch", || resolve::fetch(&profile, &lock, &Set::image(&capabilities), &cache, &ui))?;
    let built = ui.stage("build modules", || build_modules(&profile, &lock, &cache, &ui))?;
    let kernel_package = one(&lock, Set::Kernel)?;
    let kernel = ui.stage("unpack", || Tree::of(&cache, kernel_package))?;
    let plan = ui.stage("plan", || {
        let index = Index::of(&cache, kernel_package, &kernel, &lock.kernel_release)?;
        let native = trees(&cache, &lock, &Set::userspace(&capabilities))?;
        let compat32 = trees32(&cache, &lock, &Set::compat32(&capabilities))?;
        let selected = select::select(&native, &compat32, &capabilities, &lock.driver)?;
        plan(Inputs {
            profile: &profile,
            lock: &lock,
            capabilities: &capabilities,
            kernel: &kernel,
            index,
            built: &built,
            firmware: &trees(&cache, &lock, &[Set::Firmware])?,
            selected,
            guest_init: crate::GUEST_INIT,
        })
    })?;
    if args.dry_run {
        print_plan(&plan, args.json);
        return Ok(());
    }
    write_outputs(args, &plan, &kernel, &lock, &ui)?;
    let report = Report::new(&plan, args, &ui)?;
    if args.json {
        print(&format!("{}\n", report.json()));
    } else if !args.quiet {
        print(&report.to_string());
    }
    Ok(())
}

/// Three outputs over each other would lose two of them.
fn check_outputs(args: &BuildInitrd) -> Result<()> {
    let outputs =
        [("--output", &args.output), ("--kernel-output", &args.kernel_output), ("--lock", &args.lock)];
    for (at, (option, path)) in outputs.iter().enumerate() {
        if path.is_dir() || path.file_name().is_none() {
            return Err(Error::new(format!(
                "{option} {}: expected a file, found a directory",
                path.display()
            ))
            .hint("name the file to write"));
        }
        if let Some((other, _)) = outputs[..at].iter().find(|(_, other)| place(other) == place(path)) {
            return Err(Error::new(format!("{other} and {option} are both {}", path.display()))
                .hint("give each its own file"));
        }
    }
    Ok(())
}

/// The same for every spelling of one path. The file itself may be a link: it is replaced, not followed.
fn place(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

fn lock_of(args: &BuildInitrd, profile: &Profile, text: &str, cache: &Cache, ui: &Ui) -> Result<Lock> {
    let present = if args.update_lock { None } else { Lock::read(&args.lock)? };
    match present {
        Some(lock) => {
            lock.check_profile(&profile.name, text, &args.lock)?;
            if lock.driver != profile.driver {
                return Err(Error::new(format!(
                    "{} is for driver {}, the profile {} for {}",
                    args.lock.display(),
                    lock.driver,
                    profile.name,
                    profile.driver
                ))
                .hint("the lock was altered: restore it, or resolve again: build-initrd --update-lock"));
            }
            Ok(lock)
        }
        None => resolve::resolve(profile, text, cache, ui),
    }
}

fn build_modules(profile: &Profile, lock: &Lock, cache: &Cache, ui: &Ui) -> Result<Built> {
    let toolroot = || {
        resolve::fetch(profile, lock, &[Set::Toolroot, Set::ModuleSource], cache, ui)?;
        Toolroot::of(cache, lock, Set::Toolroot, &profile.toolroot.links, ui)
    };
    build(cache, lock, &profile.modules, toolroot, ui)
}

fn one(lock: &Lock, set: Set) -> Result<&Artifact> {
    lock.set(set).first().copied().ok_or_else(|| {
        Error::new(format!("the lock has no artifact of set {set}"))
            .hint("resolve again: build-initrd --update-lock")
    })
}

fn trees(cache: &Cache, lock: &Lock, sets: &[Set]) -> Result<Vec<Tree>> {
    lock.sets(sets).into_iter().map(|artifact| Tree::of(cache, artifact)).collect()
}

/// Packages of the same name and version as others: the manifest tells them apart as apt does.
fn trees32(cache: &Cache, lock: &Lock, sets: &[Set]) -> Result<Vec<Tree>> {
    let named = |artifact: &Artifact, tree: Tree| Tree {
        origin: format!("{}:{} {}", artifact.name, artifact.arch, artifact.version),
        ..tree
    };
    lock.sets(sets).into_iter().map(|artifact| Ok(named(artifact, Tree::of(cache, artifact)?))).collect()
}

fn print_plan(plan: &Plan, json: bool) {
    if json {
        print(&String::from_utf8_lossy(&plan.manifest.to_json()));
    } else {
        print(&super::build_report::plan_text(plan));
    }
}

/// All three are made, and then appear, together: an initrd is of no use beside another kernel.
fn write_outputs(args: &BuildInitrd, plan: &Plan, kernel: &Tree, lock: &Lock, ui: &Ui) -> Result<()> {
    let image = kernel.read(kernel.file(&format!("boot/vmlinuz-{}", lock.kernel_release))?)?;
    let mut staged = vec![ui.stage("pack", || pack(plan, args.compression, &args.output, ui))?];
    let path = &args.kernel_output;
    staged.push(Staged::new(path, 0o644, |file| file.write_all(&image).doing("writing", path))?);
    if Lock::read(&args.lock).ok().flatten().as_ref() != Some(lock) {
        staged.push(lock.stage(&args.lock)?);
    }
    staged.into_iter().try_for_each(Staged::commit)
}
