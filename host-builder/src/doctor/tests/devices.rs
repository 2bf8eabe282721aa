//! Checks of the GPUs.

use super::fake::{Fake, GPU, RESOURCE};
use crate::common::error::Error;
use crate::doctor::{Asked, Check, Packed, Verdict, check_host};
use crate::kernel_modules::gpus::Chip;
use image::manifest::{Driver, FORMAT, Manifest, Payload};

fn is(check: &Check, verdict: Verdict, words: &[&str]) {
    assert_eq!(check.verdict, verdict, "{check:?}");
    for word in words {
        let said = format!("{} {} {:?}", check.found, check.remedy, check.evidence);
        assert!(said.contains(word), "{word}: {check:?}");
    }
    assert!(verdict == Verdict::Pass || !check.remedy.is_empty(), "{check:?}");
}

fn file(name: &str) -> String {
    format!("/sys/bus/pci/devices/{GPU}/{name}")
}

#[test]
fn gpus_are_found_or_named() {
    let fake = Fake::good();
    fake.device("0000:02:00.0", (0x8086, 1, 0x0300), None, None);
    is(&fake.check("gpu"), Verdict::Pass, &["NVIDIA GPUs: 1", "0000:01:00.0 10de:27b8"]);
    let asked = |bdf: &str| {
        let gpus = [bdf.to_owned()];
        let checks = check_host(&fake.host(), &Asked { gpus: &gpus, ..Asked::default() });
        checks.map(|checks| checks.into_iter().find(|check| check.name == "gpu").unwrap())
    };
    is(&asked("01:00.0").unwrap(), Verdict::Pass, &["10de:27b8"]);
    is(&asked("02:00.0").unwrap(), Verdict::Fail, &["is not an NVIDIA GPU", "lspci"]);
    is(&asked("03:00.0").unwrap(), Verdict::Fail, &["no such PCI device", "lspci"]);
    assert!(asked("../x").unwrap_err().to_string().contains("--gpu expects a PCI address"));
    fake.remove(&format!("/sys/bus/pci/devices/{GPU}"));
    is(&fake.check("gpu"), Verdict::Fail, &["no NVIDIA GPU among the 1 PCI devices"]);
}

#[test]
fn a_gpu_is_bound_to_vfio_or_held() {
    let fake = Fake::good();
    is(&fake.check("gpu-driver"), Verdict::Pass, &["bound to vfio-pci"]);
    is(&fake.check("gpu-held"), Verdict::Pass, &[]);
    fake.write(&file("boot_vga"), "1\n");
    is(&fake.check("gpu-held"), Verdict::Warn, &["boot display"]);
    fake.bind(GPU, "nvidia");
    fake.write("/sys/module/nvidia/refcnt", "12\n");
    is(&fake.check("gpu-driver"), Verdict::Fail, &["bound to nvidia, expected vfio-pci", "driverctl"]);
    is(&fake.check("gpu-held"), Verdict::Fail, &["nvidia driver", "refcnt: 12", "fuser"]);
    fake.bind(GPU, "nouveau");
    is(&fake.check("gpu-held"), Verdict::Fail, &["nouveau", "modprobe.blacklist"]);
    is(&fake.check("gpu-held"), Verdict::Fail, &["modprobe.blacklist=nouveau"]);
    for name in ["nova-core", "nova_core", "NovaCore"] {
        fake.bind(GPU, name);
        is(&fake.check("gpu-held"), Verdict::Fail, &[&format!("{name} driver"), "blacklist=nova_core"]);
    }
    // Whatever it may be: it has the GPU, and the guest does not.
    fake.bind(GPU, "foo-gpu");
    is(
        &fake.check("gpu-held"),
        Verdict::Fail,
        &["foo-gpu driver", "driverctl --nosave set-override 0000:01:00.0"],
    );
    fake.remove(&file("boot_vga"));
    for name in ["pci-stub", "nvgrace_gpu_vfio_pci"] {
        fake.bind(GPU, name);
        is(&fake.check("gpu-held"), Verdict::Pass, &[]);
    }
    fake.remove(&file("driver"));
    fake.write(&file("driver_override"), "vfio-pci\n");
    is(&fake.check("gpu-driver"), Verdict::Fail, &["no driver", "driver_override: vfio-pci"]);
    is(&fake.check("gpu-held"), Verdict::Pass, &[]);
}

#[test]
fn the_whole_group_goes_to_the_guest() {
    let fake = Fake::good();
    is(&fake.check("gpu-group"), Verdict::Pass, &["group 14: the GPU is the only device"]);
    fake.device("0000:00:01.0", (0x8086, 0x1901, 0x0604), Some("pcieport"), Some("14"));
    fake.device("0000:01:00.1", (0x10de, 0x22bc, 0x0403), Some("vfio-pci"), Some("14"));
    is(&fake.check("gpu-group"), Verdict::Pass, &["1 other functions"]);
    // A bridge is harmless as long as its driver is.
    fake.bind("0000:00:01.0", "foo_edac");
    is(&fake.check("gpu-group"), Verdict::Fail, &["host: 0000:00:01.0", "class 0604: foo_edac"]);
    fake.bind("0000:00:01.0", "pcieport");
    // What cannot be read may be anything.
    fake.device("0000:01:00.2", (0x10de, 0x1ad6, 0x0c03), None, Some("14"));
    fake.write("/sys/bus/pci/devices/0000:01:00.2/class", "");
    is(&fake.check("gpu-group"), Verdict::Warn, &["unknown devices: 0000:01:00.2"]);
    fake.remove("/sys/kernel/iommu_groups/14/devices/0000:01:00.2");
    fake.bind("0000:01:00.1", "snd_hda_intel");
    let words = ["host: 0000:01:00.1", "other functions as well", "class 0403: snd_hda_intel"];
    is(&fake.check("gpu-group"), Verdict::Fail, &words);
    fake.device("0000:02:00.0", (0x8086, 0x1533, 0x0200), Some("igb"), Some("14"));
    is(&fake.check("gpu-group"), Verdict::Fail, &["0000:02:00.0", "1 of them belong to other slots", "ACS"]);
    fake.remove("/sys/kernel/iommu_groups/14/devices");
    is(&fake.check("gpu-group"), Verdict::Warn, &["unknown", "14/devices does not list the GPU"]);
    fake.remove(&file("iommu_group"));
    is(&fake.check("gpu-group"), Verdict::Fail, &["no IOMMU group"]);
}

#[test]
fn a_gpu_can_be_reset_or_not() {
    let fake = Fake::good();
    is(&fake.check("gpu-reset"), Verdict::Pass, &["flr bus"]);
    fake.write(&file("reset_method"), "\n");
    is(&fake.check("gpu-reset"), Verdict::Warn, &["no method to reset it"]);
    fake.remove(&file("reset_method"));
    is(&fake.check("gpu-reset"), Verdict::Warn, &["no method to reset it"]);
    fake.write(&file("reset"), "");
    is(&fake.check("gpu-reset"), Verdict::Pass, &[]);
}

/// Without an image, a list of names.
#[test]
fn a_gpu_is_in_the_built_in_list() {
    let fake = Fake::good();
    is(&fake.check("gpu-supported"), Verdict::Pass, &["L4", "built-in"]);
    fake.write(&file("device"), "0x2684");
    is(&fake.check("gpu-supported"), Verdict::Warn, &["10de:2684", "doctor IMAGE"]);
    fake.write(&file("device"), "0x2901");
    is(&fake.check("gpu-supported"), Verdict::Warn, &["10de:2901 is B200", "since 570.86.15"]);
    fake.write(&file("device"), "0x1b06");
    is(&fake.check("gpu-supported"), Verdict::Fail, &["older than Turing"]);
}

fn packed(chips: Result<Vec<Chip>, String>) -> Packed {
    let driver = Driver { version: "550.163.01".into(), cuda: None, firmware: Vec::new(), gpus: Vec::new() };
    let manifest = Manifest {
        format: FORMAT,
        builder: String::new(),
        profile: String::new(),
        arch: String::new(),
        kernel_release: "6.12".into(),
        driver: Some(driver),
        capabilities: vec!["compute".into()],
        control: None,
        payload: Payload::Files,
        modules: Vec::new(),
        files: Vec::new(),
    };
    let firmware = vec!["nvidia/550.163.01/gsp_ga10x.bin".into()];
    Packed {
        manifest,
        chips,
        asked: Vec::new(),
        firmware,
        directory: "/nonexistent".into(),
        altered: Vec::new(),
        unread: None,
    }
}

/// With an image, its driver's own list, and the firmware that it packs.
#[test]
fn a_gpu_is_in_the_packed_drivers_list() {
    let fake = Fake::good();
    let chip = |device, name: &str| Chip { device, name: name.into() };
    let mut packed = packed(Ok(vec![chip(0x27b8, "NVIDIA L4"), chip(0x1eb8, "Tesla T4")]));
    let check = |packed: &Packed| {
        let checks = fake.checks_with(Some(packed));
        checks.into_iter().find(|check| check.name == "gpu-supported").unwrap()
    };
    is(&check(&packed), Verdict::Pass, &["NVIDIA L4", "550.163.01"]);
    fake.write(&file("device"), "0x1eb8");
    is(&check(&packed), Verdict::Fail, &["Tesla T4", "gsp_tu10x.bin", "--gpu 10de:1eb8"]);
    fake.write(&file("device"), "0x2901");
    is(
        &check(&packed),
        Verdict::Fail,
        &["10de:2901 B200", "newer than driver 550.163.01", "--profile ubuntu"],
    );
    fake.write(&file("device"), "0x2999");
    is(&check(&packed), Verdict::Fail, &["10de:2999", "the 2 GPUs of driver", "pins update"]);
    packed.chips = Err("its symbols were stripped".into());
    is(&check(&packed), Verdict::Warn, &["unknown", "stripped"]);
}

/// An image whose driver cannot be read says nothing of GPUs: the built-in list does.
#[test]
fn the_built_in_list_stands_in_for_a_driver_that_cannot_be_read() {
    let mut packed = packed(Err("not read".into()));
    packed.unread = Some(Error::new("fsck.erofs is not here").hint("apt install erofs-utils"));
    is(&packed.check(), Verdict::Warn, &["550.163.01", "fsck.erofs is not here", "apt install erofs-utils"]);
    let checks = Fake::good().checks_with(Some(&packed));
    let check = checks.iter().find(|check| check.name == "gpu-supported").unwrap();
    is(check, Verdict::Pass, &["L4", "built-in"]);
}

#[test]
fn an_image_that_was_altered_or_has_no_driver_says_so() {
    let mut packed = packed(Ok(Vec::new()));
    is(&packed.check(), Verdict::Pass, &["driver 550.163.01 for kernel 6.12, capabilities compute"]);
    packed.altered.push("/usr/lib/nvidia/x: altered".into());
    is(&packed.check(), Verdict::Fail, &["1 files differ from the manifest", "verify", "/usr/lib/nvidia/x"]);
    packed.manifest.driver = None;
    is(&packed.check(), Verdict::Fail, &["no driver"]);
}

#[test]
fn bars_have_addresses_and_fit() {
    let fake = Fake::good();
    is(&fake.check("gpu-bars"), Verdict::Pass, &["processor has 46", "BAR1 256 MiB"]);
    // An H200: BAR1 has 256 GiB.
    let large = RESOURCE.replace("0x000000400fffffff", "0x0000007fffffffff");
    fake.write(&file("resource"), &large);
    is(&fake.check("gpu-bars"), Verdict::Pass, &["needs 40 address bits", "BAR1 256 GiB"]);
    for number in 2..9 {
        let bdf = format!("0000:{number:02x}:00.0");
        fake.device(&bdf, (0x10de, 0x2335, 0x0302), Some("vfio-pci"), None);
        fake.write(&format!("/sys/bus/pci/devices/{bdf}/resource"), &large);
    }
    is(&fake.check("gpu-bars"), Verdict::Warn, &["needs 42 address bits", "host-phys-bits=on"]);
    fake.write("/proc/cpuinfo", "address sizes : 39 bits physical, 48 bits virtual\n");
    is(&fake.check("gpu-bars"), Verdict::Fail, &["processor has 39"]);
    fake.write("/proc/cpuinfo", "");
    is(&fake.check("gpu-bars"), Verdict::Warn, &["unknown"]);
    fake.write(&file("resource"), &RESOURCE.replace("0x000000000014220c", "0x000000002014220c"));
    is(&fake.check("gpu-bars"), Verdict::Fail, &["BAR1, BAR3 without an address", "Above 4G"]);
    for bad in ["", "nonsense\n0xz 1 2 3\n", &RESOURCE.replacen("0x0000004000000000", "?", 1)] {
        fake.write(&file("resource"), bad);
        is(&fake.check("gpu-bars"), Verdict::Warn, &["has no BARs"]);
    }
}
