//! GPUs of this machine: whether one can be given to a guest, said before QEMU says it in its own words.

use crate::error::{Error, Result};
use std::fs;
use std::path::Path;

/// Checks that the PCI device is bound to vfio-pci, and returns its full address.
pub fn check(address: &str) -> Result<String> {
    check_from(Path::new("/sys/bus/pci/devices"), address)
}

fn check_from(devices: &Path, address: &str) -> Result<String> {
    let full = full_address("--vfio", address)?;
    let device = devices.join(&full);
    if !device.is_dir() {
        return Err(Error::new(format!("{}: there is no PCI device {full}", device.display()))
            .hint("list NVIDIA's devices: lspci -D -d 10de:"));
    }
    let driver = fs::read_link(device.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    if driver.as_deref() == Some("vfio-pci") {
        return Ok(full);
    }
    let found = driver.as_deref().unwrap_or("no driver");
    Err(Error::new(format!("PCI device {full}: expected driver vfio-pci, found {found}")).hint(format!(
        "nothing on this machine may use it; then, as root: driverctl --nosave set-override {full} vfio-pci"
    )))
}

/// `01:00.0` and `0000:01:00.0`, in lower case, with the domain.
pub fn full_address(option: &str, text: &str) -> Result<String> {
    completed(text).ok_or_else(|| {
        Error::new(format!("{option} expects a PCI address such as 0000:01:00.0, found {text:?}"))
            .hint("list NVIDIA's devices: lspci -D -d 10de:")
    })
}

fn completed(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let text = if text.matches(':').count() == 1 { format!("0000:{text}") } else { text };
    let (rest, function) = text.split_once('.')?;
    let parts: Vec<_> = rest.split(':').collect();
    let hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
    let [domain, bus, device] = parts[..] else { return None };
    let good =
        hex(domain, 4) && hex(bus, 2) && hex(device, 2) && matches!(function.as_bytes(), [b'0'..=b'7']);
    good.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn addresses_are_completed_or_refused() {
        assert_eq!(completed("01:00.0").as_deref(), Some("0000:01:00.0"));
        assert_eq!(completed("0001:0A:00.7").as_deref(), Some("0001:0a:00.7"));
        for bad in ["", "01:00", "1:00.0", "01:00.8", "0000:01:00.0/..", "../01:00.0", "0000:01:00.00"] {
            assert_eq!(completed(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_driver_decides() {
        let dir = tempfile::tempdir().unwrap();
        let error = |address: &str| check_from(dir.path(), address).unwrap_err().to_string();
        assert!(error("01:00.0").contains("no PCI device 0000:01:00.0"));
        let device = dir.path().join("0000:01:00.0");
        fs::create_dir(&device).unwrap();
        assert!(error("01:00.0").ends_with("expected driver vfio-pci, found no driver"));
        symlink("../../bus/pci/drivers/nvidia", device.join("driver")).unwrap();
        assert!(error("01:00.0").ends_with("expected driver vfio-pci, found nvidia"));
        fs::remove_file(device.join("driver")).unwrap();
        symlink("../../bus/pci/drivers/vfio-pci", device.join("driver")).unwrap();
        assert_eq!(check_from(dir.path(), "01:00.0").unwrap(), "0000:01:00.0");
    }
}
