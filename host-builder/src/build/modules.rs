//! The pipeline of NVIDIA's open modules for a kernel: resolve → headers → compile → sign → check →
//! archive.

use crate::common::error::{Doing, Error, Result};
use crate::common::files::{Scratch, Staged};
use crate::common::halt::Halt;
use crate::kernel_modules::make::compile::compile;
use crate::kernel_modules::make::environment::Workshop;
use crate::kernel_modules::make::headers::Headers;
use crate::kernel_modules::make::release_archive::{self, Expected, Validation};
use crate::kernel_modules::make::sign::Signer;
use crate::kernel_modules::make::{build, facts, source};
use crate::pins::lock::{Lock, Set};
use crate::pins::profile::Profile;
use crate::programs::toolroot::Toolroot;
use crate::resolve;
use crate::resolve::sources::Access;
use clap::ValueEnum;
use std::fs;
use std::io::Write;
use std::path::Path;

/// The inputs and outputs of a build of modules.
pub struct ModulesRequest<'a> {
    /// The profile, and its text.
    pub profile: (&'a Profile, &'a str),
    /// The lock. It is read if it exists, else written.
    pub lock: &'a Path,
    /// A source to use instead of the locked one.
    pub source: Option<&'a Path>,
    /// Headers to use instead of the locked ones.
    pub headers: Option<&'a Path>,
    /// The common part of the headers, if they are split.
    pub headers_common: Option<&'a Path>,
    /// Packages with headers, resolved from the profile's archive as it is now.
    pub headers_package: &'a [String],
    /// Where the compiler comes from.
    pub toolchain: Toolchain,
    /// The key and certificate to sign the modules with.
    pub signer: Option<Signer>,
    /// Path of the archive.
    pub output: &'a Path,
    /// Path of the description of the modules.
    pub validation: Option<&'a Path>,
}

/// Where compiler, make and binutils come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Toolchain {
    /// The lock's packages.
    Toolroot,
    /// This machine; the compiler is $CC, or gcc if it is not set.
    Host,
}

/// A profile with its lock.
struct Pinned {
    profile: Profile,
    lock: Lock,
}

/// Builds and checks the modules, and writes their archive.
///
/// # Errors
/// An input is wrong, or the source does not compile. Nothing is written then.
pub fn make(request: &ModulesRequest, access: Access) -> Result<Validation> {
    let signer = request.signer.as_ref();
    signer.map_or(Ok(()), Signer::check)?;
    let pinned = pinned(request, access)?;
    let dir = access.cache.scratch()?;
    let (headers, workshop) = tools(request, pinned.as_ref(), access)?;
    make_in(request, pinned.as_ref(), &headers, &workshop, &dir, access)?;
    let names: Vec<_> = facts(dir.path())?.into_iter().map(|(module, _)| module.path).collect();
    if let Some(signer) = signer {
        access.ui.line(format!("signing {} modules …", names.len()));
        signer.sign_all(&workshop, &headers, dir.path(), &names)?;
    }
    let own_source = request.source.is_some();
    let expected = Expected {
        release: &headers.release,
        driver: pinned.as_ref().filter(|_| !own_source).map(|pinned| pinned.lock.driver.as_str()),
        arch: arch(pinned.as_ref()),
    };
    let certificate = signer.map(|signer| signer.certificate.as_path());
    let validation = release_archive::check(dir.path(), &facts(dir.path())?, expected, certificate)?;
    write(request, pinned.as_ref(), &validation, dir.path())?;
    Ok(validation)
}

/// Loads the profile and its lock; `None` if source, headers and compiler all come from elsewhere.
fn pinned(request: &ModulesRequest, access: Access) -> Result<Option<Pinned>> {
    if request.source.is_some() && request.headers.is_some() && request.toolchain == Toolchain::Host {
        return Ok(None);
    }
    let (profile, text) = request.profile;
    let lock = resolve::lock_of(request.lock, false, profile, text, access)?;
    let lock = if request.headers_package.is_empty() {
        lock
    } else {
        resolve::with_headers(profile, &lock, request.headers_package, access)?
    };
    Ok(Some(Pinned { profile: profile.clone(), lock }))
}

fn arch(pinned: Option<&Pinned>) -> &str {
    pinned.map_or("x86_64", |pinned| &pinned.profile.arch)
}

/// Returns the headers and the programs to build with.
fn tools(request: &ModulesRequest, pinned: Option<&Pinned>, access: Access) -> Result<(Headers, Workshop)> {
    let given = match request.headers {
        Some(dir) => Some(Headers::read(dir, request.headers_common)?),
        None => None,
    };
    if let Some(headers) = &given {
        headers.check_arch(arch(pinned))?;
    }
    let toolroot = match pinned {
        Some(pinned) if given.is_none() || request.toolchain == Toolchain::Toolroot => {
            Some(resolve::toolroot_of(&pinned.profile, &pinned.lock, access)?)
        }
        _ => None,
    };
    let headers = match (given, pinned, &toolroot) {
        (Some(headers), ..) => headers,
        (None, Some(pinned), Some(toolroot)) if request.headers_package.is_empty() => {
            Headers::in_toolroot(toolroot, &pinned.lock.kernel_release)?
        }
        (None, _, Some(toolroot)) => only_headers(toolroot, request.headers_package)?,
        (None, ..) => unreachable!("without headers of its own the command has a lock and its toolroot"),
    };
    let workshop = match toolroot {
        Some(toolroot) if request.toolchain == Toolchain::Toolroot => Workshop::Toolroot(toolroot),
        _ => Workshop::host(access.cache)?,
    };
    Ok((headers, workshop))
}

/// Finds the configured headers in the packages.
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

/// Puts the modules into `dir`: from the cache if all inputs are locked, else compiled.
fn make_in(
    request: &ModulesRequest,
    pinned: Option<&Pinned>,
    headers: &Headers,
    workshop: &Workshop,
    dir: &Scratch,
    access: Access,
) -> Result<()> {
    let (cache, ui) = (access.cache, access.ui);
    if let (Workshop::Toolroot(toolroot), None, None, Some(Pinned { profile, lock })) =
        (workshop, request.source, request.headers, pinned)
    {
        let lock = Lock { kernel_release: headers.release.clone(), ..lock.clone() };
        let built = build(cache, &lock, &profile.modules, || Ok(toolroot.clone()), &Halt::default(), ui)?;
        for module in &built.modules {
            let from = built.dir.join(&module.path);
            fs::copy(&from, dir.path().join(&module.path)).doing("copying", &from)?;
        }
        return Ok(());
    }
    let work = cache.scratch()?;
    let tree = match (request.source, pinned) {
        (Some(source), _) => source::given(source, work.path())?,
        (None, Some(Pinned { profile, lock })) => {
            resolve::fetch(profile, lock, &[Set::ModuleSource], access)?;
            source::locked(cache, lock, &profile.modules, headers, work.path())?
        }
        (None, None) => unreachable!("without a source of its own the command has a lock"),
    };
    compile(workshop, headers, work.path(), &tree, dir.path(), &Halt::default(), ui)
}

/// Writes all outputs or none, and a newly resolved lock.
fn write(
    request: &ModulesRequest,
    pinned: Option<&Pinned>,
    validation: &Validation,
    dir: &Path,
) -> Result<()> {
    let archive = Staged::new(request.output, 0o644, |out| validation.pack(dir, out, request.output))?;
    let description = match request.validation {
        Some(path) => Some(Staged::new(path, 0o644, |out| {
            out.write_all(validation.to_json().as_bytes()).doing("writing", path)
        })?),
        None => None,
    };
    // With other headers, this lock is not the profile's.
    if let Some(pinned) = pinned.filter(|_| request.headers_package.is_empty() && !request.lock.exists()) {
        pinned.lock.stage(request.lock)?.commit()?;
    }
    archive.commit()?;
    description.map_or(Ok(()), Staged::commit)
}
