//! The limit of locked memory: VFIO pins all memory of a guest, and counts it against `RLIMIT_MEMLOCK` (getrlimit(2)).

use super::host::HostRoot;
use super::report::Check;

const NAME: &str = "memlock";
const MIB: u64 = 1 << 20;
/// `CAP_IPC_LOCK`: a process that has it in the host's initial user namespace is not limited.
const IPC_LOCK: u32 = 14;

/// Compares the limit of this process, which guests inherit, with the guest's memory in MiB.
pub fn check(host: &HostRoot, guest_memory: Option<u64>) -> Check {
    let remedy = "run ulimit -l unlimited; or permanently: LimitMEMLOCK=infinity in the service's unit, or `USER - memlock unlimited` in /etc/security/limits.d";
    let text = match host.text("/proc/self/limits") {
        Ok(Some(text)) => text,
        Ok(None) => return Check::warn(NAME, "unknown: there is no /proc/self/limits", remedy),
        Err(error) => return Check::warn(NAME, format!("unknown: {}", error.chain()), remedy),
    };
    let line = text.lines().find(|line| line.starts_with("Max locked memory")).unwrap_or_default();
    let soft = line.trim_start_matches("Max locked memory").split_whitespace().next().unwrap_or_default();
    if has_ipc_lock(host) {
        let limit =
            soft.parse::<u64>().map_or_else(|_| soft.to_owned(), |bytes| format!("{} MiB", bytes / MIB));
        return Check::pass(
            NAME,
            format!("not limited: this user has CAP_IPC_LOCK; for others it is {limit}"),
        );
    }
    if soft == "unlimited" {
        return Check::pass(NAME, "unlimited");
    }
    let Ok(bytes) = soft.parse::<u64>() else {
        return Check::warn(NAME, "unknown: /proc/self/limits has no value for locked memory", remedy);
    };
    let mib = bytes / MIB;
    match guest_memory {
        Some(wanted) if mib <= wanted => Check::fail(
            NAME,
            format!(
                "{mib} MiB may be locked, but a guest with {wanted} MiB needs all of its memory locked, and some for its devices"
            ),
            remedy,
        ),
        Some(wanted) => {
            Check::pass(NAME, format!("{mib} MiB may be locked, more than the guest's {wanted} MiB"))
        }
        None => Check::warn(
            NAME,
            format!("{mib} MiB may be locked: guests with a GPU must have less memory"),
            remedy,
        ),
    }
}

/// VFIO ignores capabilities of other user namespaces. The initial one maps every user to itself.
fn is_in_first_namespace(host: &HostRoot) -> bool {
    let map = host.hint("/proc/self/uid_map");
    map.is_none_or(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

fn has_ipc_lock(host: &HostRoot) -> bool {
    if !is_in_first_namespace(host) {
        return false;
    }
    let status = host.hint("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    set & (1 << IPC_LOCK) != 0
}
