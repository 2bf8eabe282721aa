//! PCI devices in sysfs (Documentation/ABI/testing/sysfs-bus-pci).

use super::host::HostRoot;
use image::pci::{self, DEVICES};

/// Number of lines of `resource` that are BARs. The lines after them are the ROM and the windows of
/// bridges.
const BARS: usize = 6;
/// `IORESOURCE_MEM`, `IORESOURCE_PREFETCH`, `IORESOURCE_MEM_64`, `IORESOURCE_UNSET`
/// (include/linux/ioport.h).
const MEMORY: u64 = 0x200;
const PREFETCH: u64 = 0x2000;
const WIDE: u64 = 0x10_0000;
const UNSET: u64 = 0x2000_0000;

/// Drivers that pass a device to user space: VFIO's own, and the one for GPUs of Grace.
const VFIO: [&str; 2] = ["vfio-pci", "nvgrace_gpu_vfio_pci"];

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its address, `0000:01:00.0`.
    pub bdf: String,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub product: u16,
    /// Base class and subclass: `0x0302`.
    pub class: u16,
    /// The driver that it is bound to.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub group: Option<String>,
    /// Its BARs.
    pub bars: Vec<Bar>,
}

/// A memory region of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Number, from 0.
    pub number: usize,
    /// Bytes.
    pub size: u64,
    /// Whether it is placed above 4 GiB: 64-bit and prefetchable.
    pub high: bool,
    /// Whether it has an address.
    pub assigned: bool,
}

impl Device {
    /// All devices of a host, by address.
    pub fn all(host: &HostRoot) -> Vec<Self> {
        host.names(DEVICES).into_iter().filter_map(|bdf| Self::read(host, &bdf)).collect()
    }

    /// The device at an address; `None` if there is none.
    pub fn read(host: &HostRoot, bdf: &str) -> Option<Self> {
        let at = |name: &str| format!("{DEVICES}/{bdf}/{name}");
        let number = |name: &str| pci::number(&host.hint(&at(name))?);
        Some(Self {
            vendor: number("vendor").and_then(|id| u16::try_from(id).ok())?,
            product: number("device").and_then(|id| u16::try_from(id).ok())?,
            class: u16::try_from(number("class")? >> 8).ok()?,
            driver: host.link_name(&at("driver")),
            group: host.link_name(&at("iommu_group")),
            bars: bars(&host.hint(&at("resource")).unwrap_or_default()),
            bdf: bdf.to_owned(),
        })
    }

    /// Path of one of its files.
    pub fn file(&self, name: &str) -> String {
        format!("{DEVICES}/{}/{name}", self.bdf)
    }

    /// Whether it is a display controller of NVIDIA.
    pub fn is_gpu(&self) -> bool {
        pci::is_gpu(self.vendor, self.class)
    }

    /// Whether it is an NVSwitch: vendor NVIDIA, class "other bridge".
    pub fn is_switch(&self) -> bool {
        pci::is_switch(self.vendor, self.class)
    }

    /// Whether it is a bridge. Without a driver, or with the one for PCIe ports, a bridge stays on
    /// the host and does not prevent passthrough.
    pub fn is_bridge(&self) -> bool {
        matches!(self.class, 0x0600 | 0x0604 | 0x0609)
    }

    /// `10de:2330`.
    pub fn id(&self) -> String {
        format!("{:04x}:{:04x}", self.vendor, self.product)
    }
}

/// Whether a driver is VFIO's.
pub fn is_vfio(driver: &str) -> bool {
    VFIO.contains(&driver)
}

/// Parses the BARs of a `resource` file: lines of start, end and flags. Returns none if a line is
/// malformed.
fn bars(text: &str) -> Vec<Bar> {
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    let line = |(at, line): (usize, &str)| {
        let words = line.split_whitespace().map(number).collect::<Option<Vec<u64>>>()?;
        let [start, end, flags] = words[..] else { return None };
        let bar = Bar {
            number: at,
            size: end.checked_sub(start)?.checked_add(1)?,
            high: flags & (PREFETCH | WIDE) == PREFETCH | WIDE,
            assigned: start != 0 && flags & UNSET == 0,
        };
        Some((flags & MEMORY != 0).then_some(bar))
    };
    let bars: Option<Vec<_>> = text.lines().take(BARS).enumerate().map(line).collect();
    bars.unwrap_or_default().into_iter().flatten().collect()
}
