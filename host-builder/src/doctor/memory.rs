//! Memory for guests: huge pages (Documentation/admin-guide/mm/hugetlbpage.rst), and the limit of
//! locked memory. VFIO pins all memory of a guest, and counts it against `RLIMIT_MEMLOCK`
//! (getrlimit(2)).

use super::host::HostRoot;
use super::report::Check;

const POOLS: &str = "/sys/kernel/mm/hugepages";
const KIB_PER_MIB: u64 = 1024;
const MIB: u64 = 1 << 20;
/// `CAP_IPC_LOCK`: a process that has it in the host's initial user namespace is not limited.
const IPC_LOCK: u32 = 14;

/// Pages of one size.
struct Pool {
    kib: u64,
    all: u64,
    free: u64,
}

impl Pool {
    /// Free MiB.
    fn free_mib(&self) -> u64 {
        self.free.saturating_mul(self.kib) / KIB_PER_MIB
    }

    /// Number of pages for `mib` MiB.
    fn pages(&self, mib: u64) -> u64 {
        mib.saturating_mul(KIB_PER_MIB).div_ceil(self.kib)
    }
}

/// Compares free huge pages with the guest's memory in MiB. Huge pages are optional; they make
/// guests faster.
pub fn huge_pages(host: &HostRoot, guest_memory: Option<u64>) -> Check {
    const NAME: &str = "huge-pages";
    let mut pools = pools(host);
    if pools.is_empty() {
        return Check::warn(
            NAME,
            format!("{POOLS} does not exist: the kernel has no huge pages"),
            "optional: guests run on small pages, a little slower",
        );
    }
    pools.sort_by_key(|pool| pool.kib);
    let lines: Vec<_> = pools
        .iter()
        .map(|pool| format!("{} KiB: nr_hugepages {}, free_hugepages {}", pool.kib, pool.all, pool.free))
        .collect();
    let check = match guest_memory {
        Some(wanted) => pool_for(&pools, wanted),
        None if pools.iter().all(|pool| pool.all == 0) => Check::warn(
            NAME,
            "none are reserved for guests",
            format!(
                "optional, for speed; as root: echo PAGES > /proc/sys/vm/nr_hugepages, with {} pages per GiB of guest memory",
                pools[0].pages(1024)
            ),
        ),
        None => Check::pass(NAME, "reserved; pass --guest-memory to check whether they are enough"),
    };
    check.evidence(lines)
}

/// Finds a page size that is enough for the guest. Its memory must come from pages of one size.
fn pool_for(pools: &[Pool], wanted: u64) -> Check {
    const NAME: &str = "huge-pages";
    if let Some(pool) = pools.iter().find(|pool| pool.free_mib() >= wanted) {
        let found = format!(
            "{} MiB free in pages of {} KiB, for a guest with {wanted} MiB",
            pool.free_mib(),
            pool.kib
        );
        return Check::pass(NAME, found);
    }
    let most = pools.iter().map(Pool::free_mib).max().unwrap_or_default();
    let (small, pages) = (&pools[0], pools[0].pages(wanted));
    let used = small.all.saturating_sub(small.free);
    Check::warn(
        NAME,
        format!("{most} MiB free, but a guest with {wanted} MiB needs {pages} pages of {} KiB", small.kib),
        format!("optional, for speed; as root: echo {} > /proc/sys/vm/nr_hugepages", pages + used),
    )
}

fn pools(host: &HostRoot) -> Vec<Pool> {
    let pool = |name: String| {
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok().filter(|kib| *kib > 0)?;
        let number = |file: &str| host.hint(&format!("{POOLS}/{name}/{file}"))?.parse().ok();
        Some(Pool { kib, all: number("nr_hugepages")?, free: number("free_hugepages")? })
    };
    host.names(POOLS).into_iter().filter_map(pool).collect()
}

/// Compares the limit of this process, which guests inherit, with the guest's memory in MiB.
pub fn locked(host: &HostRoot, guest_memory: Option<u64>) -> Check {
    const NAME: &str = "memlock";
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
