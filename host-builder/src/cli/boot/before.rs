//! What can be known of a boot before it starts: that it will not fit into its memory, that the kernel is another one than the
//! modules', that a root is none.

use super::gpus_asked;
use crate::build::payload::{minimum_memory, minimum_memory_without_gpu};
use crate::cli::{Boot, DEFAULT_PAYLOAD_OUTPUT};
use crate::common::error::{Doing, Error, Result};
use crate::doctor::Disk;
use crate::initramfs::file_type::{BZIMAGE, EFI, ELF, describe};
use crate::initramfs::manifest::{is_manifest, manifest};
use crate::initramfs::{Archive, Want};
use image::capability::{Kind, TABLE};
use image::manifest::{Manifest, Payload};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Directories that cannot be read that an error names.
const SHOWN: usize = 3;
/// Where a bzImage says where its version is, less the boot sector (Documentation/arch/x86/boot.rst, `kernel_version`).
const VERSION_AT: u64 = 0x20e;
const SECTOR: u64 = 0x200;
/// How the real-mode part of a bzImage is marked, and where.
const HEADER: (u64, &[u8]) = (0x202, b"HdrS");
/// Bytes of a version.
const MAX_VERSION: usize = 256;

/// The initrd's plan; `None`: it is none of this tool's.
pub fn plan(initrd: &Path) -> Result<Option<Manifest>> {
    let contents = Archive::open(initrd)?.read(&Want { digests: false, keep: &is_manifest })?;
    Ok(manifest(&contents.tree(), initrd)?.map(|(manifest, _)| manifest))
}

/// Everything that can be said against a boot of this plan, unless `--force` asks for it all the same.
pub fn check(args: &Boot, initrd: &Path, kernel: &Path, plan: &Manifest) -> Result<()> {
    if args.force {
        return Ok(());
    }
    let size = fs::metadata(initrd).doing("reading", initrd)?.len();
    fits(args, plan, size)?;
    match release(kernel)? {
        Some(release) if release != plan.kernel_release && !plan.modules.is_empty() => Err(Error::new(format!(
            "{} is kernel {release}, {} has modules for {}",
            args.kernel.display(),
            args.initrd.display(),
            plan.kernel_release
        ))
        .hint("boot the kernel that build-initrd wrote beside the initrd: --kernel FILE; build-modules makes modules for another one")),
        _ => Ok(()),
    }
}

fn fits(args: &Boot, plan: &Manifest, initrd: u64) -> Result<()> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let of = |plan: &Manifest, initrd| {
        mib(if gpus_asked(args).is_empty() {
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
        Payload::Disk { .. } => format!("give it more: --memory {needs}"),
        Payload::Files | Payload::Image { .. } => {
            // What is left of the archive without the driver.
            let small = Manifest {
                files: plan.archived().filter(|file| !is_driver(file)).cloned().collect(),
                ..plan.clone()
            };
            let left: u64 = small.files.iter().map(image::manifest::File::size).sum();
            let least = of(&small, left.min(initrd));
            format!(
                "give it more: --memory {needs}; or build the initrd with --payload disk, which needs {least} MiB"
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

/// The release of a kernel image, as `uname -r` will say it; `None` where the image does not say it.
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

/// A file that can be a kernel, by its content.
pub fn kernel(path: &Path) -> Result<PathBuf> {
    let hint = "name the kernel that build-initrd wrote beside the initrd: --kernel FILE";
    let file = super::file("--kernel", path, "make it first: host-builder build-initrd")?;
    match describe(&file) {
        BZIMAGE | ELF | EFI => Ok(file),
        other => {
            Err(Error::new(format!("--kernel {}: expected a kernel, found {other}", path.display()))
                .hint(hint))
        }
    }
}

/// A disk image with a file system that guests mount.
pub fn disk(option: &str, path: &Path, hint: &str) -> Result<PathBuf> {
    let image = super::file(option, path, hint)?;
    Disk::of(&image)?;
    Ok(image)
}

/// The driver's disk: the named one, or the one beside an initrd that wants one.
pub fn payload_disk(args: &Boot, plan: Option<&Manifest>) -> Result<Option<PathBuf>> {
    let hint =
        "name the file that build-initrd wrote beside the initrd (its --payload-output): --payload-disk FILE";
    if let Some(disk) = &args.payload_disk {
        return self::disk("--payload-disk", disk, hint).map(Some);
    }
    let Some(Manifest { payload: Payload::Disk { erofs, .. }, .. }) = plan else { return Ok(None) };
    let name = Path::new(DEFAULT_PAYLOAD_OUTPUT).file_name().unwrap_or_default();
    let usual = args.initrd.with_file_name(name);
    if usual.is_file() {
        return super::file("--payload-disk", &usual, hint).map(Some);
    }
    if gpus_asked(args).is_empty() {
        return Ok(None);
    }
    Err(Error::new(format!(
        "{} has its driver on a disk (EROFS with UUID {}), and {} is not there",
        args.initrd.display(),
        erofs.uuid,
        usual.display()
    ))
    .hint(hint))
}

/// A root that can be one: a file system that the guest mounts, or a directory that can be read to the end.
pub fn root(path: &Path) -> Result<PathBuf> {
    let root = super::canonical("--root", path, "name a disk image or a directory")?;
    if !root.is_dir() {
        Disk::of(&root)?;
        return Ok(root);
    }
    let unreadable: Vec<PathBuf> = unreadable(&root);
    let Some(first) = unreadable.first() else { return Ok(root) };
    let more = if unreadable.len() > 1 { " and others" } else { "" };
    Err(Error::new(format!("--root {}: this user cannot read {}{more}", path.display(), first.display())).hint(
        "run it as root; or make a disk image of it as root once (mkfs.erofs root.erofs DIR) and name that: --root root.erofs",
    ))
}

/// Directories and files below `root` that cannot be read.
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

/// Whether the command is one of the driver's own programs, which a guest without a GPU does not have.
pub fn is_drivers(command: &[String]) -> bool {
    let name = command.first().and_then(|first| first.rsplit('/').next());
    name.is_some_and(|name| TABLE.iter().any(|row| matches!(row.kind, Kind::Program(known) if known == name)))
}

/// The content of a file that is read whole.
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
