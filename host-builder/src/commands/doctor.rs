//! `doctor`: a host, or a container image, before the boot.

use super::file_systems::Programs;
use super::manifest_of::{is_manifest, required};
use super::test_guest;
use crate::archive::{Archive, Want};
use crate::cache::Cache;
use crate::cli::{DEFAULT_PAYLOAD_OUTPUT, Doctor as Arguments};
use crate::doctor::{self, Asked, Container, Disk, Host, Origin, Packed, Report};
use crate::error::{Doing, Error, Result};
use crate::terminal::Look;
use crate::ui::{Ui, print_as_json, print_painted};
use image::layout::CONFIG_FILE;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the command. 0: nothing failed; 1: something did.
pub fn run(args: &Arguments) -> Result<ExitCode> {
    let report = match &args.image {
        None => host(args, None)?,
        Some(image) => {
            let (cache, ui) = (Cache::open()?, Ui::new(args.json));
            let access = args.access.of(&cache, &ui);
            let programs = Programs { lock: &args.lock, profile: args.profile.as_deref(), access };
            let work = cache.scratch()?;
            let packed = packed(args, image, programs, work.path())?;
            match &args.root {
                None => host(args, Some(&packed))?,
                Some(root) => container(args, root, &packed, programs, work.path())?,
            }
        }
    };
    if args.json {
        print_as_json(&report);
    } else {
        print_painted(&doctor::screen(&report, Look::of_stdout()));
    }
    Ok(ExitCode::from(u8::from(!report.good)))
}

fn host(args: &Arguments, packed: Option<&Packed>) -> Result<Report> {
    let test_guest = test_guest::start(args);
    let (gpus, guest_memory) = (&args.gpu, args.guest_memory);
    let asked = Asked { gpus, guest_memory, packed, test_guest: Some(&test_guest) };
    let mut checks = doctor::check_host(&Host::at(Path::new("/")), &asked)?;
    checks.splice(0..0, packed.map(Packed::check));
    Ok(Report::new(packed.map(|packed| packed.version().to_owned()), checks))
}

fn container(
    args: &Arguments,
    root: &Path,
    packed: &Packed,
    programs: Programs,
    work: &Path,
) -> Result<Report> {
    let mut checks = vec![packed.check()];
    if packed.manifest.driver.is_some() {
        let (root, unread) = directory(root, programs, work)?;
        let config = args.config.as_deref().map(|config| config_file(config, programs, work)).transpose()?;
        let config = config.as_deref();
        checks.extend(doctor::check_container(Container { root: &root, unread, config, packed, work })?);
    }
    Ok(Report::new(Some(packed.version().to_owned()), checks))
}

/// The root as a directory, and what could not be read where it is a disk.
fn directory(root: &Path, programs: Programs, work: &Path) -> Result<(PathBuf, Option<Vec<String>>)> {
    let root = root.canonicalize().doing("finding the container root", root)?;
    if root.is_dir() {
        return Ok((root, None));
    }
    let kind = Disk::of(&root)?;
    let (directory, unread) = doctor::unpack(&programs.of(kind, &root)?, kind, &root, &work.join("root"))?;
    Ok((directory, Some(unread)))
}

/// The `config.json` itself, or that of a config disk.
fn config_file(config: &Path, programs: Programs, work: &Path) -> Result<PathBuf> {
    let path = config.canonicalize().doing("finding the configuration", config)?;
    let Ok(kind) = Disk::of(&path) else { return Ok(path) };
    let (directory, _) = doctor::unpack(&programs.of(kind, &path)?, kind, &path, &work.join("config"))?;
    let file = directory.join(CONFIG_FILE);
    let is_there = std::fs::symlink_metadata(&file).is_ok_and(|metadata| metadata.is_file());
    if is_there {
        return Ok(file);
    }
    Err(Error::new(format!(
        "{}: expected a config disk, found no {CONFIG_FILE} in its top directory",
        config.display()
    ))
    .hint("README, section \"Config disk\""))
}

fn packed(args: &Arguments, image: &Path, programs: Programs, work: &Path) -> Result<Packed> {
    let archive = Archive::open(image)?;
    let contents = archive.read(&Want { digests: false, keep: &is_manifest })?;
    let tree = contents.tree();
    let manifest = required(&tree, image)?;
    let usual = Path::new(DEFAULT_PAYLOAD_OUTPUT);
    let disk = args.payload_disk.as_deref().or_else(|| Some(usual).filter(|disk| disk.is_file()));
    let origin = Origin { archive: &archive, tree: &tree, manifest, disk, whole: args.root.is_some() };
    Packed::take(origin, work, &|kind, image| programs.of(kind, image))
}
