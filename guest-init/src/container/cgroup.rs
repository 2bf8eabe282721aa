//! The container's control group: reserves resources for the kernel and PID 1, counts out-of-memory kills, and kills the
//! processes that the container left running.

use nix::libc;
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ROOT: &str = "/sys/fs/cgroup";
const CONTAINER: &str = "/sys/fs/cgroup/container";

/// Memory in bytes that is reserved for PID 1, the kernel and answers to the host. In a small guest it is a quarter of the
/// available memory.
const RESERVE: u64 = 32 << 20;

/// Maximum depth of nested groups that are removed.
const MAX_DEPTH: usize = 64;

/// The container's cpu.weight per processor; kernel threads have 100. A kernel thread with a packet for the host should not
/// wait some milliseconds for the time slice of a busy program to end.
const WEIGHT_PER_CPU: usize = 3;
/// The kernel's default weight of a group. With many processors a lower weight makes the load of the group too small to be
/// balanced between them.
const DEFAULT_WEIGHT: usize = 100;

/// How often [`end_at_limit`] has killed the group.
static ENDED: AtomicU64 = AtomicU64::new(0);
/// Whether it has done so in this run.
static IS_ENDED: AtomicBool = AtomicBool::new(false);
/// Memory use in percent of the limit at which a group counts as full.
const AT_LIMIT: u64 = 95;

/// Creates the group, without controllers that the kernel does not support.
pub fn create() {
    for controller in ["+memory", "+pids", "+cpu", "+io"] {
        let _ = fs::write(Path::new(ROOT).join("cgroup.subtree_control"), controller);
    }
    if let Err(error) = fs::create_dir_all(CONTAINER) {
        log::warn!("cgroup: {CONTAINER}: {error}");
        return;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if let Err(error) = fs::write(Path::new(CONTAINER).join("cpu.weight"), weight(cpus).to_string()) {
        log::info!("cgroup: a busy container may delay answers to the host: cannot set cpu.weight: {error}");
    }
}

/// Limits the memory of the group to what is available now, after everything else in the guest has what it needs. Without a limit, a
/// container that uses all memory would force the whole guest into reclaim for minutes before the kernel kills a process. `more` bytes are
/// about to be freed.
pub fn limit_memory(more: u64) {
    let meminfo = fs::read_to_string(crate::kernel::sysinfo::MEMINFO).unwrap_or_default();
    if let Some(limit) = memory_limit(&meminfo, more)
        && Path::new(CONTAINER).exists()
        && let Err(error) = fs::write(Path::new(CONTAINER).join("memory.max"), limit.to_string())
    {
        log::warn!("cgroup: cannot limit the container's memory: {error}");
    }
}

/// Returns the available memory minus the reserve.
fn memory_limit(meminfo: &str, more: u64) -> Option<u64> {
    let available = crate::kernel::sysinfo::meminfo(meminfo, "MemAvailable:")?.saturating_add(more);
    Some(available - RESERVE.min(available / 4)).filter(|limit| *limit > 0)
}

/// Returns the group's weight for this number of processors, over which its share is spread.
fn weight(cpus: usize) -> usize {
    cpus.saturating_mul(WEIGHT_PER_CPU).min(DEFAULT_WEIGHT)
}

/// Removes the nested groups of an earlier run, which would prevent the next run from joining. No process is in the group.
pub fn reset() {
    IS_ENDED.store(false, Ordering::Relaxed);
    let _ = fs::write(Path::new(CONTAINER).join("cgroup.subtree_control"), "-memory -pids -cpu -io");
    remove_groups(Path::new(CONTAINER), MAX_DEPTH);
}

/// Removes the groups below `group`, the deepest first.
fn remove_groups(group: &Path, depth: usize) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                remove_groups(&entry.path(), depth - 1);
            }
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Moves the calling process into the group, if the kernel supports control groups.
///
/// # Errors
/// If the group exists but cannot be joined: outside of it the process would have no limits.
pub(super) fn join() -> io::Result<()> {
    match fs::write(Path::new(CONTAINER).join("cgroup.procs"), "0") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// [`join`] for a process that joins the running container. If the container has divided the group, the kernel lets no process join it;
/// the process then joins the group of the container's PID 1.
///
/// # Errors
/// If neither can be joined.
pub(super) fn join_beside(first: Pid) -> io::Result<()> {
    match join() {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let text = fs::read_to_string(format!("/proc/{first}/cgroup"))?;
            let group = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            fs::write(Path::new(ROOT).join(group).join("cgroup.procs"), "0")
        }
        result => result,
    }
}

/// Returns the number of out-of-memory kills in the group. A kill of the whole group by [`end_at_limit`] counts as one.
pub fn oom_kills() -> u64 {
    let text = fs::read_to_string(Path::new(CONTAINER).join("memory.events")).unwrap_or_default();
    parse_oom_kills(&text) + ENDED.load(Ordering::Relaxed)
}

/// Kills a group that is at its limit and has no process that the kernel may kill, and which would hang otherwise.
/// A nested group at a limit of its own is the container's responsibility.
pub fn end_at_limit() {
    let read =
        |name: &str| fs::read_to_string(Path::new(CONTAINER).join(name)).ok()?.trim().parse::<u64>().ok();
    let full = read("memory.current").zip(read("memory.max"));
    let is_full =
        full.is_none_or(|(current, max)| current.saturating_mul(100) >= max.saturating_mul(AT_LIMIT));
    if is_full && !IS_ENDED.swap(true, Ordering::Relaxed) {
        ENDED.fetch_add(1, Ordering::Relaxed);
        kill_all();
    }
}

fn parse_oom_kills(events: &str) -> u64 {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Kills every process in the group.
pub fn kill_all() {
    let _ = fs::write(Path::new(CONTAINER).join("cgroup.kill"), "1");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_and_group_kills_are_not_mistaken_for_them() {
        assert_eq!(parse_oom_kills("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(parse_oom_kills(""), 0);
    }

    #[test]
    fn the_kernel_comes_first_in_a_small_guest_and_a_large_one_is_balanced() {
        assert_eq!((weight(1), weight(4)), (3, 12));
        assert_eq!((weight(64), weight(usize::MAX)), (DEFAULT_WEIGHT, DEFAULT_WEIGHT));
    }

    #[test]
    fn the_limit_leaves_the_reserve() {
        let text = "MemTotal:  2000000 kB\nMemAvailable:     131072 kB\n";
        assert_eq!(memory_limit(text, 0), Some((128 << 20) - RESERVE));
        assert_eq!(memory_limit(text, 9 << 20), Some((137 << 20) - RESERVE));
        assert_eq!(memory_limit("MemAvailable: 32768 kB\n", 0), Some(24 << 20));
        assert_eq!(memory_limit("MemAvailable: 0 kB\n", 0), None);
        assert_eq!(memory_limit("", 0), None);
    }
}
