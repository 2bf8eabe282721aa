//! vsock: the transport for queries of guests.

use super::host::{HostRoot, Node};
use super::report::Check;

const NAME: &str = "vsock";
const PATH: &str = "/dev/vhost-vsock";

/// Whether the kernel's vhost-vsock can be used. Hybrid sockets need no support from the host's kernel.
pub fn check(host: &HostRoot) -> Check {
    match host.node(PATH) {
        Node::Usable => Check::pass(NAME, format!("{PATH} can be opened: guests answer at vsock:CID")),
        Node::Forbidden => Check::warn(
            NAME,
            format!("this user may not open {PATH}; hybrid sockets (unix:PATH) work without it"),
            "add the user to its group (usermod -aG kvm USER) and log in again; or use hybrid sockets",
        ),
        Node::Absent => Check::warn(
            NAME,
            format!(
                "there is no {PATH}; hybrid sockets (unix:PATH) work without it: Cloud Hypervisor, Firecracker, host-builder boot"
            ),
            "for QEMU's vhost-vsock-pci, as root: modprobe vhost_vsock",
        ),
    }
}
