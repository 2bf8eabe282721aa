//! Makes the driver files available: plain files in the initramfs, one EROFS image in it, or an EROFS image on a disk that
//! guests share. After [`attach`] they are in one directory, [`Manifest::payload_root`].

use crate::kernel::bounded::bounded;
use crate::kernel::disks;
use crate::kernel::disks::DiskError;
use crate::kernel::kmsg_writer::KernelLog;
use crate::kernel::{loopback, modules, verity};
use image::config::Config;
use image::layout;
use image::manifest::{Erofs, Manifest, Payload, Verity};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The directory that the kernel searches first for firmware. Written without a newline, which would become part of it.
const FIRMWARE_PATH: &str = "/sys/module/firmware_class/parameters/path";
/// Bytes read at a time when the guest itself checks a disk.
const CHUNK: usize = 256 << 10;

/// Why the driver files are not available.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The disk with them did not appear.
    #[error("the disk with the driver files (EROFS with UUID {uuid}) did not appear")]
    DiskMissing {
        /// UUID of its file system.
        uuid: String,
        /// The disks in the guest.
        source: DiskError,
    },
    /// They differ from those that the initrd was built with.
    #[error("the disk with the driver files has changed since it was built: {what}")]
    Altered {
        /// Which disk, and how it differs.
        what: String,
        /// Lines of the kernel's log.
        log: Vec<String>,
    },
    /// The kernel cannot mount them.
    #[error("cannot mount the driver files in {image}: {what}")]
    Unusable {
        /// The image file or disk.
        image: String,
        /// The failed step, and the error of the system.
        what: String,
        /// Lines of the kernel's log.
        log: Vec<String>,
    },
    /// The kernel cannot be told where the firmware is.
    #[error("cannot set the firmware directory: {FIRMWARE_PATH}")]
    Firmware(#[source] io::Error),
}

/// Makes the driver files available. A disk is verified, and is never one of `others`.
///
/// # Errors
/// [`PayloadError`] with the disk that is missing, or what is wrong with it.
pub fn attach(manifest: &Manifest, config: &Config, others: &[PathBuf]) -> Result<(), PayloadError> {
    let mounted = match &manifest.payload {
        Payload::Files => return Ok(()),
        Payload::Image { path, .. } => {
            mount_file(Path::new(path)).map_err(|error| unusable(path, error.to_string(), Vec::new()))
        }
        Payload::Disk { erofs, verity } => attach_disk(erofs, verity, config, others),
    };
    mounted?;
    let firmware = format!("{}{}", layout::PAYLOAD_MOUNT, layout::FIRMWARE_DIR);
    fs::write(FIRMWARE_PATH, &firmware).map_err(PayloadError::Firmware)
}

/// Returns an error if the kernel has read a block of the driver's disk that differs from the build.
pub fn altered(manifest: &Manifest) -> Option<PayloadError> {
    matches!(manifest.payload, Payload::Disk { .. })
        .then(verity::is_corrupted)
        .filter(|corrupted| *corrupted)?;
    let what = "a block does not match the hash tree".into();
    Some(PayloadError::Altered { what, log: KernelLog::all_with("device-mapper: verity") })
}

/// The driver's files in the initramfs, in a boot that does not need them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unneeded {
    paths: Vec<String>,
    /// Their memory in bytes.
    pub bytes: u64,
}

impl Unneeded {
    /// The driver's files of a manifest.
    pub fn of(manifest: &Manifest) -> Self {
        let image = match &manifest.payload {
            Payload::Image { path, erofs } => Some((path.clone(), erofs.size)),
            Payload::Files | Payload::Disk { .. } => None,
        };
        let plain = manifest.archived().filter(|file| file.payload);
        let (paths, sizes): (_, Vec<u64>) =
            plain.map(|file| (file.path.clone(), file.size())).chain(image).unzip();
        Self { paths, bytes: sizes.into_iter().sum() }
    }

    /// Frees their memory.
    pub fn discard(&self) {
        for path in &self.paths {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                log::debug!("cannot free the memory of {path}: {error}");
            }
        }
    }
}

/// Mounts the image file directly if the kernel can (6.12 or later), otherwise through a loop device.
fn mount_file(image: &Path) -> io::Result<()> {
    let direct = mount_erofs(image);
    match direct {
        Ok(()) => Ok(()),
        Err(Errno::ENOTBLK | Errno::EINVAL | Errno::EOPNOTSUPP) => {
            mount_erofs(&loopback::attach(image)?).map_err(io::Error::from)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn mount_erofs(device: &Path) -> nix::Result<()> {
    fs::create_dir_all(layout::PAYLOAD_MOUNT)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    modules::request("fs-erofs");
    let (step, device) = (format!("mounting {}", device.display()), device.to_owned());
    let mounted = bounded(step, move || {
        mount(Some(&device), layout::PAYLOAD_MOUNT, Some("erofs"), flags, None::<&str>)
    });
    mounted.unwrap_or(Err(Errno::ETIMEDOUT))
}

/// Finds the disk. A disk can have any UUID, and so can the container root: disks of the container are excluded, and the
/// first other disk with the pinned content is used.
fn attach_disk(
    erofs: &Erofs,
    verity: &Verity,
    config: &Config,
    others: &[PathBuf],
) -> Result<(), PayloadError> {
    let found = disks::find_erofs(&erofs.uuid, others, config.disk_timeout);
    let found = found.map_err(|source| PayloadError::DiskMissing { uuid: erofs.uuid.clone(), source })?;
    let several = found.len() > 1;
    let mut first = None;
    for disk in found {
        // dm-verity detects a wrong block only when it is read, but with several disks the right one must be chosen now.
        let is_it = if several { read_whole(&disk, erofs) } else { Ok(()) };
        match is_it.and_then(|()| attach_one(&disk, erofs, verity, several)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                log::warn!("{}: {error}", disk.display());
                verity::close();
                first.get_or_insert(error);
            }
        }
    }
    Err(first.expect("at least one disk was found"))
}

/// Lets the kernel check each block when it is read. If the kernel cannot, reads and checks the whole disk once.
fn attach_one(disk: &Path, erofs: &Erofs, verity: &Verity, was_read: bool) -> Result<(), PayloadError> {
    let name = disk.display().to_string();
    let log = KernelLog::here();
    let device = match verity::open(disk, erofs, verity) {
        Ok(device) => device,
        Err(error) if verity::is_absent(&error) => {
            // The disk is checked once, now: later changes are not detected.
            if disks::is_writable(disk) {
                let what = "the kernel has no dm-verity and the disk is writable: attach it read-only";
                return Err(PayloadError::Altered { what: format!("{name}: {what}"), log: Vec::new() });
            }
            log::info!(
                "the kernel has no dm-verity: checking all of {name} once; later reads are not checked"
            );
            if !was_read {
                read_whole(disk, erofs)?;
            }
            disk.to_owned()
        }
        Err(error) => return Err(unusable(&name, format!("dm-verity: {error}"), log.lines())),
    };
    match mount_erofs(&device) {
        Ok(()) => Ok(()),
        Err(_) if verity::is_corrupted() => {
            let what = format!("{name}: its first block does not match the hash tree");
            Err(PayloadError::Altered { what, log: log.lines() })
        }
        Err(errno) => Err(unusable(&name, errno.to_string(), log.lines())),
    }
}

fn unusable(image: &str, what: String, log: Vec<String>) -> PayloadError {
    PayloadError::Unusable { image: image.to_owned(), what, log }
}

fn read_whole(disk: &Path, erofs: &Erofs) -> Result<(), PayloadError> {
    check_digest(disk, erofs).map_err(|error| PayloadError::Altered {
        what: format!("{}: {error}", disk.display()),
        log: Vec::new(),
    })
}

fn check_digest(disk: &Path, erofs: &Erofs) -> Result<(), String> {
    let read = || -> io::Result<(u64, String)> {
        let mut file = File::open(disk)?.take(erofs.size);
        let (mut hasher, mut buffer, mut total) = (Sha256::new(), vec![0; CHUNK], 0);
        loop {
            let got = file.read(&mut buffer)?;
            if got == 0 {
                return Ok((total, image::text::to_hex(&hasher.finalize())));
            }
            hasher.update(&buffer[..got]);
            total += got as u64;
        }
    };
    match read() {
        Ok((_, found)) if found == erofs.sha256 => Ok(()),
        Ok((bytes, found)) => Err(format!(
            "expected {} bytes with sha256 {}, found {bytes} bytes with {found}",
            erofs.size, erofs.sha256
        )),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_checked_to_the_last_byte_that_is_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, "hello, and a tree").unwrap();
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".to_owned();
        let mut erofs = Erofs { uuid: String::new(), size: 5, sha256 };
        check_digest(&path, &erofs).unwrap();
        erofs.size = 4;
        assert!(check_digest(&path, &erofs).unwrap_err().contains("expected 4 bytes"));
        assert!(check_digest(&dir.path().join("none"), &erofs).is_err());
    }
}
