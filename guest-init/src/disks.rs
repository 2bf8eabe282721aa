//! Finds disks by name or serial number and file systems by their superblock, each wait with a deadline.

use image::config::Source;
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the superblock of an EROFS is, and how it begins.
const EROFS_AT: u64 = 1024;
const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();

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
    let described = |(name, serial): (String, Option<String>)| match serial {
        Some(serial) => format!("/dev/{name} (serial {serial})"),
        None => format!("/dev/{name}"),
    };
    wait_for(
        timeout,
        || look(source),
        |waited| DiskError::Absent {
            wanted: source.to_string(),
            waited,
            present: listed(list().into_iter().map(described)),
        },
    )
}

/// The disk whose EROFS has this UUID (lower-case, with hyphens), once it is there.
///
/// # Errors
/// [`DiskError::Absent`] after `timeout`.
pub fn find_erofs(uuid: &str, timeout: Duration) -> Result<PathBuf, DiskError> {
    let described = |(path, found): (PathBuf, Option<String>)| match found {
        Some(found) => format!("{} (EROFS with UUID {found})", path.display()),
        None => path.display().to_string(),
    };
    let disks = || {
        list().into_iter().map(|(name, _)| {
            let path = PathBuf::from(format!("/dev/{name}"));
            let found = erofs_uuid(&path);
            (path, found)
        })
    };
    wait_for(
        timeout,
        || disks().find(|(_, found)| found.as_deref() == Some(uuid)).map(|(path, _)| path),
        |waited| DiskError::Absent { wanted: uuid.into(), waited, present: listed(disks().map(described)) },
    )
}

/// The UUID in the EROFS superblock of a device, if it has one.
///
/// Source: `struct erofs_super_block` in the kernel's fs/erofs/erofs_fs.h.
fn erofs_uuid(device: &Path) -> Option<String> {
    const UUID_AT: usize = 48;
    let mut block = [0; UUID_AT + 16];
    File::open(device).ok()?.read_exact_at(&mut block, EROFS_AT).ok()?;
    if block[..4] != EROFS_MAGIC {
        return None;
    }
    let mut text = image::hex::encode(&block[UUID_AT..]);
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    Some(text)
}

/// Looks again and again until the deadline.
fn wait_for<T>(
    timeout: Duration,
    look: impl Fn() -> Option<T>,
    absent: impl FnOnce(u64) -> DiskError,
) -> Result<T, DiskError> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(absent(timeout.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn listed(disks: impl Iterator<Item = String>) -> String {
    let text = disks.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "no disk".into() } else { text }
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
    let known: [(&str, u64, &[u8]); 3] =
        [("ext4", 0x438, &[0x53, 0xef]), ("erofs", EROFS_AT, &EROFS_MAGIC), ("squashfs", 0, b"hsqs")];
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
    fn an_erofs_is_told_by_its_uuid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let mut bytes = vec![0; 2048];
        bytes[1024..1028].copy_from_slice(&EROFS_MAGIC);
        (0..16).for_each(|at| bytes[1072 + usize::from(at)] = at);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(erofs_uuid(&path).as_deref(), Some("00010203-0405-0607-0809-0a0b0c0d0e0f"));
        bytes[1024] = 0;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(erofs_uuid(&path), None);
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
