//! The GPUs of an image (`--gpu`): names, PCI ids or the GPUs of this host, checked against the
//! list in the driver's own module, and the GSP firmware files that they need.

mod chips;
pub(crate) mod newer;

pub use self::chips::{Chip, chips};

use self::chips::has_words;
use crate::common::error::{Error, Result};
use crate::common::files::base_name;
use image::pci;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// PCI vendor id of NVIDIA.
const VENDOR: &str = "10de";
/// The first PCI device id of Turing: the open modules support nothing older.
pub(crate) const TURING: u16 = 0x1e00;
/// Number of names from the list that an error shows.
const SHOWN: usize = 12;

/// A value of `--gpu`: one GPU, or all GPUs of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// By PCI device id.
    Id(u16),
    /// By words of its product name, lower case: `h100`, `rtx-4090`; or by a PCI device id in the
    /// driver's list.
    Name(String),
    /// The GPUs of this host.
    Host,
}

impl std::str::FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        if text == "host" {
            return Ok(Self::Host);
        }
        if let Some(digits) = text.strip_prefix(VENDOR).and_then(|rest| rest.strip_prefix(':')) {
            return id(digits).map(Self::Id).ok_or_else(|| {
                format!("{digits:?} is not a PCI device id: expected four hexadecimal digits")
            });
        }
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" -".contains(&byte))
        {
            return Err("expected a name such as h100, a PCI id such as 10de:2330, or host".into());
        }
        Ok(Self::Name(text))
    }
}

fn id(digits: &str) -> Option<u16> {
    (digits.len() == 4).then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

/// The family of a chip, as it is named in firmware files.
pub(crate) fn family(device: u16) -> &'static str {
    match device {
        // Turing (TU10x, TU11x) and GA100. Source: kgspGetGspRmBootUcode… and README of NVIDIA's
        // open modules: "gsp_tu10x.bin for Turing and GA100, gsp_ga10x.bin for everything newer".
        TURING..=0x1fff | 0x2080..=0x20ff | 0x2180..=0x21ff => "tu10x",
        _ => "ga10x",
    }
}

/// Whether chips of a family load a firmware file: `gsp_ga10x.bin`, and since driver 610 also
/// `ucodes_ga10x.bin`.
pub(crate) fn is_firmware_of(file: &str, family: &str) -> bool {
    base_name(file).strip_suffix(".bin").and_then(|stem| stem.rsplit('_').next()) == Some(family)
}

/// The requested GPUs, and what an image needs for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// One line for each GPU: its id and name.
    pub gpus: Vec<String>,
    /// Chip families whose firmware is needed.
    pub families: BTreeSet<&'static str>,
}

/// Checks requested GPUs against the driver's list. Returns `None` if none was requested: then all
/// firmware is packed.
pub fn choose(asked: &[Asked], chips: &[Chip], driver: &str) -> Result<Option<Chosen>> {
    choose_from(asked, chips, driver, Path::new("/sys/bus/pci/devices"))
}

/// [`choose`] with other sysfs devices, for tests.
pub fn choose_from(asked: &[Asked], chips: &[Chip], driver: &str, devices: &Path) -> Result<Option<Chosen>> {
    if asked.is_empty() {
        return Ok(None);
    }
    // The list is shared with NVIDIA's closed modules, which support older GPUs.
    let driven: Vec<Chip> = chips.iter().filter(|chip| chip.device >= TURING).cloned().collect();
    let chips = &driven[..];
    let mut gpus = BTreeSet::new();
    let mut families = BTreeSet::new();
    for asked in asked {
        let found = match asked {
            Asked::Id(id) => vec![by_id(*id, chips, driver)?],
            Asked::Name(name) => by_name(name, chips, driver)?,
            Asked::Host => {
                let ids = host(devices)?;
                ids.iter().map(|id| by_id(*id, chips, driver)).collect::<Result<_>>()?
            }
        };
        for chip in found {
            families.insert(family(chip.device));
            gpus.insert(format!("{VENDOR}:{:04x} {}", chip.device, chip.name));
        }
    }
    Ok(Some(Chosen { gpus: gpus.into_iter().collect(), families }))
}

fn by_id<'a>(id: u16, chips: &'a [Chip], driver: &str) -> Result<&'a Chip> {
    chips.iter().find(|chip| chip.device == id).ok_or_else(|| {
        if let Some(newer) = newer::by_id(id, driver) {
            return newer.error(driver);
        }
        let why = if id < TURING { "; NVIDIA's open modules begin with Turing (1e02)" } else { "" };
        Error::new(format!("driver {driver} does not support the GPU {VENDOR}:{id:04x}{why}"))
            .hint("choose a driver that supports it: host-builder pins update --driver VERSION; or leave it out of --gpu")
    })
}

fn by_name<'a>(name: &str, chips: &'a [Chip], driver: &str) -> Result<Vec<&'a Chip>> {
    // A100 is a product, and 2330 an id. The list tells which one is meant.
    if let Some(chip) = chips.iter().find(|chip| id(name) == Some(chip.device)) {
        return Ok(vec![chip]);
    }
    let wanted: Vec<&str> = name.split([' ', '-']).filter(|word| !word.is_empty()).collect();
    let found: Vec<&Chip> = chips.iter().filter(|chip| has_words(&chip.name, &wanted)).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let newer = id(name).and_then(|id| newer::by_id(id, driver));
    if let Some(newer) = newer.or_else(|| newer::by_words(&wanted, driver)) {
        return Err(newer.error(driver));
    }
    let alike = |chip: &&Chip| wanted.iter().any(|word| chip.name.to_ascii_lowercase().contains(word));
    let near: BTreeSet<&str> = chips.iter().filter(alike).map(|chip| chip.name.as_str()).collect();
    let near = near.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    let near = if near.is_empty() { String::new() } else { format!("; its list has {near}") };
    Err(Error::new(format!("driver {driver} supports no GPU named {name:?}{near}"))
        .hint("use the product name (h100, l4, t4, rtx-4090) or the PCI id: --gpu 10de:2330"))
}

/// PCI device ids of the NVIDIA display controllers of a host.
fn host(devices: &Path) -> Result<Vec<u16>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(devices).into_iter().flatten().flatten() {
        let number = |name: &str| pci::number(&fs::read_to_string(entry.path().join(name)).ok()?);
        let id = |number: u32| u16::try_from(number).ok();
        let vendor = number("vendor").and_then(id);
        let class = number("class").and_then(|class| id(class >> 8));
        if let (Some(vendor), Some(class)) = (vendor, class)
            && pci::is_gpu(vendor, class)
        {
            ids.extend(number("device").and_then(id));
        }
    }
    if ids.is_empty() {
        return Err(Error::new(format!("--gpu host: no NVIDIA GPU in {}", devices.display()))
            .hint("run it on the host that has the GPUs, or name them: --gpu h100"));
    }
    Ok(ids.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<Chip> {
        let chip = |device, name: &str| Chip { device, name: name.into() };
        vec![
            chip(0x1b06, "NVIDIA GeForce GTX 1080 Ti"),
            chip(0x1eb8, "Tesla T4"),
            chip(0x20b0, "NVIDIA A100-SXM4-40GB"),
            chip(0x2236, "NVIDIA A10"),
            chip(0x2330, "NVIDIA H100 80GB HBM3"),
            chip(0x2684, "NVIDIA GeForce RTX 4090"),
            chip(0x26b9, "NVIDIA L40S"),
            chip(0x27b8, "NVIDIA L4"),
        ]
    }

    fn families(asked: &str) -> Result<Vec<&'static str>> {
        let asked: Vec<Asked> = asked.split(',').map(|word| word.parse().unwrap()).collect();
        let chosen = choose_from(&asked, &list(), "550.1", Path::new("/nonexistent"))?.unwrap();
        Ok(chosen.families.into_iter().collect())
    }

    #[test]
    fn each_family_has_its_firmware() {
        assert_eq!(families("t4").unwrap(), ["tu10x"]);
        assert_eq!(families("a100").unwrap(), ["tu10x"]);
        assert_eq!(families("l4,10de:2330").unwrap(), ["ga10x"]);
        assert_eq!(families("rtx-4090,T4").unwrap(), ["ga10x", "tu10x"]);
        for (file, family, is_it) in [
            ("nvidia/550.163.01/gsp_ga10x.bin", "ga10x", true),
            ("nvidia/610.43.02/ucodes_ga10x.bin", "ga10x", true),
            ("nvidia/610.43.02/ucodes_ga10x.bin", "tu10x", false),
            ("nvidia/610.43.02/xga10x.bin", "ga10x", false),
        ] {
            assert_eq!(is_firmware_of(file, family), is_it, "{file}");
        }
        assert_eq!(choose_from(&[], &list(), "550.1", Path::new("/")).unwrap(), None);
    }

    #[test]
    fn names_match_whole_words_and_errors_show_similar_names() {
        let asked = [Asked::Name("l4".into())];
        let chosen = choose_from(&asked, &list(), "550.1", Path::new("/")).unwrap().unwrap();
        assert_eq!(chosen.gpus, ["10de:27b8 NVIDIA L4"]);
        let error = families("l5,a1").unwrap_err().to_string();
        assert!(error.contains("550.1") && error.contains("\"l5\""), "{error}");
        assert!(families("a1").unwrap_err().to_string().contains("NVIDIA A10"));
        let error = families("10de:2901").unwrap_err().to_string();
        assert!(error.contains("10de:2901") && error.contains("550.1"), "{error}");
        assert!(families("10de:1b06").unwrap_err().to_string().contains("Turing"));
        assert!(families("gtx-1080").is_err());
    }

    #[test]
    fn gpu_newer_than_the_driver_has_its_own_error() {
        for asked in ["b200", "10de:2901", "2901"] {
            let error = families(asked).unwrap_err();
            let text = "the GPU 10de:2901 B200 is newer than driver 550.1: NVIDIA's drivers support it since 570.86.15";
            assert_eq!(error.to_string(), text);
            assert!(error.remedy().unwrap().contains("--profile ubuntu-24.04 (driver "), "{error:?}");
        }
        assert!(
            families("rtx-5090").unwrap_err().to_string().contains("10de:2b85 GeForce RTX 5090 is newer")
        );
        for unknown in ["b2000", "l5", "10de:2999", "ffff"] {
            assert!(!families(unknown).unwrap_err().to_string().contains("newer"), "{unknown}");
        }
    }

    #[test]
    fn host_means_its_display_controllers() {
        let dir = tempfile::tempdir().unwrap();
        for (bdf, vendor, class, device) in [
            ("a", "0x10de", "0x030200", "0x2330"),
            ("b", "0x10de", "0x040300", "0x22ba"),
            ("c", "0x8086", "0x030000", "0x1"),
        ] {
            fs::create_dir(dir.path().join(bdf)).unwrap();
            for (name, text) in [("vendor", vendor), ("class", class), ("device", device)] {
                fs::write(dir.path().join(bdf).join(name), format!("{text}\n")).unwrap();
            }
        }
        let chosen = choose_from(&[Asked::Host], &list(), "1", dir.path()).unwrap().unwrap();
        assert_eq!(chosen.gpus, ["10de:2330 NVIDIA H100 80GB HBM3"]);
        let error = choose_from(&[Asked::Host], &list(), "1", Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("no NVIDIA GPU"));
    }

    #[test]
    fn ids_and_names_are_distinguished() {
        assert_eq!("10DE:2330".parse(), Ok(Asked::Id(0x2330)));
        assert!("10de:h100".parse::<Asked>().is_err());
        assert_eq!(families("2330").unwrap(), ["ga10x"]);
        assert_eq!("host".parse(), Ok(Asked::Host));
        assert!("h100;x".parse::<Asked>().is_err() && "".parse::<Asked>().is_err());
    }
}
