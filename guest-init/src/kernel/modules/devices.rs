//! The devices of this guest, by the aliases that their drivers have in common with them.

use std::fs;
use std::path::Path;

/// Where each bus has its devices. Input devices have no bus.
const BUSES: &str = "/sys/bus";
const INPUT: &str = "/sys/class/input";

/// Beginnings of the aliases of devices that connect the guest with its host: virtio's vsock, the buttons of ACPI, input devices.
const HOST_LINK: [&str; 7] = [
    "virtio:d00000013v",
    "acpi:LNXPWRBN:",
    "acpi:LNXSLPBN:",
    "acpi:PNP0C0C:",
    "acpi:PNP0C0D:",
    "acpi:PNP0C0E:",
    "input:",
];

/// Which devices are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Devices {
    /// Those that connect the guest with its host.
    HostLink,
    /// All others.
    Others,
}

impl Devices {
    /// Returns whether the device of an alias is one of them.
    pub(super) fn have(self, alias: &str) -> bool {
        let is_link = HOST_LINK.iter().any(|beginning| alias.starts_with(beginning));
        is_link == (self == Self::HostLink)
    }
}

/// Returns the alias of each device, as in `modules.alias`.
pub(super) fn aliases() -> Vec<String> {
    let buses = fs::read_dir(BUSES).into_iter().flatten().flatten();
    let buses = buses.map(|bus| bus.path().join("devices"));
    buses.chain([INPUT.into()]).flat_map(|bus| aliases_in(&bus)).collect()
}

fn aliases_in(bus: &Path) -> Vec<String> {
    let devices = fs::read_dir(bus).into_iter().flatten().flatten();
    let alias = |device: fs::DirEntry| fs::read_to_string(device.path().join("modalias")).ok();
    devices.filter_map(alias).map(|text| text.trim_end().to_owned()).filter(|text| !text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_either_of_the_host_link_or_not() {
        for link in [
            "virtio:d00000013v00001AF4",
            "acpi:PNP0C0C:",
            "acpi:LNXPWRBN:",
            "input:b0019v0000p0001e0000-e0,1,k74,ramlsfw",
        ] {
            assert!(Devices::HostLink.have(link) && !Devices::Others.have(link), "{link}");
        }
        for other in ["virtio:d00000002v00001AF4", "acpi:PNP0A06:", "pci:v00001AF4d00001001sv0sd0bc01sc00i00"]
        {
            assert!(Devices::Others.have(other) && !Devices::HostLink.have(other), "{other}");
        }
    }
}
