//! KVM (Documentation/virt/kvm/api.rst), and vsock, the transport for queries of guests.

use super::host::{HostRoot, Node};
use super::report::Check;

/// Name of the check of KVM.
const KVM_CHECK: &str = "kvm";
const KVM: &str = "/dev/kvm";
const VSOCK: &str = "/dev/vhost-vsock";

/// Result of a test guest on KVM. Some devices can be opened but run only kernels that were made
/// for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestGuest {
    /// It ran to its end.
    Ran,
    /// It did not run; the output of QEMU.
    Failed(Vec<String>),
    /// It could not be started; the reason.
    Untried(String),
}

/// Whether guests can run on the processor instead of being emulated.
pub fn kvm(host: &HostRoot, test_guest: Option<&TestGuest>) -> Check {
    let flags = host.cpu("flags").unwrap_or_default();
    let flag = flags.split_whitespace().find(|flag| matches!(*flag, "vmx" | "svm"));
    match host.node(KVM) {
        Node::Usable => opened(test_guest),
        Node::Forbidden => Check::fail(
            KVM_CHECK,
            format!("{KVM} exists, but this user may not open it"),
            "add the user to its group (usermod -aG kvm USER) and log in again",
        ),
        Node::Absent => {
            let module = if host.is_amd() { "kvm_amd" } else { "kvm_intel" };
            let (found, remedy) = match flag {
                Some(flag) => (
                    format!("there is no {KVM}; the processor has {flag}"),
                    format!("as root: modprobe {module}; if that fails, enable virtualisation in the firmware settings"),
                ),
                None => (
                    format!("there is no {KVM}, and the processor has neither vmx nor svm"),
                    "enable virtualisation in the firmware settings; in a virtual machine, enable nested virtualisation on its host".into(),
                ),
            };
            Check::fail(KVM_CHECK, found, remedy)
        }
    }
}

/// Checks a device that can be opened with a test guest, in the same way as `boot`.
fn opened(test_guest: Option<&TestGuest>) -> Check {
    let untried = |why: &str| {
        Check::warn(
            KVM_CHECK,
            format!("{KVM} can be opened; no test guest could be run on it: {why}"),
            "pass a lock whose QEMU is in the cache (host-builder boot fetches it): --lock FILE; or apt install qemu-system-x86",
        )
    };
    match test_guest {
        Some(TestGuest::Ran) => Check::pass(KVM_CHECK, format!("{KVM} can be opened, and a test guest ran on it")),
        Some(TestGuest::Failed(said)) => Check::fail(
            KVM_CHECK,
            format!("{KVM} can be opened, but a test guest did not run on it; boot uses tcg here"),
            "use a host whose KVM runs ordinary guests: bare metal, or a virtual machine with nested virtualisation",
        )
        .evidence(said.iter().cloned()),
        Some(TestGuest::Untried(why)) => untried(why),
        None => untried("no test guest was started"),
    }
}

/// Whether the kernel's vhost-vsock can be used. Hybrid sockets need no support from the host's
/// kernel.
pub fn vsock(host: &HostRoot) -> Check {
    const NAME: &str = "vsock";
    match host.node(VSOCK) {
        Node::Usable => Check::pass(NAME, format!("{VSOCK} can be opened: guests answer at vsock:CID")),
        Node::Forbidden => Check::warn(
            NAME,
            format!("this user may not open {VSOCK}; hybrid sockets (unix:PATH) work without it"),
            "add the user to its group (usermod -aG kvm USER) and log in again; or use hybrid sockets",
        ),
        Node::Absent => Check::warn(
            NAME,
            format!(
                "there is no {VSOCK}; hybrid sockets (unix:PATH) work without it: Cloud Hypervisor, Firecracker, host-builder boot"
            ),
            "for QEMU's vhost-vsock-pci, as root: modprobe vhost_vsock",
        ),
    }
}
