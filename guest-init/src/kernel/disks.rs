//! Finds disks by name or serial number, and file systems by their superblock. Every wait has a deadline.

use super::bounded::{TimedOut, bounded};
use super::modules;
use image::config::Source;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Offset of the superblock of an EROFS, and its magic.
const EROFS_AT: u64 = 1024;
const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();
/// The file systems of disks, with offset and bytes of each superblock's magic.
const FILE_SYSTEMS: [(&str, u64, &[u8]); 3] =
    [("ext4", 0x438, &[0x53, 0xef]), ("erofs", EROFS_AT, &EROFS_MAGIC), ("squashfs", 0, b"hsqs")];

/// A configured disk did not appear, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It did not appear in time.
    #[error("disk {wanted} did not appear within {waited} s; the guest has {present}")]
    Absent {
        /// The configured disk.
        wanted: String,
        /// Seconds.
        waited: u64,
        /// The disks in the guest.
        present: String,
    },
    /// It has no supported file system.
    #[error("no supported file system on {device}: expected ext4, erofs or squashfs")]
    NoFileSystem {
        /// Which device.
        device: String,
    },
    /// It does not respond.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// The kernel refused.
    #[error("{what}")]
    Refused {
        /// The operation that failed.
        what: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

/// Waits for a disk, and returns its device node.
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

/// Waits for disks, except these, with an EROFS of this UUID (lower-case, with hyphens). A disk can have any UUID: the caller
/// must check its content.
///
/// # Errors
/// [`DiskError::Absent`] after `timeout`.
pub fn find_erofs(uuid: &str, but: &[PathBuf], timeout: Duration) -> Result<Vec<PathBuf>, DiskError> {
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
        || {
            let is_it = |(path, found): &(PathBuf, Option<String>)| {
                found.as_deref() == Some(uuid) && !but.contains(path)
            };
            let found: Vec<_> = disks().filter(is_it).map(|(path, _)| path).collect();
            (!found.is_empty()).then_some(found)
        },
        |waited| DiskError::Absent { wanted: uuid.into(), waited, present: listed(disks().map(described)) },
    )
}

/// Reads the UUID in the EROFS superblock of a device, if it has one.
///
/// Source: `struct erofs_super_block` in the kernel's fs/erofs/erofs_fs.h.
fn erofs_uuid(device: &Path) -> Option<String> {
    const UUID_AT: usize = 48;
    let mut block = [0; UUID_AT + 16];
    File::open(device).ok()?.read_exact_at(&mut block, EROFS_AT).ok()?;
    if block[..4] != EROFS_MAGIC {
        return None;
    }
    let mut text = image::text::to_hex(&block[UUID_AT..]);
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    Some(text)
}

/// Polls until the deadline.
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
        // A device that appears late.
        modules::for_devices();
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

/// Returns the device node of a disk if it is present now.
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

/// Returns whether all of these device nodes exist and none of their disks has a serial number.
pub fn are_without_serials(devices: [&str; 3]) -> bool {
    let disks = list();
    devices.iter().all(|device| {
        let name = device.trim_start_matches("/dev/");
        disks.iter().any(|(disk, serial)| disk == name && serial.is_none())
    })
}

/// Returns whether a disk is writable.
pub fn is_writable(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default();
    fs::read_to_string(Path::new("/sys/block").join(name).join("ro")).is_ok_and(|text| text.trim() == "0")
}

/// Returns the names and serial numbers of all disks.
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

/// Detects the file system of a device from its superblock.
///
/// # Errors
/// If the device cannot be read or has no supported file system.
pub fn file_system(device: &Path) -> Result<&'static str, DiskError> {
    let refused = |source| DiskError::Refused { what: format!("reading {}", device.display()), source };
    let file = File::open(device).map_err(refused)?;
    for (name, offset, magic) in FILE_SYSTEMS {
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

/// Loads the module that mounting a disk needs: of its file system, or, if the disk is not there yet, of all of them.
pub fn load_file_system(source: &Source) {
    let found = look(source).and_then(|device| file_system(&device).ok());
    for kind in found.map_or(FILE_SYSTEMS.map(|(name, ..)| name).to_vec(), |kind| vec![kind]) {
        modules::request(&format!("fs-{kind}"));
    }
}

/// Mounts a disk. Device nodes on it have no effect.
///
/// # Errors
/// If it has no supported file system, or the kernel refuses it.
pub fn mount_disk(device: &Path, target: &Path, read_only: bool) -> Result<(), DiskError> {
    let (device, target) = (device.to_owned(), target.to_owned());
    let step = format!("mounting {}", device.display());
    bounded(step, move || mount_now(&device, &target, read_only))?
}

fn mount_now(device: &Path, target: &Path, read_only: bool) -> Result<(), DiskError> {
    let kind = file_system(device)?;
    modules::request(&format!("fs-{kind}"));
    if let Err(error) = set_read_only(device, read_only) {
        log::warn!("{}: cannot set the read-only flag of the disk: {error}", device.display());
    }
    let mut flags = MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, read_only || matches!(kind, "erofs" | "squashfs"));
    mount(Some(device), target, Some(kind), flags, options(kind, read_only)).map_err(|errno| {
        DiskError::Refused { what: format!("mounting {} as {kind}", device.display()), source: errno.into() }
    })
}

/// `_IO(0x12, 93)` of linux/fs.h.
const BLKROSET: libc::c_int = 0x125d;
/// Unmounts a disk, and clears the read-only flag.
pub fn unmount_disk(device: &Path, target: &Path) -> nix::Result<()> {
    let done = nix::mount::umount(target);
    // A disk that the host attached read-only stays read-only.
    let _ = set_read_only(device, false);
    done
}

nix::ioctl_write_ptr_bad!(
    /// Says that a block device is not to be written to, which file systems obey, or takes it back.
    block_set_read_only,
    BLKROSET,
    libc::c_int
);

/// Sets or clears the read-only flag of a disk. Without it, even a read-only mount writes errors to the disk.
fn set_read_only(device: &Path, read_only: bool) -> io::Result<()> {
    let disk = File::open(device)?;
    // SAFETY: the descriptor is open, and the argument is an integer of ours that lives during the call.
    unsafe { block_set_read_only(disk.as_raw_fd(), &libc::c_int::from(read_only)) }?;
    Ok(())
}

/// Returns mount options. A damaged file system must not make the kernel panic, although its superblock can request that. A
/// read-only mount must not write, not even to replay the journal.
fn options(kind: &str, read_only: bool) -> Option<&'static str> {
    match (kind, read_only) {
        ("ext4", true) => Some("errors=remount-ro,noload"),
        ("ext4", false) => Some("errors=remount-ro"),
        _ => None,
    }
}

/// The two directories for an overlay's writes, on a disk or in memory.
pub struct Scratch {
    upper: OwnedFd,
    work: OwnedFd,
}

impl Scratch {
    /// Opens the directories in the file system mounted on `place`, and creates missing ones. Another guest may have written the
    /// disk, so links are not followed.
    ///
    /// # Errors
    /// If one is not a directory.
    pub fn of(place: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let top = open(place, flags, Mode::empty())?;
        let directory = |name: &str| {
            match mkdirat(&top, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(io::Error::from(errno)),
            }
            openat(&top, name, flags, Mode::empty()).map_err(|errno| {
                io::Error::other(format!(
                    "{name} on {}: expected a directory that is not a link: {errno}",
                    place.display()
                ))
            })
        };
        Ok(Self { upper: directory("upper")?, work: directory("work")? })
    }

    /// Returns the options of an overlay over these layers that writes here. The caller keeps `self` until it is mounted.
    pub fn overlay(&self, lower: &str) -> String {
        let place = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        format!("lowerdir={lower},upperdir={},workdir={}", place(&self.upper), place(&self.work))
    }
}

/// Returns the path of a numbered device node, as in devtmpfs.
pub(super) fn node(prefix: &str, number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/{prefix}{number}"))
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
    fn no_link_of_a_disk_is_followed_to_what_takes_an_overlays_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (place, outside) = (dir.path().join("disk"), dir.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&place).unwrap();
        let options = Scratch::of(&place).unwrap().overlay("/lower");
        assert!(options.starts_with("lowerdir=/lower,upperdir=/proc/self/fd/"), "{options}");
        assert!(place.join("upper").is_dir() && place.join("work").is_dir());
        for name in ["upper", "work"] {
            fs::remove_dir(place.join(name)).unwrap();
            for target in ["../outside", "/", "nowhere"] {
                std::os::unix::fs::symlink(target, place.join(name)).unwrap();
                let error = Scratch::of(&place).err().unwrap().to_string();
                assert!(error.contains(&format!("{name} on")) && error.contains("not a link"), "{error}");
                fs::remove_file(place.join(name)).unwrap();
            }
            fs::create_dir(place.join(name)).unwrap();
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_disk_panics_no_kernel_and_one_to_read_is_not_written_to() {
        assert_eq!(options("ext4", true), Some("errors=remount-ro,noload"));
        assert_eq!(options("ext4", false), Some("errors=remount-ro"));
        assert_eq!(options("erofs", true), None);
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
