//! The GPUs' BARs: an H200 has one of 256 GiB. They must have addresses on the host, and room in a guest.

use super::device::{Bar, Device};
use super::host::Host;
use super::report::Check;

const NAME: &str = "gpu-bars";
const GIB: u64 = 1 << 30;
/// Address bits of a guest whose VMM was told nothing: QEMU's default processor.
const DEFAULT_BITS: u32 = 40;
/// Memory of a guest where none was stated.
const DEFAULT_MEMORY: u64 = 4;

/// All BARs of all GPUs against the address space.
pub fn check(host: &Host, gpus: &[Device], guest_memory: Option<u64>) -> Check {
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
            "turn on \"Above 4G decoding\" and \"Resizable BAR\" in the firmware's settings; else add pci=realloc to the kernel command line",
        )
        .evidence(evidence);
    }
    if gpus.iter().any(|gpu| gpu.bars.is_empty()) {
        return Check::warn(
            NAME,
            "a GPU shows no BARs",
            "wake it, or boot the host again; look at lspci -vv",
        )
        .evidence(evidence);
    }
    let memory = guest_memory.map_or(DEFAULT_MEMORY * GIB, |mib| mib.saturating_mul(1 << 20));
    let end = end(memory, &gpus.iter().flat_map(high).collect::<Vec<_>>());
    let needed = bits(end);
    let Some(host_bits) = host_bits(host) else {
        return Check::warn(
            NAME,
            format!("a guest needs {needed} address bits; how many the processor has is unknown"),
            "compare with /proc/cpuinfo: address sizes",
        )
        .evidence(evidence);
    };
    let what = format!("a guest with them needs {needed} address bits, the processor has {host_bits}");
    let check = if needed > host_bits {
        Check::fail(
            NAME,
            what,
            "give a guest fewer GPUs; in a virtual machine, have its processor show the host's address bits",
        )
    } else if needed > DEFAULT_BITS {
        Check::warn(
            NAME,
            format!("{what}; QEMU's default is {DEFAULT_BITS}"),
            "give the guest the host's: QEMU -cpu host,host-phys-bits=on; Cloud Hypervisor does so by itself",
        )
    } else {
        Check::pass(NAME, what)
    };
    check.evidence(evidence)
}

/// The first address behind memory and BARs: each aligned to its size, the largest first, as firmware and VMMs place
/// them.
fn end(memory: u64, bars: &[u64]) -> u64 {
    let mut sizes: Vec<u64> =
        bars.iter().map(|bar| bar.checked_next_power_of_two().unwrap_or(u64::MAX)).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    // Memory has a gap below 4 GiB.
    let start = memory.saturating_add(4 * GIB);
    let align = |address: u64, size: u64| address.checked_next_multiple_of(size.max(1)).unwrap_or(u64::MAX);
    sizes.iter().fold(start, |address, size| align(address, *size).saturating_add(*size))
}

/// Bits of the addresses below `end`.
fn bits(end: u64) -> u32 {
    u64::BITS - end.saturating_sub(1).leading_zeros()
}

/// `address sizes   : 46 bits physical, 48 bits virtual`.
fn host_bits(host: &Host) -> Option<u32> {
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
