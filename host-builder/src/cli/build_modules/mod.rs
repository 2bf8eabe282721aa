//! `build-modules`: NVIDIA's open modules for a kernel, as an archive.

pub(crate) mod options;

use super::build_initrd::{lock_of, toolroot_of};
use crate::artifacts::cache::Cache;
use crate::cli::{BuildModules, Toolchain};
use crate::common::digest::sha256_file;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::{Scratch, Staged};
use crate::common::ui::{Ui, megabytes, print, print_json};
use crate::kernel_modules::make::compile::compile;
use crate::kernel_modules::make::environment::Workshop;
use crate::kernel_modules::make::headers::Headers;
use crate::kernel_modules::make::release_archive;
use crate::kernel_modules::make::release_archive::{Expected, Validation};
use crate::kernel_modules::make::sign::Signer;
use crate::kernel_modules::make::source;
use crate::kernel_modules::make::{build, facts};
use crate::pins::lock::Lock;
use crate::pins::profile::Profile;
use crate::programs::toolroot::Toolroot;
use crate::resolve;
use crate::resolve::sources::Access;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;

/// A profile with its lock.
struct Pinned {
    profile: Profile,
    lock: Lock,
}

/// Runs the command.
pub fn run(args: &BuildModules) -> Result<()> {
    let ui = Ui::new(args.quiet || args.json);
    check_outputs(args)?;
    let signer = signer(args);
    signer.as_ref().map_or(Ok(()), Signer::check)?;
    let cache = Cache::open()?;
    let access = args.access.of(&cache, &ui);
    let pinned = pinned(args, access)?;
    let dir = cache.scratch()?;
    let (headers, workshop) = tools(args, pinned.as_ref(), access)?;
    make(args, pinned.as_ref(), &headers, &workshop, &dir, access)?;
    let names: Vec<_> = facts(dir.path())?.into_iter().map(|(module, _)| module.path).collect();
    if let Some(signer) = &signer {
        ui.line(format!("signing {} modules …", names.len()));
        signer.sign_all(&workshop, &headers, dir.path(), &names)?;
    }
    let own_source = args.source.is_some();
    let expected = Expected {
        release: &headers.release,
        driver: pinned.as_ref().filter(|_| !own_source).map(|pinned| pinned.lock.driver.as_str()),
        arch: arch(pinned.as_ref()),
    };
    let certificate = signer.as_ref().map(|signer| signer.certificate.as_path());
    let validation = release_archive::check(dir.path(), &facts(dir.path())?, expected, certificate)?;
    write(args, pinned.as_ref(), &validation, dir.path())?;
    report(args, &validation)
}

/// Nothing of a lock is asked for where everything comes from elsewhere.
fn pinned(args: &BuildModules, access: Access) -> Result<Option<Pinned>> {
    if args.source.is_some() && args.headers.is_some() && args.toolchain == Toolchain::Host {
        return Ok(None);
    }
    let (profile, text) = Profile::load(&args.profile)?;
    let lock = lock_of(&args.lock, false, &profile, &text, access)?;
    if args.headers_package.is_empty() {
        return Ok(Some(Pinned { profile, lock }));
    }
    let lock = resolve::with_headers(&profile, &lock, &args.headers_package, access)?;
    Ok(Some(Pinned { profile, lock }))
}

fn arch(pinned: Option<&Pinned>) -> &str {
    pinned.map_or("x86_64", |pinned| &pinned.profile.arch)
}

/// The headers to build with, and where to build.
fn tools(args: &BuildModules, pinned: Option<&Pinned>, access: Access) -> Result<(Headers, Workshop)> {
    let given = match &args.headers {
        Some(dir) => Some(Headers::read(dir, args.headers_common.as_deref())?),
        None => None,
    };
    if let Some(headers) = &given {
        headers.check_arch(arch(pinned))?;
    }
    let toolroot = match pinned {
        Some(pinned) if given.is_none() || args.toolchain == Toolchain::Toolroot => {
            Some(toolroot_of(&pinned.profile, &pinned.lock, access)?)
        }
        _ => None,
    };
    let headers = match (given, pinned, &toolroot) {
        (Some(headers), ..) => headers,
        (None, Some(pinned), Some(toolroot)) if args.headers_package.is_empty() => {
            Headers::in_toolroot(toolroot, &pinned.lock.kernel_release)?
        }
        (None, _, Some(toolroot)) => only_headers(toolroot, &args.headers_package)?,
        (None, ..) => unreachable!("without headers of its own the command has a lock and its toolroot"),
    };
    let workshop = match toolroot {
        Some(toolroot) if args.toolchain == Toolchain::Toolroot => Workshop::Toolroot(toolroot),
        _ => Workshop::host(access.cache)?,
    };
    Ok((headers, workshop))
}

/// The configured headers that packages brought.
fn only_headers(toolroot: &Toolroot, packages: &[String]) -> Result<Headers> {
    let src = toolroot.path().join("usr/src");
    let mut found = Vec::new();
    for entry in fs::read_dir(&src).doing("reading", &src)? {
        let entry = entry.doing("reading", &src)?;
        if entry.path().join("include/config/kernel.release").is_file() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    if found.len() > 1 {
        found.retain(|name| packages.contains(name));
    }
    match found.as_slice() {
        [one] => Headers::read(&src.join(one), None),
        _ => Err(Error::new(format!(
            "{}: expected the headers of one kernel, found {:?}",
            packages.join(", "),
            found.join(", ")
        ))
        .hint("name the package linux-headers-RELEASE of the kernel")),
    }
}

/// Leaves the modules in `dir`: from the cache where only locked things go in, else compiled.
fn make(
    args: &BuildModules,
    pinned: Option<&Pinned>,
    headers: &Headers,
    workshop: &Workshop,
    dir: &Scratch,
    access: Access,
) -> Result<()> {
    let (cache, ui) = (access.cache, access.ui);
    if let (Workshop::Toolroot(toolroot), None, None, Some(Pinned { profile, lock })) =
        (workshop, &args.source, &args.headers, pinned)
    {
        let lock = Lock { kernel_release: headers.release.clone(), ..lock.clone() };
        let built = build(cache, &lock, &profile.modules, || Ok(toolroot.clone()), ui)?;
        for module in &built.modules {
            let from = built.dir.join(&module.path);
            fs::copy(&from, dir.path().join(&module.path)).doing("copying", &from)?;
        }
        return Ok(());
    }
    let work = cache.scratch()?;
    let tree = match (&args.source, pinned) {
        (Some(source), _) => source::given(source, work.path())?,
        (None, Some(Pinned { profile, lock })) => {
            resolve::fetch(profile, lock, &[crate::pins::lock::Set::ModuleSource], access)?;
            source::locked(cache, lock, &profile.modules, headers, work.path())?
        }
        (None, None) => unreachable!("without a source of its own the command has a lock"),
    };
    compile(workshop, headers, work.path(), &tree, dir.path(), ui)
}

fn signer(args: &BuildModules) -> Option<Signer> {
    let (key, certificate) = (args.sign_key.clone()?, args.sign_cert.clone()?);
    Some(Signer { key, certificate, hash: args.sign_hash })
}

fn check_outputs(args: &BuildModules) -> Result<()> {
    let outputs = [Some(&args.output), args.validation.as_ref()];
    for path in outputs.into_iter().flatten() {
        if path.is_dir() || path.file_name().is_none() {
            return Err(Error::new(format!(
                "{}: expected a file to write, found a directory",
                path.display()
            ))
            .hint("name the file to write"));
        }
    }
    if args.validation.as_ref() == Some(&args.output) {
        return Err(Error::new(format!("--output and --validation are both {}", args.output.display()))
            .hint("give each its own file"));
    }
    Ok(())
}

/// All outputs, whole or not at all; a lock that was made on the way, too.
fn write(args: &BuildModules, pinned: Option<&Pinned>, validation: &Validation, dir: &Path) -> Result<()> {
    let archive = Staged::new(&args.output, 0o644, |out| validation.pack(dir, out, &args.output))?;
    let description = match &args.validation {
        Some(path) => Some(Staged::new(path, 0o644, |out| {
            out.write_all(validation.to_json().as_bytes()).doing("writing", path)
        })?),
        None => None,
    };
    // With other headers the lock in hand is not the profile's.
    if let Some(pinned) = pinned.filter(|_| args.headers_package.is_empty() && !args.lock.exists()) {
        pinned.lock.stage(&args.lock)?.commit()?;
    }
    archive.commit()?;
    description.map_or(Ok(()), Staged::commit)
}

fn report(args: &BuildModules, validation: &Validation) -> Result<()> {
    let size = fs::metadata(&args.output).doing("reading", &args.output)?.len();
    if args.json {
        let report = json!({
            "output": args.output, "output_size": size, "output_sha256": sha256_file(&args.output)?, "validation": validation,
        });
        print_json(&format!("{report:#}\n"));
    } else if !args.quiet {
        let signed = validation.certificate_sha256.as_ref().map_or("not signed", |_| "signed");
        print(&format!(
            "{}: {}, driver {}, kernel {}, {signed}\n",
            args.output.display(),
            megabytes(size),
            validation.driver,
            validation.kernel_release
        ));
        for module in &validation.modules {
            print(&format!("  {:16} {:>9}  {}\n", module.name, megabytes(module.size), module.sha256));
        }
    }
    Ok(())
}
