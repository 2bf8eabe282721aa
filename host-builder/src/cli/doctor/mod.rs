//! `doctor`: checks a host or a container root before the boot.

pub(crate) mod test_guest;

use crate::artifacts::cache::Cache;
use crate::cli::arguments::{AccessArgs, DEFAULT_LOCK};
use crate::cli::build_initrd::options::DEFAULT_PAYLOAD_OUTPUT;
use crate::common::error::{Doing, Error, Result};
use crate::common::terminal::Look;
use crate::common::ui::{Ui, print_as_json, print_painted};
use crate::doctor::file_systems::Programs;
use crate::doctor::{self, Asked, Container, DoctorReport, HostRoot, ImageFileSystem, Origin, Packed};
use crate::initramfs::manifest::{is_manifest, required};
use crate::initramfs::{Archive, Want};
use crate::pins::branches::Month;
use clap::Args;
use image::layout::CONFIG_FILE;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) const DOCTOR_HELP: &str = "\
Examples:
  host-builder doctor
  host-builder doctor --gpu 0000:01:00.0 --guest-memory 65536
  host-builder doctor out/initrd.img
  host-builder doctor out/initrd.img --root root.ext4 --config config.json

Disk images are never mounted: debugfs, fsck.erofs or unsquashfs unpacks them in a sandbox. The program is taken from the
packages of the lock if they are in the cache or the mirror, else from this machine. If this machine's program cannot read
the image, the packages are fetched; with --offline, nothing is fetched.

Exit codes: 0 no check failed (there may be warnings), 1 a check failed, 2 usage error, or the checks could not be run.";

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Initrd built by this tool. The list in its driver decides which GPUs are supported [default:
    /// a built-in list].
    pub image: Option<PathBuf>,
    /// Container root to check instead of the host: a disk image (ext4, EROFS or SquashFS) or a
    /// directory.
    #[arg(long, value_name = "DISK|DIR", requires = "image", conflicts_with_all = ["gpu", "guest_memory"])]
    pub root: Option<PathBuf>,
    /// The container's config.json or config disk. Its environment states what the container
    /// requires of the driver.
    #[arg(long, value_name = "FILE|DISK", requires = "root")]
    pub config: Option<PathBuf>,
    /// PCI address of the GPU. May be given more than once [default: all NVIDIA GPUs].
    #[arg(long, value_name = "BDF")]
    pub gpu: Vec<String>,
    /// Planned memory of the guest. Locked memory, huge pages and address space are compared with
    /// it.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=0xff_ffff_ffff))]
    pub guest_memory: Option<u64>,
    /// Driver disk of an initrd built with --payload disk [default: out/driver.erofs if it exists].
    #[arg(long, value_name = "DISK", requires = "image")]
    pub payload_disk: Option<PathBuf>,
    /// Lock whose packages contain the programs that read disk images.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: PathBuf,
    /// Profile that the lock was resolved from: the name of a built-in profile, or a file [default:
    /// the one in the lock].
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Where those packages come from.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Print the checks as JSON to standard output.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command. Exit code 0: no check failed; 1: a check failed.
pub fn run(args: &Doctor) -> Result<ExitCode> {
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

fn host(args: &Doctor, packed: Option<&Packed>) -> Result<DoctorReport> {
    let test_guest = test_guest::start(&args.lock, &args.access, args.json);
    let (gpus, guest_memory) = (&args.gpu, args.guest_memory);
    let asked = Asked { gpus, guest_memory, packed, test_guest: Some(&test_guest) };
    let mut checks = doctor::check_host(&HostRoot::at(Path::new("/")), &asked)?;
    checks.splice(0..0, packed.map(Packed::check));
    Ok(DoctorReport::new(packed.map(|packed| packed.version().to_owned()), checks))
}

fn container(
    args: &Doctor,
    root: &Path,
    packed: &Packed,
    programs: Programs,
    work: &Path,
) -> Result<DoctorReport> {
    let mut checks = vec![packed.check()];
    checks.extend(packed.support(Month::now()));
    if packed.manifest.driver.is_some() {
        let (root, unread) = directory(root, programs, work)?;
        let config = args.config.as_deref().map(|config| config_file(config, programs, work)).transpose()?;
        let config = config.as_deref();
        checks.extend(doctor::check_container(Container { root: &root, unread, config, packed, work })?);
    }
    Ok(DoctorReport::new(Some(packed.version().to_owned()), checks))
}

/// The root as a directory, and what could not be read if it is a disk.
fn directory(root: &Path, programs: Programs, work: &Path) -> Result<(PathBuf, Option<Vec<String>>)> {
    let root = root.canonicalize().doing("finding the container root", root)?;
    if root.is_dir() {
        return Ok((root, None));
    }
    let kind = ImageFileSystem::of(&root)?;
    let (directory, unread) = doctor::unpack(&programs.of(kind, &root)?, kind, &root, &work.join("root"))?;
    Ok((directory, Some(unread)))
}

/// The `config.json` itself, or that of a config disk.
fn config_file(config: &Path, programs: Programs, work: &Path) -> Result<PathBuf> {
    let path = config.canonicalize().doing("finding the configuration", config)?;
    let Ok(kind) = ImageFileSystem::of(&path) else { return Ok(path) };
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
    .hint("docs/booting.md, section \"Config disk\""))
}

fn packed(args: &Doctor, image: &Path, programs: Programs, work: &Path) -> Result<Packed> {
    let archive = Archive::open(image)?;
    let contents = archive.read(&Want { digests: false, keep: &is_manifest })?;
    let tree = contents.tree();
    let manifest = required(&tree, image)?;
    let usual = Path::new(DEFAULT_PAYLOAD_OUTPUT);
    let disk = args.payload_disk.as_deref().or_else(|| Some(usual).filter(|disk| disk.is_file()));
    let origin = Origin { archive: &archive, tree: &tree, manifest, disk, whole: args.root.is_some() };
    Packed::take(origin, work, &|kind, image| programs.of(kind, image))
}
