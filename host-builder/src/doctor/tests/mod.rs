//! Every check on a fake host, once good and once bad.

mod devices;
mod fake;
mod machine;

use super::*;
use fake::Fake;
use std::collections::BTreeSet;

/// A good host gives every check of a host once, and nothing but passes.
#[test]
fn a_good_host_passes_every_check() {
    let fake = Fake::good();
    let checks = fake.checks();
    let bad: Vec<_> = checks.iter().filter(|check| check.verdict != Verdict::Pass).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let names: BTreeSet<_> = checks.iter().map(|check| check.name).collect();
    let of_hosts: BTreeSet<_> = CHECKS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !name.starts_with("container-") && !name.starts_with("image-"))
        .collect();
    assert_eq!(names, of_hosts);
    assert!(DoctorReport::new(None, checks).good);
}

/// A machine without anything: every check has an answer and a remedy, none panics.
#[test]
fn an_empty_machine_is_told_what_it_lacks() {
    let fake = Fake::empty();
    let checks = check_host(&fake.host(), &Asked::default()).unwrap();
    for name in ["gpu", "kvm", "iommu", "vfio-modules", "vfio-access"] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.verdict, Verdict::Fail, "{check:?}");
        assert!(!check.remedy.is_empty(), "{check:?}");
    }
    assert!(!checks.iter().any(|check| check.name.starts_with("gpu-")));
    let report = DoctorReport::new(None, checks);
    assert!(!report.good && report.count(Verdict::Fail) == 5);
}

#[test]
fn the_json_has_the_documented_keys() {
    let report = DoctorReport::new(Some("550.1".into()), vec![Check::pass("kvm", "x").of("y")]);
    let json = serde_json::to_value(&report).unwrap();
    let expected = serde_json::json!({
        "schema": 1, "good": true, "driver": "550.1",
        "checks": [{"name": "kvm", "of": "y", "verdict": "pass", "found": "x", "remedy": "", "evidence": []}],
    });
    assert_eq!(json, expected);
}
