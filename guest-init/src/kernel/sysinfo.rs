//! Reads facts about the machine from the kernel: release, uptime, memory.

use image::status::Memory;
use std::time::Duration;

/// Path of the kernel's memory statistics.
pub const MEMINFO: &str = "/proc/meminfo";

/// `uname -r`.
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".into(), |name| name.release().to_string_lossy().into_owned())
}

/// Returns the milliseconds since the kernel started.
pub fn uptime_ms() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| u64::try_from(Duration::from(time).as_millis()).unwrap_or(u64::MAX))
}

/// Returns the guest's memory now.
pub fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string(MEMINFO).ok()?;
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let (total, available) = (meminfo(&text, "MemTotal:")?, meminfo(&text, "MemAvailable:")?);
    Some(Memory { total, available, init: meminfo(&own, "VmHWM:").unwrap_or(0) })
}

/// Returns a field of [`MEMINFO`], or of a file in the same format, in bytes.
pub fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
