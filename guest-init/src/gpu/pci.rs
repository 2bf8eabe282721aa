//! Finds NVIDIA GPUs on the PCI bus with sysfs, before a driver is loaded.

use image::pci::{self, DEVICES};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A GPU, or an NVSwitch, on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciGpu {
    /// Address, `0000:01:00.0`.
    pub bdf: String,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
}

/// `0000:01:00.0 10de:2330`.
impl fmt::Display for PciGpu {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {:04x}:{:04x}", self.bdf, self.vendor, self.device)
    }
}

#[cfg(test)]
impl PciGpu {
    /// NVIDIA's devices with these ids, one on each bus from 00 on.
    pub(crate) fn of_ids(devices: &[u16]) -> Vec<Self> {
        let gpu = |(n, device): (usize, &u16)| Self {
            bdf: format!("0000:0{n}:00.0"),
            vendor: 0x10de,
            device: *device,
        };
        devices.iter().enumerate().map(gpu).collect()
    }
}

/// Returns every NVIDIA GPU, by address.
///
/// # Errors
/// If sysfs cannot be read, which does not mean that there are no GPUs.
pub fn scan() -> io::Result<Vec<PciGpu>> {
    scan_from(Path::new(DEVICES))
}

/// [`scan`] of a fake sysfs directory.
pub fn scan_from(devices: &Path) -> io::Result<Vec<PciGpu>> {
    of_kind(devices, pci::is_gpu)
}

/// Returns every NVSwitch, by address.
///
/// # Errors
/// If sysfs cannot be read.
pub fn switches() -> io::Result<Vec<PciGpu>> {
    switches_from(Path::new(DEVICES))
}

/// [`switches`] of a fake sysfs directory.
pub fn switches_from(devices: &Path) -> io::Result<Vec<PciGpu>> {
    of_kind(devices, pci::is_switch)
}

/// Returns the sysfs path of a device.
pub fn path(bdf: &str) -> PathBuf {
    Path::new(DEVICES).join(bdf)
}

/// Returns whether a device is on the bus.
pub fn is_there(bdf: &str) -> bool {
    path(bdf).exists()
}

/// Returns whether a device responds on the bus: a device off the bus reads as all ones.
pub fn answers(bdf: &str) -> bool {
    answers_in(Path::new(DEVICES), bdf)
}

fn answers_in(devices: &Path, bdf: &str) -> bool {
    let mut id = [0xff; 4];
    let read =
        fs::File::open(devices.join(bdf).join("config")).and_then(|mut config| config.read_exact(&mut id));
    read.is_ok() && id != [0xff; 4]
}

fn of_kind(devices: &Path, is_wanted: fn(u16, u16) -> bool) -> io::Result<Vec<PciGpu>> {
    let mut gpus = Vec::new();
    let entries = match fs::read_dir(devices) {
        // A guest without any PCI bus.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(gpus),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let id = |name| number(&entry.path().join(name));
        let vendor = u16::try_from(id("vendor")?).unwrap_or_default();
        let class = u16::try_from(id("class")? >> 8).unwrap_or_default();
        if is_wanted(vendor, class) {
            let device = u16::try_from(id("device")?).unwrap_or_default();
            gpus.push(PciGpu { bdf: entry.file_name().to_string_lossy().into_owned(), vendor, device });
        }
    }
    gpus.sort_by(|a, b| a.bdf.cmp(&b.bdf));
    Ok(gpus)
}

fn number(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path)?;
    pci::number(&text).ok_or_else(|| {
        io::Error::other(format!("{}: expected 0x and hex digits, found {text:?}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create_pci_device(devices: &Path, bdf: &str, vendor: &str, device: &str, class: &str) {
        let dir = devices.join(bdf);
        fs::create_dir_all(&dir).unwrap();
        for (name, value) in [("vendor", vendor), ("device", device), ("class", class)] {
            fs::write(dir.join(name), format!("{value}\n")).unwrap();
        }
    }

    #[test]
    fn gpus_are_found_and_audio_functions_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        create_pci_device(dir.path(), "0000:02:00.0", "0x10de", "0x2330", "0x030200");
        create_pci_device(dir.path(), "0000:01:00.0", "0x10de", "0x1eb8", "0x030000");
        create_pci_device(dir.path(), "0000:01:00.1", "0x10de", "0x10f8", "0x040300");
        create_pci_device(dir.path(), "0000:00:02.0", "0x1af4", "0x1001", "0x030000");
        let found = scan_from(dir.path()).unwrap();
        assert_eq!(
            found.iter().map(|gpu| gpu.bdf.as_str()).collect::<Vec<_>>(),
            ["0000:01:00.0", "0000:02:00.0"]
        );
        assert_eq!(found[1].device, 0x2330);
        create_pci_device(dir.path(), "0000:07:00.0", "0x10de", "0x22a3", "0x068000");
        let switches = switches_from(dir.path()).unwrap();
        assert_eq!((switches.len(), switches[0].device), (1, 0x22a3));
    }

    #[test]
    fn a_device_that_reads_as_ones_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        for (bytes, expected) in
            [(&[0xde, 0x10, 0x30, 0x23, 7][..], true), (&[0xff; 64], false), (&[0xde], false)]
        {
            fs::write(dir.path().join("a/config"), bytes).unwrap();
            assert_eq!(answers_in(dir.path(), "a"), expected);
        }
        assert!(!answers_in(dir.path(), "none"));
    }

    #[test]
    fn unreadable_is_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        create_pci_device(dir.path(), "0000:02:00.0", "0x10de", "0x2330", "oops");
        assert!(scan_from(dir.path()).is_err());
        assert_eq!(scan_from(&dir.path().join("none")).unwrap(), []);
    }
}
