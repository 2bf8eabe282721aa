//! What the kernel says of the machine as a whole: its release, how long it has run, its memory.

use image::status::Memory;
use std::time::Duration;

/// What the kernel says of the guest's memory.
pub const MEMINFO: &str = "/proc/meminfo";

/// `uname -r`.
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".into(), |name| name.release().to_string_lossy().into_owned())
}

/// Milliseconds since the kernel started.
pub fn uptime_ms() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| u64::try_from(Duration::from(time).as_millis()).unwrap_or(u64::MAX))
}

/// The guest's memory now.
pub fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string(MEMINFO).ok()?;
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let (total, available) = (meminfo(&text, "MemTotal:")?, meminfo(&text, "MemAvailable:")?);
    Some(Memory { total, available, init: meminfo(&own, "VmHWM:").unwrap_or(0) })
}

/// A field of [`MEMINFO`], or of a file like it, bytes.
pub fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
