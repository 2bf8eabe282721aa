//! The GPUs' BARs: an H200 has one of 256 GiB. They need addresses on the host, and address space
//! in a guest.

use super::device::{Bar, Device};
use super::host::HostRoot;
use super::report::Check;

const NAME: &str = "gpu-bars";
const GIB: u64 = 1 << 30;
/// Address bits of a guest by default: those of QEMU's default processor.
const DEFAULT_BITS: u32 = 40;
/// Memory of a guest if none was given.
const DEFAULT_MEMORY: u64 = 4;

/// Compares all BARs of all GPUs with the address space.
pub fn check(host: &HostRoot, gpus: &[Device], guest_memory: Option<u64>) -> Check {
    let high = |gpu: &Device| gpu.bars.iter().filter(|bar| bar.high).map(|bar| bar.size).collect::<Vec<_>>();
    let line = |gpu: &Device| {
        let bars = gpu.bars.iter().map(|bar| format!("BAR{} {}", bar.number, size(bar.size)));
        format!("{}: {}", gpu.bdf, bars.collect::<Vec<_>>().join(", "))
    };
    let evidence: Vec<_> = gpus.iter().map(line).collect();
    let unassigned: Vec<_> = gpus.iter().filter(|gpu| gpu.bars.iter().any(|bar| !bar.assigned)).collect();
    if let Some(gpu) = unassigned.first() {
        let bars = gpu.bars.iter().filter(|bar| !bar.assigned).map(|bar: &Bar| format!("BAR{}", bar.number));
        return Check::fail(
            NAME,
            format!("{}: {} without an address", gpu.bdf, bars.collect::<Vec<_>>().join(", ")),
            "enable \"Above 4G decoding\" and \"Resizable BAR\" in the firmware settings; if that does not help, add pci=realloc to the kernel command line",
        )
        .evidence(evidence);
    }
    if gpus.iter().any(|gpu| gpu.bars.is_empty()) {
        return Check::warn(NAME, "a GPU has no BARs", "wake the GPU or reboot the host; check lspci -vv")
            .evidence(evidence);
    }
    let memory = guest_memory.map_or(DEFAULT_MEMORY * GIB, |mib| mib.saturating_mul(1 << 20));
    let end = end(memory, &gpus.iter().flat_map(high).collect::<Vec<_>>());
    let needed = bits(end);
    let Some(host_bits) = host_bits(host) else {
        return Check::warn(
            NAME,
            format!("a guest needs {needed} address bits; the number of the processor is unknown"),
            "compare it with \"address sizes\" in /proc/cpuinfo",
        )
        .evidence(evidence);
    };
    let what = format!("a guest with these GPUs needs {needed} address bits, the processor has {host_bits}");
    let check = if needed > host_bits {
        Check::fail(
            NAME,
            what,
            "use fewer GPUs per guest; in a virtual machine, configure its processor with the host's address bits",
        )
    } else if needed > DEFAULT_BITS {
        Check::warn(
            NAME,
            format!("{what}; QEMU's default is {DEFAULT_BITS}"),
            "use the host's address bits: QEMU -cpu host,host-phys-bits=on; Cloud Hypervisor does this by default",
        )
    } else {
        Check::pass(NAME, what)
    };
    check.evidence(evidence)
}

/// The first address after memory and BARs. BARs are aligned to their size, the largest first, as
/// firmware and VMMs place them.
fn end(memory: u64, bars: &[u64]) -> u64 {
    let mut sizes: Vec<u64> =
        bars.iter().map(|bar| bar.checked_next_power_of_two().unwrap_or(u64::MAX)).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    // Memory has a gap below 4 GiB.
    let start = memory.saturating_add(4 * GIB);
    let align = |address: u64, size: u64| address.checked_next_multiple_of(size.max(1)).unwrap_or(u64::MAX);
    sizes.iter().fold(start, |address, size| align(address, *size).saturating_add(*size))
}

/// Number of bits of the addresses below `end`.
fn bits(end: u64) -> u32 {
    u64::BITS - end.saturating_sub(1).leading_zeros()
}

/// Parses `address sizes   : 46 bits physical, 48 bits virtual`.
fn host_bits(host: &HostRoot) -> Option<u32> {
    host.cpu("address sizes")?.split_whitespace().next()?.parse().ok()
}

fn size(bytes: u64) -> String {
    match bytes {
        GIB.. => format!("{} GiB", bytes / GIB),
        0x10_0000.. => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bar_stands_at_a_multiple_of_its_size() {
        assert_eq!(end(4 * GIB, &[256 * GIB, 32 << 20]), 512 * GIB + (32 << 20));
        assert_eq!(bits(512 * GIB), 39);
        assert_eq!(bits(512 * GIB + 1), 40);
        assert_eq!(end(u64::MAX, &[u64::MAX, 3]), u64::MAX);
    }
}
