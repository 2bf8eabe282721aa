//! VFIO (Documentation/driver-api/vfio.rst): the IOMMU that it requires, the groups that it passes
//! to a guest, its modules, and access to its nodes.
//!
//! Source of the options: Documentation/admin-guide/kernel-parameters.txt (`intel_iommu`,
//! `amd_iommu`, `iommu`).

use super::device::{Device, is_vfio};
use super::host::{HostRoot, Node};
use super::report::Check;

const CLASS: &str = "/sys/class/iommu";
const GROUPS: &str = "/sys/kernel/iommu_groups";
/// Drivers that the kernel allows in a group together with VFIO (`driver_managed_dma`): they do no
/// DMA.
const HARMLESS: [&str; 2] = ["pci-stub", "pcieport"];
const CONTAINER: &str = "/dev/vfio/vfio";

/// Whether an IOMMU is on, and whether the host's own devices bypass it.
pub fn iommu(host: &HostRoot) -> Vec<Check> {
    let words = host.cmdline();
    let said: Vec<String> = words.iter().filter(|word| word.contains("iommu")).cloned().collect();
    let evidence = match said.join(" ") {
        said if said.is_empty() => "/proc/cmdline: no iommu option".to_owned(),
        said => format!("/proc/cmdline: {said}"),
    };
    let (units, groups) = (host.names(CLASS).len(), host.names(GROUPS).len());
    // AMD's is on by default: the kernel has no amd_iommu=on.
    let options = if host.is_amd() { "iommu=pt" } else { "intel_iommu=on iommu=pt" };
    if groups == 0 {
        let off = words.iter().find(|word| is_off(word));
        let remedy = match off {
            Some(word) => format!("remove {word} from the kernel command line, and reboot"),
            None if units > 0 && host.is_amd() => {
                "the firmware reports an IOMMU, but the kernel does not use it: find the reason with dmesg | grep AMD-Vi"
                    .to_owned()
            }
            None if units > 0 => format!("add {options} to the kernel command line, and reboot"),
            None => format!(
                "enable the IOMMU in the firmware settings (VT-d on Intel, AMD-Vi on AMD), add {options} to the kernel command line, and reboot; in a virtual machine, add a virtual IOMMU"
            ),
        };
        let found = format!("the IOMMU is off: {GROUPS} has no groups, {CLASS} has {units} units");
        return vec![Check::fail("iommu", found, remedy).evidence([evidence])];
    }
    if units == 0 {
        let found = format!(
            "{GROUPS} has {groups} groups, but {CLASS} has no unit: VFIO creates such groups without an IOMMU (enable_unsafe_noiommu_mode), so a guest could write to all memory"
        );
        let remedy = format!(
            "disable that mode of vfio, and enable the IOMMU: in the firmware settings (VT-d on Intel, AMD-Vi on AMD), and with {options} on the kernel command line"
        );
        return vec![Check::fail("iommu", found, remedy).evidence([evidence])];
    }
    vec![
        Check::pass("iommu", format!("on: {units} units, {groups} groups")).evidence([evidence]),
        passthrough(host, &words),
    ]
}

/// Whether a word of the command line turns passthrough on or off.
fn says(word: &str) -> Option<bool> {
    let (name, value) = word.split_once('=')?;
    let of = |value: &str| match (name, value) {
        ("iommu", "pt") | ("iommu.passthrough", "1" | "y" | "Y" | "on") => Some(true),
        ("iommu", "nopt") | ("iommu.passthrough", "0" | "n" | "N" | "off") => Some(false),
        _ => None,
    };
    value.split(',').rev().find_map(of)
}

fn is_off(word: &str) -> bool {
    let Some((name, value)) = word.split_once('=') else { return false };
    matches!(name, "iommu" | "intel_iommu" | "amd_iommu") && value.split(',').any(|value| value == "off")
}

/// Checks for `iommu=pt`, or a kernel with this default: the type of all groups is `identity` then.
fn passthrough(host: &HostRoot, words: &[String]) -> Check {
    const NAME: &str = "iommu-passthrough";
    // The last word that sets it takes precedence.
    let said = words.iter().rev().find_map(|word| says(word).map(|asked| (word, asked)));
    if let Some((word, true)) = said {
        return Check::pass(NAME, format!("{word} on the kernel command line"));
    }
    let types: Vec<_> =
        host.names(GROUPS).iter().filter_map(|group| host.hint(&format!("{GROUPS}/{group}/type"))).collect();
    if !types.is_empty() && types.iter().all(|kind| kind == "identity") {
        return Check::pass(NAME, "the kernel's default: the type of every group is identity");
    }
    Check::warn(
        NAME,
        "iommu=pt is not on the kernel command line: DMA of the host's devices is translated, which makes them slower",
        "add iommu=pt to the kernel command line; DMA of guests' GPUs is always translated",
    )
}

/// Whether another device of the group is bound to a driver of the host.
pub fn group(host: &HostRoot, gpu: &Device) -> Check {
    const NAME: &str = "gpu-group";
    let Some(group) = &gpu.group else {
        return Check::fail(NAME, "the GPU is in no IOMMU group", "enable the IOMMU: see the check iommu")
            .of(&gpu.bdf);
    };
    let place = format!("/sys/kernel/iommu_groups/{group}/devices");
    let names = host.names(&place);
    let (mut members, mut unknown) = (Vec::new(), Vec::new());
    for bdf in names.iter().filter(|bdf| **bdf != gpu.bdf) {
        match Device::read(host, bdf) {
            Some(device) => members.push(device),
            None => unknown.push(bdf.as_str()),
        }
    }
    let name = |device: &Device| {
        let driver = device.driver.as_deref().unwrap_or("no driver");
        format!("{} {} class {:04x}: {driver}", device.bdf, device.id(), device.class)
    };
    let is_harmless = |driver: &str| is_vfio(driver) || HARMLESS.contains(&driver);
    let in_the_way: Vec<_> = members
        .iter()
        .filter(|device| device.driver.as_deref().is_some_and(|driver| !is_harmless(driver)))
        .collect();
    let evidence: Vec<_> = members.iter().map(name).collect();
    let remedy = "reboot the host; if that does not help, check that /sys can be read";
    if !names.contains(&gpu.bdf) {
        return Check::warn(NAME, format!("unknown: {place} does not list the GPU"), remedy).of(&gpu.bdf);
    }
    if in_the_way.is_empty() && !unknown.is_empty() {
        let found = format!("group {group}: unknown devices: {}", unknown.join(" "));
        return Check::warn(NAME, found, remedy).of(&gpu.bdf).evidence(evidence);
    }
    if in_the_way.is_empty() {
        let others = match members.iter().filter(|device| !device.is_bridge()).count() {
            0 => "the GPU is the only device".to_owned(),
            count => format!("{count} other functions are passed with the GPU"),
        };
        return Check::pass(NAME, format!("group {group}: {others}")).of(&gpu.bdf).evidence(evidence);
    }
    let list = in_the_way.iter().map(|device| device.bdf.as_str()).collect::<Vec<_>>().join(" ");
    let own = |device: &&&Device| {
        device.bdf.rsplit_once('.').map(|(slot, _)| slot) == gpu.bdf.rsplit_once('.').map(|(slot, _)| slot)
    };
    let foreign = in_the_way.iter().filter(|device| !own(device)).count();
    let remedy = if foreign == 0 {
        format!(
            "bind the GPU's other functions as well; as root, for each of {list}: driverctl --nosave set-override BDF vfio-pci"
        )
    } else {
        format!(
            "{foreign} of them belong to other slots: bind them to vfio-pci as well, or move the GPU to a slot with its own group (ACS on the switch above it)"
        )
    };
    Check::fail(NAME, format!("group {group}: bound to drivers of the host: {list}"), remedy)
        .of(&gpu.bdf)
        .evidence(evidence)
}

/// Whether devices can be bound to vfio-pci, and mapped through the IOMMU.
pub fn modules(host: &HostRoot) -> Check {
    const NAME: &str = "vfio-modules";
    // A driver that is built in has no directory in /sys/module without parameters, but its own on
    // the bus.
    let pci = host.has("/sys/bus/pci/drivers/vfio-pci") || host.has("/sys/module/vfio_pci");
    let iommu = host.has("/sys/module/vfio_iommu_type1") || host.has("/dev/iommu");
    let missing: Vec<_> =
        [(pci, "vfio-pci"), (iommu, "vfio_iommu_type1")].into_iter().filter(|(there, _)| !there).collect();
    if missing.is_empty() {
        return Check::pass(NAME, "vfio-pci and its IOMMU driver are loaded");
    }
    let names = missing.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    Check::fail(
        NAME,
        format!("not loaded: {names}"),
        "as root: modprobe vfio-pci; and at every boot: echo vfio-pci > /etc/modules-load.d/vfio-pci.conf",
    )
}

/// Whether this user may open the container and the groups of the GPUs.
pub fn access(host: &HostRoot, gpus: &[Device]) -> Check {
    const NAME: &str = "vfio-access";
    let rule = "as root, add a udev rule: SUBSYSTEM==\"vfio\", GROUP=\"kvm\", MODE=\"0660\"; or chown the node to the user who starts guests";
    match host.node(CONTAINER) {
        Node::Absent => {
            return Check::fail(
                NAME,
                format!("there is no {CONTAINER}"),
                "as root: modprobe vfio-pci, which creates the node",
            );
        }
        Node::Forbidden => return Check::fail(NAME, format!("this user may not open {CONTAINER}"), rule),
        Node::Usable => {}
    }
    let mut forbidden = Vec::new();
    let (mut usable, mut absent) = (Vec::new(), Vec::new());
    for group in gpus.iter().filter_map(|gpu| gpu.group.as_deref()) {
        let node = format!("/dev/vfio/{group}");
        match host.node(&node) {
            Node::Usable => usable.push(node),
            Node::Forbidden => forbidden.push(node),
            Node::Absent if host.has(&format!("/dev/vfio/noiommu-{group}")) => {
                return Check::fail(
                    NAME,
                    format!(
                        "group {group} is bound without an IOMMU (/dev/vfio/noiommu-{group}): a guest could write to all memory"
                    ),
                    "enable the IOMMU, and disable enable_unsafe_noiommu_mode of vfio",
                );
            }
            Node::Absent => absent.push(node),
        }
    }
    if !forbidden.is_empty() {
        return Check::fail(NAME, format!("this user may not open {}", forbidden.join(", ")), rule);
    }
    if !absent.is_empty() {
        return Check::warn(
            NAME,
            format!("{CONTAINER} can be opened; these do not exist yet: {}", absent.join(", ")),
            "bind the GPU to vfio-pci, which creates the node, and run doctor again",
        );
    }
    let also = if usable.is_empty() { String::new() } else { format!(", and {}", usable.join(", ")) };
    Check::pass(NAME, format!("{CONTAINER} can be opened{also}"))
}
