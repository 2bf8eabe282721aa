//! Finds disks by name or serial number and file systems by their superblock, each wait with a deadline.

use image::config::Source;
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A disk that was named did not appear, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It did not appear in time.
    #[error("waited {waited} s for disk {wanted}; the guest has {present}")]
    Absent {
        /// What was waited for.
        wanted: String,
        /// Seconds.
        waited: u64,
        /// What there is instead.
        present: String,
    },
    /// It holds no file system we know.
    #[error("{device} holds no file system: expected ext4, erofs or squashfs")]
    NoFileSystem {
        /// Which device.
        device: String,
    },
    /// The kernel refused.
    #[error("{what}")]
    Refused {
        /// What was being done.
        what: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// The device node of a disk, once it is there.
///
/// # Errors
/// [`DiskError::Absent`] after `timeout`.
pub fn find(source: &Source, timeout: Duration) -> Result<PathBuf, DiskError> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(path) = look(source) {
            return Ok(path);
        }
        if Instant::now() >= deadline {
            let present = list().into_iter().map(|(name, serial)| match serial {
                Some(serial) => format!("/dev/{name} (serial {serial})"),
                None => format!("/dev/{name}"),
            });
            let present = present.collect::<Vec<_>>().join(", ");
            return Err(DiskError::Absent {
                wanted: source.to_string(),
                waited: timeout.as_secs(),
                present: if present.is_empty() { "no disk".into() } else { present },
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The device node of a disk, when it is there now.
pub fn look(source: &Source) -> Option<PathBuf> {
    match source {
        Source::Device(path) => Path::new(path).exists().then(|| PathBuf::from(path)),
        Source::Serial(wanted) => {
            let disk = list().into_iter().find(|(_, serial)| serial.as_ref() == Some(wanted));
            disk.map(|(name, _)| PathBuf::from(format!("/dev/{name}"))).filter(|path| path.exists())
        }
        _ => None,
    }
}

/// Whether the disk of a device node has a serial number.
pub fn has_serial(device: &str) -> bool {
    let name = device.trim_start_matches("/dev/");
    list().into_iter().any(|(disk, serial)| disk == name && serial.is_some())
}

/// Names and serial numbers of all disks.
fn list() -> Vec<(String, Option<String>)> {
    list_from(Path::new("/sys/block"))
}

fn list_from(block: &Path) -> Vec<(String, Option<String>)> {
    let mut disks = Vec::new();
    for entry in fs::read_dir(block).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["loop", "ram", "zram"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let serial = fs::read_to_string(entry.path().join("serial")).ok();
        disks.push((name, serial.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())));
    }
    disks.sort();
    disks
}

/// The file system of a device, by its superblock.
///
/// # Errors
/// When it cannot be read, or is none we know.
pub fn file_system(device: &Path) -> Result<&'static str, DiskError> {
    let refused = |source| DiskError::Refused { what: format!("reading {}", device.display()), source };
    let file = File::open(device).map_err(refused)?;
    // Offset and bytes of each superblock's magic.
    let known: [(&str, u64, &[u8]); 3] = [
        ("ext4", 0x438, &[0x53, 0xef]),
        ("erofs", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
        ("squashfs", 0, b"hsqs"),
    ];
    for (name, offset, magic) in known {
        let mut found = [0; 4];
        match file.read_exact_at(&mut found[..magic.len()], offset) {
            Ok(()) if found[..magic.len()] == *magic => return Ok(name),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(refused(error)),
        }
    }
    Err(DiskError::NoFileSystem { device: device.display().to_string() })
}

/// Mounts a disk. Whatever it holds, its device nodes are not ours.
///
/// # Errors
/// When it holds no file system we know, or the kernel refuses it.
pub fn mount_disk(device: &Path, target: &Path, read_only: bool) -> Result<(), DiskError> {
    let kind = file_system(device)?;
    let mut flags = MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, read_only || matches!(kind, "erofs" | "squashfs"));
    mount(Some(device), target, Some(kind), flags, None::<&str>).map_err(|errno| DiskError::Refused {
        what: format!("mounting {} as {kind}", device.display()),
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let image = |name: &str, offset: usize, magic: &[u8]| {
            let mut bytes = vec![0; 2048];
            bytes[offset..offset + magic.len()].copy_from_slice(magic);
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        assert_eq!(file_system(&image("a", 0x438, &[0x53, 0xef])).unwrap(), "ext4");
        assert_eq!(file_system(&image("b", 1024, &0xe0f5_e1e2_u32.to_le_bytes())).unwrap(), "erofs");
        assert_eq!(file_system(&image("c", 0, b"hsqs")).unwrap(), "squashfs");
        assert!(matches!(file_system(&image("d", 0, b"zero")), Err(DiskError::NoFileSystem { .. })));
        fs::write(dir.path().join("e"), "x").unwrap();
        assert!(matches!(file_system(&dir.path().join("e")), Err(DiskError::NoFileSystem { .. })));
    }

    #[test]
    fn an_absent_disk_is_waited_for_and_named() {
        let error = find(&Source::Serial("nope-nope".into()), Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("serial:nope-nope"), "{error}");
    }

    #[test]
    fn disks_are_listed_with_their_serials() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("vda")).unwrap();
        fs::create_dir_all(dir.path().join("loop0")).unwrap();
        fs::write(dir.path().join("vda/serial"), "root\n").unwrap();
        assert_eq!(list_from(dir.path()), [("vda".to_owned(), Some("root".to_owned()))]);
    }
}
