//! Huge pages (Documentation/admin-guide/mm/hugetlbpage.rst).

use super::host::Host;
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
    /// MiB that are free.
    fn free_mib(&self) -> u64 {
        self.free.saturating_mul(self.kib) / KIB_PER_MIB
    }

    /// Pages for so many MiB.
    fn pages(&self, mib: u64) -> u64 {
        mib.saturating_mul(KIB_PER_MIB).div_ceil(self.kib)
    }
}

/// Free huge pages against the guest's memory in MiB. They make guests faster; none has to have them.
pub fn check(host: &Host, guest_memory: Option<u64>) -> Check {
    let mut pools = pools(host);
    if pools.is_empty() {
        return Check::warn(
            NAME,
            format!("{POOLS} is not there: the kernel has no huge pages"),
            "optional; guests run on small pages, a little slower",
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
            "none is set aside for guests",
            format!(
                "optional, for speed; as root: echo PAGES > /proc/sys/vm/nr_hugepages, {} pages for each GiB of guests",
                pools[0].pages(1024)
            ),
        ),
        None => Check::pass(NAME, "set aside; --guest-memory says whether they suffice"),
    };
    check.evidence(lines)
}

/// A guest's memory comes from pages of one size.
fn against(pools: &[Pool], wanted: u64) -> Check {
    if let Some(pool) = pools.iter().find(|pool| pool.free_mib() >= wanted) {
        let found =
            format!("{} MiB free in pages of {} KiB, for a guest of {wanted}", pool.free_mib(), pool.kib);
        return Check::pass(NAME, found);
    }
    let most = pools.iter().map(Pool::free_mib).max().unwrap_or_default();
    let (small, pages) = (&pools[0], pools[0].pages(wanted));
    let used = small.all.saturating_sub(small.free);
    Check::warn(
        NAME,
        format!("{most} MiB free, a guest of {wanted} MiB would need {pages} pages of {} KiB", small.kib),
        format!("optional, for speed; as root: echo {} > /proc/sys/vm/nr_hugepages", pages + used),
    )
}

fn pools(host: &Host) -> Vec<Pool> {
    let pool = |name: String| {
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok().filter(|kib| *kib > 0)?;
        let number = |file: &str| host.hint(&format!("{POOLS}/{name}/{file}"))?.parse().ok();
        Some(Pool { kib, all: number("nr_hugepages")?, free: number("free_hugepages")? })
    };
    host.names(POOLS).into_iter().filter_map(pool).collect()
}
