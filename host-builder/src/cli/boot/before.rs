//! Checks before a boot: the guest has enough memory, the kernel matches the modules, the root is
//! usable.

use super::options::Boot;
use crate::build::payload::{minimum_memory, minimum_memory_without_gpu};
use crate::cli::build_initrd::options::DEFAULT_PAYLOAD_OUTPUT;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::base_name;
use crate::doctor::ImageFileSystem;
use crate::initramfs::file_type::{BZIMAGE, EFI, ELF, describe};
use crate::initramfs::manifest::{is_manifest, manifest};
use crate::initramfs::{Archive, Want};
use image::capability::{Kind, TABLE};
use image::manifest::{Manifest, Payload};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Most unreadable paths that are collected for an error.
const SHOWN: usize = 3;
/// Offset of the field `kernel_version` of a bzImage, which is relative to the end of the boot
/// sector (Documentation/arch/x86/boot.rst).
const VERSION_AT: u64 = 0x20e;
const SECTOR: u64 = 0x200;
/// Offset and value of the magic number of a bzImage's real-mode part.
const HEADER: (u64, &[u8]) = (0x202, b"HdrS");
/// Most bytes of a version.
const MAX_VERSION: usize = 256;

/// The initrd's plan; `None` if this tool did not build it.
pub fn plan(initrd: &Path) -> Result<Option<Manifest>> {
    let contents = Archive::open(initrd)?.read(&Want { digests: false, keep: &is_manifest })?;
    Ok(manifest(&contents.tree(), initrd)?.map(|(manifest, _)| manifest))
}

/// Returns an error if a boot of this plan must fail, unless `--force` is given.
pub fn check(args: &Boot, initrd: &Path, kernel: &Path, plan: &Manifest) -> Result<()> {
    if args.force {
        return Ok(());
    }
    let size = fs::metadata(initrd).doing("reading", initrd)?.len();
    fits(args, plan, size)?;
    match release(kernel)? {
        Some(release) if release != plan.kernel_release && !plan.modules.is_empty() => Err(Error::new(format!(
            "{} is kernel {release}, but the modules in {} are for {}",
            args.kernel.display(),
            args.initrd.display(),
            plan.kernel_release
        ))
        .hint("boot the kernel that build-initrd wrote next to the initrd: --kernel FILE; or build modules for this kernel: host-builder build-modules")),
        _ => Ok(()),
    }
}

fn fits(args: &Boot, plan: &Manifest, initrd: u64) -> Result<()> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let of = |plan: &Manifest, initrd| {
        mib(if args.gpus().is_empty() {
            minimum_memory_without_gpu(plan, initrd)
        } else {
            minimum_memory(plan, initrd)
        })
    };
    let (has, needs) = (u64::from(args.memory), of(plan, initrd));
    if has >= needs {
        return Ok(());
    }
    let hint = match &plan.payload {
        Payload::Disk { .. } => format!("increase it: --memory {needs}"),
        Payload::Files | Payload::Image { .. } => {
            // What is left of the archive without the driver.
            let small = Manifest {
                files: plan.archived().filter(|file| !is_driver(file)).cloned().collect(),
                ..plan.clone()
            };
            let left: u64 = small.files.iter().map(image::manifest::File::size).sum();
            let least = of(&small, left.min(initrd));
            format!(
                "increase it: --memory {needs}; or build the initrd with --payload disk, which needs {least} MiB"
            )
        }
    };
    Err(Error::new(format!(
        "--memory {has}: the guest needs at least {needs} MiB for {}, or its kernel panics",
        args.initrd.display()
    ))
    .hint(hint))
}

fn is_driver(file: &image::manifest::File) -> bool {
    file.payload || file.path == image::layout::PAYLOAD_IMAGE
}

/// The release of a kernel image, as `uname -r` prints it; `None` if the image does not have it.
fn release(kernel: &Path) -> Result<Option<String>> {
    let file = File::open(kernel).doing("opening", kernel)?;
    let at = |offset: u64, buffer: &mut [u8]| file.read_exact_at(buffer, offset).is_ok();
    let mut mark = [0; HEADER.1.len()];
    let mut place = [0; 2];
    if !at(HEADER.0, &mut mark) || mark != *HEADER.1 || !at(VERSION_AT, &mut place) {
        return Ok(None);
    }
    let mut text = vec![0; MAX_VERSION];
    if !at(u64::from(u16::from_le_bytes(place)) + SECTOR, &mut text) {
        return Ok(None);
    }
    let end = text.iter().position(|byte| *byte == 0 || *byte == b' ').unwrap_or(0);
    Ok(String::from_utf8(text[..end].to_vec()).ok().filter(|release| !release.is_empty()))
}

/// Checks by its content that a file can be a kernel.
pub fn kernel(path: &Path) -> Result<PathBuf> {
    let hint = "pass the kernel that build-initrd wrote next to the initrd: --kernel FILE";
    let file = file("--kernel", path, "build it first: host-builder build-initrd")?;
    match describe(&file) {
        BZIMAGE | ELF | EFI => Ok(file),
        other => {
            Err(Error::new(format!("--kernel {}: expected a kernel, found {other}", path.display()))
                .hint(hint))
        }
    }
}

/// Checks that a disk image has a file system that guests mount.
pub fn disk(option: &str, path: &Path, hint: &str) -> Result<PathBuf> {
    let image = file(option, path, hint)?;
    ImageFileSystem::of(&image)?;
    Ok(image)
}

/// The driver disk: the given one, or the one next to an initrd that needs one.
pub fn payload_disk(args: &Boot, plan: Option<&Manifest>) -> Result<Option<PathBuf>> {
    let hint = "pass the file that build-initrd wrote next to the initrd (its --payload-output): --payload-disk FILE";
    if let Some(disk) = &args.payload_disk {
        return self::disk("--payload-disk", disk, hint).map(Some);
    }
    let Some(Manifest { payload: Payload::Disk { erofs, .. }, .. }) = plan else { return Ok(None) };
    let name = Path::new(DEFAULT_PAYLOAD_OUTPUT).file_name().unwrap_or_default();
    let usual = args.initrd.with_file_name(name);
    if usual.is_file() {
        return file("--payload-disk", &usual, hint).map(Some);
    }
    if args.gpus().is_empty() {
        return Ok(None);
    }
    Err(Error::new(format!(
        "{} needs its driver disk (EROFS with UUID {}): {} does not exist",
        args.initrd.display(),
        erofs.uuid,
        usual.display()
    ))
    .hint(hint))
}

/// Checks that a root has a file system that guests mount, or is a directory that this user can
/// read completely.
pub fn root(path: &Path) -> Result<PathBuf> {
    let root = canonical("--root", path, "name a disk image or a directory")?;
    if !root.is_dir() {
        ImageFileSystem::of(&root)?;
        return Ok(root);
    }
    let unreadable: Vec<PathBuf> = unreadable(&root);
    let Some(first) = unreadable.first() else { return Ok(root) };
    let more = if unreadable.len() > 1 { " and others" } else { "" };
    Err(Error::new(format!("--root {}: this user cannot read {}{more}", path.display(), first.display())).hint(
        "run boot as root; or, as root, pack the directory into a disk image once (mkfs.erofs root.erofs DIR) and pass that: --root root.erofs",
    ))
}

/// Unreadable directories and files below `root`, at most [`SHOWN`].
fn unreadable(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(root) {
        match entry {
            Ok(entry) if entry.file_type().is_file() && File::open(entry.path()).is_err() => {
                found.push(entry.into_path());
            }
            Ok(_) => {}
            Err(error) => found.extend(error.path().map(Path::to_owned)),
        }
        if found.len() >= SHOWN {
            break;
        }
    }
    found
}

/// Whether the command is a program of the driver. A guest without a GPU does not have these.
pub fn is_drivers(command: &[String]) -> bool {
    let name = command.first().map(|first| base_name(first));
    name.is_some_and(|name| TABLE.iter().any(|row| matches!(row.kind, Kind::Program(known) if known == name)))
}

/// The path for QEMU: absolute, without links.
pub fn canonical(option: &str, path: &Path, hint: &str) -> Result<PathBuf> {
    path.canonicalize()
        .map_err(|error| Error::new(format!("{option} {}", path.display())).source(error).hint(hint))
}

/// A file or a block device.
pub fn file(option: &str, path: &Path, hint: &str) -> Result<PathBuf> {
    let found = canonical(option, path, hint)?;
    if found.is_dir() {
        return Err(
            Error::new(format!("{option} {}: expected a file, found a directory", path.display())).hint(hint)
        );
    }
    Ok(found)
}

/// Reads a file, at most `most` bytes.
pub fn text(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).doing("opening", path)?.take(most).read_to_end(&mut bytes).doing("reading", path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_stands_in_a_kernel_image() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x400_u16.to_le_bytes());
        image[0x600..0x620].copy_from_slice(b"6.12.1-cloud (debian) #1 SMP 202");
        fs::write(&path, &image).unwrap();
        assert_eq!(release(&path).unwrap().as_deref(), Some("6.12.1-cloud"));
        for damage in [0x202, 0x20f] {
            let mut image = image.clone();
            image[damage] = 0xff;
            fs::write(&path, &image).unwrap();
            assert_eq!(release(&path).unwrap(), None);
        }
        fs::write(&path, b"\x7fELF").unwrap();
        assert_eq!(release(&path).unwrap(), None);
    }

    #[test]
    fn a_root_is_a_file_system_or_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        fs::write(&path, "root:x:0:0").unwrap();
        assert!(root(&path).unwrap_err().to_string().contains("expected ext4, EROFS or SquashFS"));
        assert_eq!(root(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
        let error = root(&dir.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("--root"), "{error}");
    }

    #[test]
    fn programs_of_the_driver_are_known_by_their_names() {
        let is =
            |command: &[&str]| is_drivers(&command.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert!(is(&["nvidia-smi", "-L"]) && is(&["/usr/bin/nvidia-smi"]));
        assert!(!is(&["sh", "-c", "nvidia-smi"]) && !is(&[]));
    }
}
