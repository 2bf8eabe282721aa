//! What the container's processes cannot do, and cannot see of ours.

use super::step::step;
use image::config::Capabilities;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io;
use std::path::Path;

/// The kernel keeps a set of them in so many bits.
const MAX_CAPABILITIES: u8 = 64;

/// Files of /proc that set up the whole guest, and directories of such, as far as the kernel has them.
const READ_ONLY: [&str; 6] =
    ["/proc/bus", "/proc/dynamic_debug", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// What tells more of the guest than a container's matters: its memory, keys, timers, firmware.
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

/// The PID 1 of the container is ours: what it holds, and the file that it runs, are nobody's to look at or to trace. (Whoever
/// has `CAP_SYS_PTRACE` can.)
pub fn hide() {
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::prctl::set_name(c"gpu-initrd");
}

/// Leaves the reaper what it needs: to signal programs of other users. It is as little as a container of any capabilities has, so that
/// who may trace it gains nothing.
///
/// # Errors
/// What could not be given up, and why.
pub fn keep_little(of: Capabilities) -> Result<(), String> {
    bound(of)?;
    let header = [CAPABILITY_VERSION_3, 0];
    // Effective, permitted, inheritable: of the lower 32 capabilities, then of the others.
    let sets: [u32; 6] = [CAP_KILL, CAP_KILL, 0, 0, 0, 0];
    // SAFETY: capset(2) reads a header of two words and two sets of three, which these are, and keeps neither.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    nix::Error::result(result).map(drop).map_err(|errno| format!("cannot drop capabilities: {errno}"))
}

/// Takes every other capability out of what this process's programs can ever have; those that it has now stay until it executes
/// one.
///
/// # Errors
/// The capability that could not be taken, and why.
pub fn bound(keep: Capabilities) -> Result<(), String> {
    for number in (0..MAX_CAPABILITIES).filter(|number| !keep.has(*number)) {
        // SAFETY: the arguments are integers; prctl(2) touches no memory for this option.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        match nix::Error::result(result) {
            Ok(_) => {}
            // Beyond the last that this kernel has.
            Err(nix::Error::EINVAL) => return Ok(()),
            Err(errno) => return Err(format!("cannot drop capability {number}: {errno}")),
        }
    }
    Ok(())
}

/// What a container engine's default does for containers without `CAP_SYS_ADMIN`, who cannot undo it: the owner of a file may
/// write to it without any capability, and root owns all of them. These device nodes stay, and those that it makes have no effect.
///
/// # Errors
/// What failed, and where.
pub fn mounts(nodes: impl Iterator<Item = String>) -> Result<(), String> {
    let read_only = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // In a user namespace it would have every capability again, and all of the kernel that only they reach.
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

/// Gives a mount these options, and leaves its file system as it is.
fn remount(path: &str, flags: MsFlags) -> Result<(), String> {
    let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    step(&format!("remounting {path}"), mount(None::<&str>, path, None::<&str>, flags, None::<&str>))
}
