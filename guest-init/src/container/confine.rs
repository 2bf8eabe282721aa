//! Restricts what the container's processes can do and see.

use super::step::step;
use image::config::Capabilities;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io;
use std::path::Path;

/// Number of bits in a capability set of the kernel.
const MAX_CAPABILITIES: u8 = 64;

/// Files and directories in /proc that configure the whole guest, if the kernel has them.
const READ_ONLY: [&str; 6] =
    ["/proc/bus", "/proc/dynamic_debug", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Files that expose the guest outside of the container: its memory, keys, timers, firmware.
const MASKED: [&str; 18] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// linux/capability.h: `_LINUX_CAPABILITY_VERSION_3`, and the bit of `CAP_KILL`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_KILL: u32 = 1 << 5;
/// Bits of `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER` and `CAP_FSETID`.
const CAPS_FOR_FILES: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 4;

/// Makes this process, the container's PID 1, undumpable, so that the container can neither inspect nor trace it (except
/// with `CAP_SYS_PTRACE`).
pub fn hide() {
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::prctl::set_name(c"gpu-initrd");
}

/// Drops all capabilities of the reaper except the one to signal programs of other users, so that a process that can trace
/// it gains nothing.
///
/// # Errors
/// The capabilities that could not be dropped, and why.
pub fn keep_little(of: Capabilities) -> Result<(), String> {
    bound(of)?;
    keep(CAP_KILL)
}

/// Drops all capabilities of a process that copies files for the host, except those to read and write all files.
///
/// # Errors
/// Why they could not be dropped.
pub fn keep_for_copies() -> Result<(), String> {
    keep(CAPS_FOR_FILES)
}

/// Drops all capabilities except these of the lower 32.
fn keep(capabilities: u32) -> Result<(), String> {
    let header = [CAPABILITY_VERSION_3, 0];
    // Effective, permitted, inheritable: of the lower 32 capabilities, then of the others.
    let sets: [u32; 6] = [capabilities, capabilities, 0, 0, 0, 0];
    // SAFETY: capset(2) reads a header of two words and two sets of three, which these are, and keeps neither.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    nix::Error::result(result).map(drop).map_err(|errno| format!("cannot drop capabilities: {errno}"))
}

/// Drops every other capability from the bounding set. The current capabilities of this process stay until it executes a
/// program.
///
/// # Errors
/// The capability that could not be dropped, and why.
pub fn bound(keep: Capabilities) -> Result<(), String> {
    for number in (0..MAX_CAPABILITIES).filter(|number| !keep.has(*number)) {
        // SAFETY: the arguments are integers; prctl(2) touches no memory for this option.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        match nix::Error::result(result) {
            Ok(_) => {}
            // Beyond the last capability of this kernel.
            Err(nix::Error::EINVAL) => return Ok(()),
            Err(errno) => return Err(format!("cannot drop capability {number}: {errno}")),
        }
    }
    Ok(())
}

/// Masks and remounts files as container engines do by default. A container without `CAP_SYS_ADMIN` cannot undo it, but root
/// could otherwise write to these files as their owner. `nodes` stay usable; device nodes that the container creates do not work.
///
/// # Errors
/// What failed, and where.
pub fn mounts(nodes: impl Iterator<Item = String>) -> Result<(), String> {
    let read_only = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // In a user namespace the container would regain every capability.
    match fs::write("/proc/sys/user/max_user_namespaces", "0") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(format!("cannot disable user namespaces: {error}"));
        }
        _ => {}
    }
    for path in READ_ONLY.into_iter().filter(|path| Path::new(path).exists()) {
        bind(path, path)?;
        remount(path, read_only)?;
    }
    for path in MASKED.into_iter().filter(|path| Path::new(path).exists()) {
        if Path::new(path).is_dir() {
            let empty = mount(Some("tmpfs"), path, Some("tmpfs"), read_only, Some("size=0,mode=0755"));
            step(&format!("masking {path}"), empty)?;
        } else {
            bind("/dev/null", path)?;
        }
    }
    for path in nodes {
        bind(&path, &path)?;
    }
    remount("/dev", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_STRICTATIME)
}

fn bind(from: &str, to: &str) -> Result<(), String> {
    let bound = mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    step(&format!("mounting {from} on {to}"), bound)
}

/// Changes the options of a mount, but not of its file system.
fn remount(path: &str, flags: MsFlags) -> Result<(), String> {
    let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    step(&format!("remounting {path}"), mount(None::<&str>, path, None::<&str>, flags, None::<&str>))
}
