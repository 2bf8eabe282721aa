//! VFIO: its modules, and access to its nodes (Documentation/driver-api/vfio.rst).

use super::device::Device;
use super::host::{HostRoot, Node};
use super::report::Check;

const CONTAINER: &str = "/dev/vfio/vfio";

/// Whether devices can be bound to vfio-pci, and mapped through the IOMMU.
pub fn modules(host: &HostRoot) -> Check {
    const NAME: &str = "vfio-modules";
    // A driver that is built in has no directory in /sys/module without parameters, but its own on the bus.
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
