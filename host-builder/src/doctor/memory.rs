//! Huge pages (Documentation/admin-guide/mm/hugetlbpage.rst).

use super::host::HostRoot;
use super::report::Check;

const NAME: &str = "huge-pages";
const POOLS: &str = "/sys/kernel/mm/hugepages";
const KIB_PER_MIB: u64 = 1024;

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

/// Compares free huge pages with the guest's memory in MiB. Huge pages are optional; they make guests faster.
pub fn check(host: &HostRoot, guest_memory: Option<u64>) -> Check {
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
        Some(wanted) => against(&pools, wanted),
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
fn against(pools: &[Pool], wanted: u64) -> Check {
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
