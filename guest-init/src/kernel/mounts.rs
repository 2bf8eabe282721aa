//! File systems that PID 1 itself needs.

use image::layout;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io;
use std::path::Path;

/// File systems that a kernel may lack and that a container can run without.
pub const OPTIONAL: [&str; 3] = ["devpts", "cgroup2", "mqueue"];

/// Mounts /proc, /sys, /dev, /dev/pts, /run and cgroup2, and creates guest-init's directories. Existing mounts are kept. Returns
/// the file systems that this kernel lacks.
///
/// # Errors
/// The first failure, with its path.
pub fn early() -> io::Result<Vec<&'static str>> {
    let mut absent = Vec::new();
    let nothing = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (kind, path, flags, options) in [
        ("proc", "/proc", nothing, ""),
        ("sysfs", "/sys", nothing, ""),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
        ("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5"),
        ("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755"),
        // The container must not lift the limit of its group. The kernel accepts the option only here, not in the container's
        // namespace.
        ("cgroup2", "/sys/fs/cgroup", nothing, "nsdelegate"),
    ] {
        match fs::create_dir_all(path) {
            Err(_) if Path::new(path).is_dir() => {}
            // Without control groups in the kernel the mount point does not exist either.
            Err(_) if OPTIONAL.contains(&kind) => {
                absent.push(kind);
                continue;
            }
            result => result?,
        }
        let mounted = match mount(Some(kind), path, Some(kind), flags, Some(options)) {
            // Kernels before 4.13.
            Err(nix::Error::EINVAL) if kind == "cgroup2" => {
                mount(Some(kind), path, Some(kind), flags, None::<&str>)
            }
            result => result,
        };
        match mounted {
            Ok(()) | Err(nix::Error::EBUSY) => {}
            Err(nix::Error::ENODEV) if OPTIONAL.contains(&kind) => absent.push(kind),
            Err(errno) => return Err(io::Error::other(format!("cannot mount {kind} on {path}: {errno}"))),
        }
    }
    for path in
        [layout::RUN_DIR, layout::ROOT_LOWER, layout::ROOT_SCRATCH, layout::ROOT_MERGED, layout::CONFIG_MOUNT]
    {
        fs::create_dir_all(path)?;
    }
    Ok(absent)
}
