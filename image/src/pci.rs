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

/// A PCI address, in any form in which the field's tools print it, as sysfs names the device: `0000:01:00.0`.
///
/// | form | of |
/// |---|---|
/// | `01:00.0`, `0000:01:00.0` | lspci, sysfs; also as the end of a path of sysfs |
/// | `00000000:01:00.0`, upper-case | nvidia-smi, NVML |
/// | `0000:01:00`, `PCI:0000:01:00` | lines of the driver in the kernel log: function 0 |
/// | `pci@0000:01:00.0`, `pci-0000:01:00.0`, `pci_0000_01_00_0` | lshw, udev, libvirt |
/// | `PCI:1:0:0`, `PCI:1@0:0:0` | X.Org, in decimal |
///
/// `None`: it is no such address.
pub fn address(text: &str) -> Option<String> {
    let text = text.trim().trim_end_matches('/');
    let text = text.rsplit('/').next().unwrap_or(text);
    if let Some(rest) = text.strip_prefix("PCI:").filter(|rest| !rest.contains('.')) {
        // `PCI:0000:01:00` has a domain of four digits, X.Org's decimal form has no leading zeros.
        return if rest.starts_with("0000:") { hexadecimal(rest) } else { decimal(rest) };
    }
    let starts = ["PCI:", "pci@", "pci-"];
    let text = starts.iter().find_map(|start| text.strip_prefix(start)).unwrap_or(text);
    match text.strip_prefix("pci_") {
        Some(rest) => {
            let parts: Vec<&str> = rest.split('_').collect();
            let [domain, bus, device, function] = parts[..] else { return None };
            hexadecimal(&format!("{domain}:{bus}:{device}.{function}"))
        }
        None => hexadecimal(text),
    }
}

/// `[DOMAIN:]BUS:DEVICE[.FUNCTION]`; without a domain the function must be there, or it could be a MIG instance.
fn hexadecimal(text: &str) -> Option<String> {
    let number = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        let good = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.then(|| u32::from_str_radix(text, 16).ok())?
    };
    let (place, function) = text.split_once('.').unwrap_or((text, "0"));
    let parts: Vec<&str> = place.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [domain, bus, device] => (number(domain, 4..=8)?, bus, device),
        [bus, device] if text.contains('.') => (0, bus, device),
        _ => return None,
    };
    written(domain, number(bus, 2..=2)?, number(device, 2..=2)?, number(function, 1..=1)?)
}

/// `BUS[@DOMAIN]:DEVICE:FUNCTION`, each in decimal.
fn decimal(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [bus, device, function] = parts[..] else { return None };
    let (bus, domain) = bus.split_once('@').unwrap_or((bus, "0"));
    let number = |text: &str| text.parse().ok();
    written(number(domain)?, number(bus)?, number(device)?, number(function)?)
}

fn written(domain: u32, bus: u32, device: u32, function: u32) -> Option<String> {
    (bus < 256 && device < 32 && function < 8)
        .then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_every_form_of_the_fields_tools() {
        for text in [
            "0000:0a:1f.0",
            "0a:1f.0",
            "0A:1F.0",
            "00000000:0A:1F.0",
            "0000:0a:1f",
            "PCI:0000:0a:1f",
            "pci@0000:0a:1f.0",
            "pci-0000:0a:1f.0",
            "pci_0000_0a_1f_0",
            "PCI:10:31:0",
            "PCI:10@0:31:0",
            "/sys/bus/pci/devices/0000:0a:1f.0/",
            " 0a:1f.0\n",
        ] {
            assert_eq!(address(text).as_deref(), Some("0000:0a:1f.0"), "{text}");
        }
        assert_eq!(address("10000:e1:00.0").as_deref(), Some("10000:e1:00.0"), "behind a VMD");
        assert_eq!(address("00010000:E1:00.1").as_deref(), Some("10000:e1:00.1"));
        assert_eq!(address("PCI:1@2:3:4").as_deref(), Some("0002:01:03.4"));
        for text in [
            "",
            "0",
            "0:0",
            "1:00.0",
            "0000:0a:20.0",
            "0000:0a:1f.8",
            "0g:00.0",
            "0000:0a:1f.0.1",
            "GPU-aa",
            "mig1:0",
            "PCI:300:0:0",
            "pci_0000_0a_1f",
        ] {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn gpus_and_switches_are_told_from_what_is_beside_them() {
        assert!(is_gpu(NVIDIA, 0x0300) && is_gpu(NVIDIA, 0x0302) && is_switch(NVIDIA, 0x0680));
        // A GPU's sound, a virtio GPU, another bridge.
        assert!(!is_gpu(NVIDIA, 0x0403) && !is_gpu(0x1af4, 0x0300) && !is_switch(NVIDIA, 0x0604));
        assert_eq!((number("0x10de\n"), number("oops")), (Some(0x10de), None));
    }
}
