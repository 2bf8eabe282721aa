//! What NVIDIA's devices are on a PCI bus, guest's or host's. Numbers: pci.ids, and the class codes of the PCI Code and ID
//! Assignment Specification.

/// Vendor id of NVIDIA.
pub const NVIDIA: u16 = 0x10de;
/// Where sysfs has the devices.
pub const DEVICES: &str = "/sys/bus/pci/devices";
/// Base class of display controllers: VGA (0300) and 3D (0302).
const DISPLAY: u16 = 0x03;
/// Class of other bridges, which NVSwitches are.
const OTHER_BRIDGE: u16 = 0x0680;

/// Whether a vendor id, and base class and subclass (`0x0302`), are a GPU's.
pub fn is_gpu(vendor: u16, class: u16) -> bool {
    vendor == NVIDIA && class >> 8 == DISPLAY
}

/// Whether a vendor id, and base class and subclass, are an NVSwitch's.
pub fn is_switch(vendor: u16, class: u16) -> bool {
    vendor == NVIDIA && class == OTHER_BRIDGE
}

/// The number in a sysfs file: `0x10de` and a newline.
pub fn number(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_and_switches_are_told_from_what_is_beside_them() {
        assert!(is_gpu(NVIDIA, 0x0300) && is_gpu(NVIDIA, 0x0302) && is_switch(NVIDIA, 0x0680));
        // A GPU's sound, a virtio GPU, another bridge.
        assert!(!is_gpu(NVIDIA, 0x0403) && !is_gpu(0x1af4, 0x0300) && !is_switch(NVIDIA, 0x0604));
        assert_eq!((number("0x10de\n"), number("oops")), (Some(0x10de), None));
    }
}
