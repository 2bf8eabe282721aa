//! `build-initrd`: from a profile to an initrd.

pub(crate) mod options;
pub(crate) mod payload;
pub(crate) mod report;

use crate::artifacts::cache::Cache;
use crate::artifacts::tree::Tree;
use crate::build::plan::{Inputs, Plan};
use crate::build::select;
use crate::build::select::Absent;
use crate::cli::BuildInitrd;
use crate::common::error::{Doing, Error, Result};
use crate::common::ui::{Ui, print, print_json, print_wrapped};
use crate::kernel_modules::gpus;
use crate::kernel_modules::gpus::Chosen;
use crate::kernel_modules::index::{Index, content};
use crate::kernel_modules::make::prebuilt;
use crate::kernel_modules::make::{Built, build};
use crate::pins::lock::{Artifact, Lock, Set};
use crate::pins::profile::Profile;
use crate::programs::toolroot::Toolroot;
use crate::resolve::sources::Access;
use crate::resolve::{self, Choice};
use payload::{Build, Planned};
use report::Report;
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

/// Runs the command.
pub fn run(args: &BuildInitrd) -> Result<()> {
    let ui = Ui::new(args.quiet || args.json);
    let capabilities = select::capabilities(&args.capabilities)?;
    check_outputs(args)?;
    let guest_init = match &args.guest_init {
        Some(path) => Cow::Owned(fs::read(path).doing("reading", path)?),
        None => Cow::Borrowed(crate::GUEST_INIT),
    };
    let cache = Cache::open()?;
    let (profile, text) = Profile::load(&args.profile)?;
    profile.check_capabilities(&capabilities)?;
    let access = args.access.of(&cache, &ui);
    let lock = ui.stage("resolve", || lock_of(&args.lock, args.update_lock, &profile, &text, access))?;
    let sets = Set::image(&capabilities);
    // All at once: what cannot be had is named together.
    ui.stage("fetch", || resolve::fetch(&profile, &lock, &sets, access))?;
    let (built, Unpacked { kernel, index }) = std::thread::scope(|scope| {
        let built = scope.spawn(|| ui.stage("build modules", || gpu_modules(&profile, &lock, access)));
        let unpacked = unpack(&profile, &lock, &sets, access);
        let built = built.join().expect("building modules does not panic");
        Ok::<_, Error>((built?, unpacked?))
    })?;
    let build = Build { args, profile: &profile, lock: &lock, access };
    let Planned { plan, disk, why, segments } = ui.stage("plan", || {
        let whole = trees(&cache, &lock, &[Set::Driver])?;
        let absent = if whole.is_empty() { Absent::IsAnError } else { Absent::IsNoted };
        let native = [trees(&cache, &lock, &Set::userspace(&capabilities))?, whole.clone()].concat();
        let compat32 = [trees32(&cache, &lock, &Set::compat32(&capabilities))?, whole].concat();
        let selected = select::select(&native, &compat32, &capabilities, &lock.driver, absent)?;
        let gpus = chosen_gpus(args, &built, &lock)?;
        let inputs = Inputs {
            profile: &profile,
            lock: &lock,
            capabilities: &capabilities,
            kernel: &kernel,
            index: &index,
            built: &built,
            firmware: &trees(&cache, &lock, &[Set::Firmware, Set::Driver, Set::GpuModules])?,
            selected: &selected,
            more_modules: &[],
            gpus: gpus.as_ref(),
            guest_init: &guest_init,
        };
        build.plan(&inputs)
    })?;
    if args.dry_run {
        print_plan(&plan, args.json);
        return Ok(());
    }
    let Some(segments) = segments else { return Ok(()) };
    let packed = ui.stage("write", || build.write(&segments, disk.as_ref(), &kernel))?;
    let report = Report::new(&plan, args, &packed, &why, &ui);
    if args.json {
        print_json(&format!("{}\n", report.json()));
    } else if !args.quiet {
        print_wrapped(&report.text(args.verbose));
    }
    Ok(())
}

/// Outputs over each other would lose all but one of them.
fn check_outputs(args: &BuildInitrd) -> Result<()> {
    let outputs = [
        ("--output", &args.output),
        ("--kernel-output", &args.kernel_output),
        ("--payload-output", &args.payload_output),
        ("--lock", &args.lock),
    ];
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

/// The lock at `path`, or what the profile resolves to where there is none or another one is asked for.
pub(crate) fn lock_of(
    path: &Path,
    update: bool,
    profile: &Profile,
    text: &str,
    access: Access,
) -> Result<Lock> {
    let present = Lock::read(path);
    if update {
        // One that cannot be read is replaced.
        let choice = resolve::choose(profile, None, None, present.ok().flatten().as_ref(), access)?;
        return resolve::resolve(profile, text, &choice, access);
    }
    let Some(lock) = present? else {
        return resolve::resolve(profile, text, &Choice::of(profile), access);
    };
    lock.check_profile(&profile.name, text, path)?;
    if lock.driver != profile.driver {
        access.ui.line(format!(
            "driver {}, as {} says (the profile says {})",
            lock.driver,
            path.display(),
            profile.driver
        ));
    }
    Ok(lock)
}

/// What is prepared in parallel with the GPU's modules.
struct Unpacked {
    kernel: Vec<Tree>,
    index: Index,
}

/// Unpacks these sets, which are in the cache, and indexes the kernel's modules.
fn unpack(profile: &Profile, lock: &Lock, sets: &[Set], access: Access) -> Result<Unpacked> {
    let Access { cache, ui, .. } = access;
    let kernel = ui.stage("unpack", || {
        trees(cache, lock, sets)?;
        trees(cache, lock, &[Set::Kernel])
    })?;
    let of_kernel = || Index::of(cache, &kernel, &lock.kernel_release, &profile.kernel.builtin);
    let index = ui.stage("index modules", of_kernel)?;
    Ok(Unpacked { kernel, index })
}

/// Built from source, or as an artifact has them.
fn gpu_modules(profile: &Profile, lock: &Lock, access: Access) -> Result<Built> {
    let prebuilt = trees(access.cache, lock, &[Set::GpuModules])?;
    if !prebuilt.is_empty() {
        return prebuilt::built(access.cache, &prebuilt, &lock.kernel_release);
    }
    let toolroot = || toolroot_of(profile, lock, access);
    build(access.cache, lock, &profile.modules, toolroot, access.ui)
}

/// The unpacked toolroot of a lock; the modules' source is fetched, too.
pub(crate) fn toolroot_of(profile: &Profile, lock: &Lock, access: Access) -> Result<Toolroot> {
    resolve::fetch(profile, lock, &[Set::Toolroot, Set::ModuleSource], access)?;
    let links = profile.toolroot.as_ref().map(|toolroot| toolroot.links.clone()).unwrap_or_default();
    Toolroot::of(access.cache, lock, Set::Toolroot, &links, access.ui)
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
        print_json(&String::from_utf8_lossy(&plan.manifest.to_json()));
    } else {
        print(&report::plan_text(plan));
    }
}

/// The GPUs of `--gpu`, held against the module that will drive them.
fn chosen_gpus(args: &BuildInitrd, built: &Built, lock: &Lock) -> Result<Option<Chosen>> {
    if args.gpu.is_empty() {
        return Ok(None);
    }
    let module = built.modules.iter().find(|module| module.name == "nvidia");
    let module = module.ok_or_else(|| {
        Error::new("--gpu: there is no module nvidia, which lists the GPUs that the driver supports")
            .hint("build without --gpu, which packs the firmware of all GPUs")
    })?;
    let chips = gpus::chips(&content(&built.dir.join(&module.path))?)?;
    gpus::choose(&args.gpu, &chips, &lock.driver)
}
