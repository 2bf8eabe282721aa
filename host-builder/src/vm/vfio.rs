//! Checks whether a GPU of this machine can be passed to a guest, to report a clearer error than QEMU's.

use crate::common::error::{Error, Result};
use image::pci;
use std::fs;
use std::path::Path;

/// Checks that the PCI device is bound to vfio-pci, and returns its full address.
pub fn check(address: &str) -> Result<String> {
    check_from(Path::new(pci::DEVICES), address)
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
        "stop everything on this machine that uses it; then, as root: driverctl --nosave set-override {full} vfio-pci"
    )))
}

/// A PCI address as sysfs has it, of any form of the field's tools.
pub fn full_address(option: &str, text: &str) -> Result<String> {
    pci::address(text).ok_or_else(|| {
        Error::new(format!("{option} expects a PCI address such as 0000:01:00.0, found {text:?}"))
            .hint("list NVIDIA's devices: lspci -D -d 10de:")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_no_address_is_refused_with_the_option() {
        assert_eq!(full_address("--vfio", "00000001:0A:00.7").unwrap(), "0001:0a:00.7");
        let error = full_address("--vfio", "h100").unwrap_err();
        assert!(error.to_string().starts_with("--vfio expects a PCI address"), "{error}");
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
