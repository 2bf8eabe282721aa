//! GPUs that are newer than some drivers. Their names are known here, so that an error can tell a
//! newer GPU from a wrong name.
//!
//! Source: g_nv_name_released.h of NVIDIA's open modules, releases 550.163.01 to 595.45.04. For
//! each GPU, the first release since which every release lists it, except releases for one
//! customer's hardware (570.123, 580.94).

use super::chips::has_words;
use crate::common::error::Error;
use crate::pins::lock::by_number;
use crate::pins::profile;
use std::cmp::Ordering;

/// A GPU by its PCI device id and name, and the first driver that supports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newer {
    /// PCI device id.
    pub device: u16,
    /// Product name, without NVIDIA.
    pub name: &'static str,
    /// Version of the first driver that supports it.
    pub since: &'static str,
}

const NEWER: &[(u16, &str, &str)] = &[
    (0x230e, "H20 NVL16", "580.95.05"),
    (0x233b, "H200 NVL", "565.57.01"),
    (0x2348, "GH200 144G HBM3e", "565.57.01"),
    (0x2689, "GeForce RTX 4070 Ti SUPER", "555.42.02"),
    (0x2901, "B200", "570.86.15"),
    (0x2941, "GB200", "570.124.04"),
    (0x2b85, "GeForce RTX 5090", "570.86.16"),
    (0x2b87, "GeForce RTX 5090 D", "570.86.16"),
    (0x2b8c, "GeForce RTX 5090 D v2", "580.76.05"),
    (0x2bb1, "RTX PRO 6000 Blackwell Workstation Edition", "570.133.07"),
    (0x2bb3, "RTX PRO 5000 Blackwell", "575.57.08"),
    (0x2bb4, "RTX PRO 6000 Blackwell Max-Q Workstation Edition", "570.133.07"),
    (0x2bb5, "RTX PRO 6000 Blackwell Server Edition", "575.51.02"),
    (0x2bb9, "RTX 6000D", "580.82.07"),
    (0x2c02, "GeForce RTX 5080", "570.86.16"),
    (0x2c05, "GeForce RTX 5070 Ti", "570.124.04"),
    (0x2c31, "RTX PRO 4500 Blackwell", "575.64"),
    (0x2c33, "RTX PRO 4000 Blackwell SFF Edition", "580.76.05"),
    (0x2c34, "RTX PRO 4000 Blackwell", "575.64"),
    (0x2d04, "GeForce RTX 5060 Ti", "575.57.08"),
    (0x2d05, "GeForce RTX 5060", "575.57.08"),
    (0x2d30, "RTX PRO 2000 Blackwell", "580.76.05"),
    (0x2d83, "GeForce RTX 5050", "575.64.03"),
    (0x2f04, "GeForce RTX 5070", "570.133.07"),
    (0x3182, "B300 SXM6 AC", "580.95.05"),
    (0x31c2, "GB300", "580.95.05"),
];

/// The GPUs that are newer than a driver.
fn than(driver: &str) -> impl Iterator<Item = Newer> {
    let all = NEWER.iter().map(|(device, name, since)| Newer { device: *device, name, since });
    all.filter(move |newer| by_number(driver, newer.since) == Ordering::Less)
}

/// The GPU with this id, if it is newer than the driver.
pub fn by_id(device: u16, driver: &str) -> Option<Newer> {
    than(driver).find(|newer| newer.device == device)
}

/// The first GPU with these lower-case words in its name, if it is newer than the driver.
pub fn by_words(wanted: &[&str], driver: &str) -> Option<Newer> {
    if wanted.is_empty() {
        return None;
    }
    than(driver).find(|newer| has_words(newer.name, wanted))
}

impl Newer {
    /// The text of the error.
    pub fn found(&self, driver: &str) -> String {
        format!(
            "the GPU 10de:{:04x} {} is newer than driver {driver}: NVIDIA's drivers support it since {}",
            self.device, self.name, self.since
        )
    }

    /// The remedy, with the built-in profiles whose driver supports it.
    pub fn remedy(&self) -> String {
        let carried = profile::carried();
        let new = |(_, driver): &&(String, String)| by_number(driver, self.since) != Ordering::Less;
        let named: Vec<_> = carried.iter().filter(new).map(profile::named).collect();
        let one = match named.as_slice() {
            [] => "no built-in profile has such a driver".to_owned(),
            named => format!("build with a profile that has one: {}", named.join(" or ")),
        };
        format!("{one}; or choose driver {} or newer: host-builder pins update --driver VERSION", self.since)
    }

    /// The error, with its remedy.
    pub fn error(&self, driver: &str) -> Error {
        Error::new(self.found(driver)).hint(format!("{}; or leave it out of --gpu", self.remedy()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpu_is_newer_only_than_drivers_before_its_first_one() {
        let b200 = by_words(&["b200"], "550.163.01").unwrap();
        assert_eq!((b200.device, b200.since), (0x2901, "570.86.15"));
        assert_eq!(by_id(0x2901, "550.163.01"), Some(b200));
        for driver in ["570.86.15", "570.86.16", "580.178.04"] {
            assert_eq!((by_id(0x2901, driver), by_words(&["b200"], driver)), (None, None), "{driver}");
        }
        assert_eq!(by_words(&["rtx", "5090"], "565.77").unwrap().device, 0x2b85);
        assert!(by_words(&["b2000"], "1.0").is_none() && by_words(&[], "1.0").is_none());
    }

    #[test]
    fn remedy_names_the_built_in_profiles_that_support_it() {
        let remedy = by_id(0x2901, "550.163.01").unwrap().remedy();
        assert!(
            remedy.contains("--profile ch-6.12.8-kernel-2-20251211") && remedy.contains("570.86.16"),
            "{remedy}"
        );
        assert!(
            remedy.contains("--profile ubuntu-24.04") && remedy.contains("--profile debian-13 "),
            "{remedy}"
        );
        assert!(!remedy.contains("--profile debian-13+550"), "{remedy}");
        let remedy = by_id(0x3182, "570.86.16").unwrap().remedy();
        assert!(remedy.contains("ubuntu-24.04") && !remedy.contains("ch-6.12.8"), "{remedy}");
    }
}
