//! Checks of the machine.

use super::fake::{Fake, as_nobody};
use crate::doctor::{Asked, TestGuest, Verdict, check_host};

fn is(fake: &Fake, name: &str, verdict: Verdict, words: &[&str]) {
    let check = fake.check(name);
    assert_eq!(check.verdict, verdict, "{check:?}");
    for word in words {
        let said = format!("{} {} {:?}", check.found, check.remedy, check.evidence);
        assert!(said.contains(word), "{word}: {check:?}");
    }
    assert!(verdict == Verdict::Pass || !check.remedy.is_empty(), "{check:?}");
}

/// [`is`] for a user without rights, who is not root.
fn is_to_nobody(fake: &Fake, name: &str, verdict: Verdict, words: &[&str]) {
    as_nobody(|| is(fake, name, verdict, words));
}

#[test]
fn kvm_is_there_and_may_be_opened() {
    let fake = Fake::good();
    is(&fake, "kvm", Verdict::Pass, &["/dev/kvm"]);
    fake.forbid("/dev/kvm");
    is_to_nobody(&fake, "kvm", Verdict::Fail, &["may not open", "kvm USER"]);
    fake.remove("/dev/kvm");
    is(&fake, "kvm", Verdict::Fail, &["vmx", "modprobe kvm_intel"]);
    fake.write("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t: fpu svm\n");
    is(&fake, "kvm", Verdict::Fail, &["svm", "modprobe kvm_amd"]);
    fake.write("/proc/cpuinfo", "flags\t: fpu\n");
    is(&fake, "kvm", Verdict::Fail, &["neither vmx nor svm", "nested"]);
}

#[test]
fn what_came_of_the_test_guest_decides_about_kvm() {
    let fake = Fake::good();
    is(&fake, "kvm", Verdict::Pass, &["a test guest ran on it"]);
    let kvm = |test_guest: Option<&TestGuest>| {
        let checks = check_host(&fake.host(), &Asked { test_guest, ..Asked::default() }).unwrap();
        checks.into_iter().find(|check| check.name == "kvm").unwrap()
    };
    let check = kvm(Some(&TestGuest::Failed(vec!["qemu: no such MSR".into()])));
    assert_eq!((check.verdict, &*check.evidence), (Verdict::Fail, &["qemu: no such MSR".to_owned()][..]));
    assert!(check.found.contains("did not run on it") && !check.remedy.is_empty());
    let check = kvm(Some(&TestGuest::Untried("no QEMU".into())));
    assert_eq!(check.verdict, Verdict::Warn);
    assert!(
        check.found.ends_with("no test guest could be run on it: no QEMU")
            && check.remedy.contains("--lock FILE")
    );
    assert_eq!(kvm(None).verdict, Verdict::Warn);
}

#[test]
fn an_iommu_is_on_off_or_switched_off() {
    let fake = Fake::good();
    is(&fake, "iommu", Verdict::Pass, &["1 units, 1 groups", "intel_iommu=on"]);
    // VFIO makes groups without an IOMMU, too.
    fake.remove("/sys/class/iommu");
    is(&fake, "iommu", Verdict::Fail, &["1 groups", "no unit", "enable_unsafe_noiommu_mode", "VT-d"]);
    fake.write("/sys/class/iommu/dmar0/x", "");
    fake.remove("/sys/kernel/iommu_groups");
    fake.write("/proc/cmdline", "quiet");
    is(&fake, "iommu", Verdict::Fail, &["off", "add intel_iommu=on iommu=pt", "no iommu option"]);
    fake.remove("/sys/class/iommu");
    is(&fake, "iommu", Verdict::Fail, &["VT-d", "intel_iommu=on iommu=pt"]);
    fake.write("/proc/cpuinfo", "vendor_id : AuthenticAMD\n");
    is(&fake, "iommu", Verdict::Fail, &["AMD-Vi", "add iommu=pt to"]);
    fake.write("/sys/class/iommu/ivhd0/x", "");
    is(&fake, "iommu", Verdict::Fail, &["dmesg | grep AMD-Vi"]);
    fake.write("/proc/cmdline", "amd_iommu=off");
    is(&fake, "iommu", Verdict::Fail, &["remove amd_iommu=off from"]);
}

#[test]
fn passthrough_is_asked_for_or_the_kernels_default() {
    let fake = Fake::good();
    is(&fake, "iommu-passthrough", Verdict::Pass, &["iommu=pt"]);
    for (words, verdict) in [
        ("iommu=pt iommu=nopt", Verdict::Warn),
        ("iommu.passthrough=0 iommu=soft,pt", Verdict::Pass),
        ("iommu=pt iommu.passthrough=off", Verdict::Warn),
        ("iommu=force iommu.passthrough=on", Verdict::Pass),
        ("xiommu=pt", Verdict::Warn),
    ] {
        fake.write("/proc/cmdline", words);
        is(&fake, "iommu-passthrough", verdict, &[]);
    }
    fake.write("/proc/cmdline", "intel_iommu=on");
    is(&fake, "iommu-passthrough", Verdict::Warn, &["iommu=pt"]);
    fake.write("/sys/kernel/iommu_groups/14/type", "identity\n");
    is(&fake, "iommu-passthrough", Verdict::Pass, &["identity"]);
    fake.write("/sys/kernel/iommu_groups/14/type", "DMA-FQ\n");
    is(&fake, "iommu-passthrough", Verdict::Warn, &[]);
}

#[test]
fn vfio_has_its_modules() {
    let fake = Fake::good();
    is(&fake, "vfio-modules", Verdict::Pass, &[]);
    fake.remove("/sys/module/vfio_iommu_type1");
    is(&fake, "vfio-modules", Verdict::Fail, &["not loaded: vfio_iommu_type1", "modprobe vfio-pci"]);
    fake.write("/dev/iommu", "");
    is(&fake, "vfio-modules", Verdict::Pass, &[]);
    fake.remove("/sys/bus/pci/drivers/vfio-pci");
    is(&fake, "vfio-modules", Verdict::Fail, &["not loaded: vfio-pci"]);
}

#[test]
fn vfios_nodes_may_be_opened() {
    let fake = Fake::good();
    is(&fake, "vfio-access", Verdict::Pass, &["/dev/vfio/14"]);
    fake.forbid("/dev/vfio/14");
    is_to_nobody(&fake, "vfio-access", Verdict::Fail, &["may not open /dev/vfio/14", "udev"]);
    fake.remove("/dev/vfio/14");
    is(&fake, "vfio-access", Verdict::Warn, &["do not exist yet: /dev/vfio/14"]);
    fake.write("/dev/vfio/noiommu-14", "");
    is(&fake, "vfio-access", Verdict::Fail, &["without an IOMMU"]);
    fake.forbid("/dev/vfio/vfio");
    is_to_nobody(&fake, "vfio-access", Verdict::Fail, &["may not open /dev/vfio/vfio"]);
    fake.remove("/dev/vfio/vfio");
    is(&fake, "vfio-access", Verdict::Fail, &["no /dev/vfio/vfio"]);
}

#[test]
fn locked_memory_holds_a_guest() {
    let fake = Fake::good();
    is(&fake, "memlock", Verdict::Pass, &["unlimited"]);
    let limit = |bytes: u64| {
        fake.write(
            "/proc/self/limits",
            &format!("Max locked memory         {bytes}              {bytes}              bytes\n"),
        );
    };
    limit(8 << 20);
    is(&fake, "memlock", Verdict::Fail, &["8 MiB may be locked", "2048 MiB", "LimitMEMLOCK=infinity"]);
    limit(4 << 30);
    is(&fake, "memlock", Verdict::Pass, &["4096 MiB"]);
    limit(8 << 20);
    let without = check_host(&fake.host(), &Asked::default()).unwrap();
    assert_eq!(without.iter().find(|check| check.name == "memlock").unwrap().verdict, Verdict::Warn);
    fake.write("/proc/self/status", "CapEff:\t0000000000004000\n");
    is(&fake, "memlock", Verdict::Pass, &["CAP_IPC_LOCK"]);
    fake.write("/proc/self/uid_map", "         0          0 4294967295\n");
    is(&fake, "memlock", Verdict::Pass, &["CAP_IPC_LOCK"]);
    // In a user namespace everybody is somebody, and VFIO does not ask there.
    fake.write("/proc/self/uid_map", "         0       1000          1\n");
    is(&fake, "memlock", Verdict::Fail, &["8 MiB may be locked"]);
    fake.write("/proc/self/status", "");
    fake.write("/proc/self/limits", "nothing");
    is(&fake, "memlock", Verdict::Warn, &["unknown"]);
    fake.remove("/proc/self/limits");
    is(&fake, "memlock", Verdict::Warn, &["unknown"]);
}

/// What cannot be read is not what is not there.
#[test]
fn an_unreadable_file_is_unknown_and_not_absent() {
    let fake = Fake::good();
    fake.remove("/proc/self/limits");
    std::fs::create_dir(fake.path("/proc/self/limits")).unwrap();
    is(&fake, "memlock", Verdict::Warn, &["unknown: reading /proc/self/limits"]);
}

#[test]
fn huge_pages_suffice_or_not() {
    let fake = Fake::good();
    let free = |count: &str| fake.write("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", count);
    is(&fake, "huge-pages", Verdict::Pass, &["4096 MiB free"]);
    free("1000");
    // 1024 pages for the guest, in addition to the 3096 in use.
    is(&fake, "huge-pages", Verdict::Warn, &["2000 MiB free", "1024 pages of 2048 KiB", "echo 4120 >"]);
    fake.write("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "2");
    fake.write("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "2");
    is(&fake, "huge-pages", Verdict::Pass, &["pages of 1048576 KiB"]);
    fake.remove("/sys/kernel/mm/hugepages");
    is(&fake, "huge-pages", Verdict::Warn, &["no huge pages"]);
}

#[test]
fn vsock_is_the_kernels_or_hybrid() {
    let fake = Fake::good();
    is(&fake, "vsock", Verdict::Pass, &["/dev/vhost-vsock"]);
    fake.forbid("/dev/vhost-vsock");
    is_to_nobody(&fake, "vsock", Verdict::Warn, &["may not open"]);
    fake.remove("/dev/vhost-vsock");
    is(&fake, "vsock", Verdict::Warn, &["hybrid", "modprobe vhost_vsock"]);
}

#[test]
fn nvswitches_ask_for_something() {
    let fake = Fake::good();
    is(&fake, "fabric", Verdict::Pass, &["no NVSwitch"]);
    for id in ["0x2901", "0x3182", "0xf000"] {
        fake.write("/sys/bus/pci/devices/0000:01:00.0/device", id);
        is(&fake, "fabric", Verdict::Warn, &["since B200", "nvlsm", &id.replace("0x", "10de:")]);
    }
    fake.write("/sys/bus/pci/devices/0000:01:00.0/device", "0x2330");
    is(&fake, "fabric", Verdict::Pass, &["no NVSwitch"]);
    fake.device("0000:07:00.0", (0x10de, 0x22a3, 0x0680), Some("vfio-pci"), None);
    is(
        &fake,
        "fabric",
        Verdict::Warn,
        &["NVSwitches: 1, GPUs: 1", "NVreg_NvLinkDisable=1", "0000:07:00.0 10de:22a3"],
    );
}
