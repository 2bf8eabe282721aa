//! The devices of this guest, by the aliases that their drivers have in common with them.

use std::fs;
use std::path::Path;

/// Where each bus has its devices. Input devices have no bus.
const BUSES: &str = "/sys/bus";
const INPUT: &str = "/sys/class/input";

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
