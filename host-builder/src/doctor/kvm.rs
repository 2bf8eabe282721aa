//! KVM (Documentation/virt/kvm/api.rst).

use super::host::{HostRoot, Node};
use super::report::Check;

const NAME: &str = "kvm";
const PATH: &str = "/dev/kvm";

/// Result of a test guest on KVM. Some devices can be opened but run only kernels that were made for them.
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
pub fn check(host: &HostRoot, test_guest: Option<&TestGuest>) -> Check {
    let flags = host.cpu("flags").unwrap_or_default();
    let flag = flags.split_whitespace().find(|flag| matches!(*flag, "vmx" | "svm"));
    match host.node(PATH) {
        Node::Usable => opened(test_guest),
        Node::Forbidden => Check::fail(
            NAME,
            format!("{PATH} exists, but this user may not open it"),
            "add the user to its group (usermod -aG kvm USER) and log in again",
        ),
        Node::Absent => {
            let module = if host.is_amd() { "kvm_amd" } else { "kvm_intel" };
            let (found, remedy) = match flag {
                Some(flag) => (
                    format!("there is no {PATH}; the processor has {flag}"),
                    format!("as root: modprobe {module}; if that fails, enable virtualisation in the firmware settings"),
                ),
                None => (
                    format!("there is no {PATH}, and the processor has neither vmx nor svm"),
                    "enable virtualisation in the firmware settings; in a virtual machine, enable nested virtualisation on its host".into(),
                ),
            };
            Check::fail(NAME, found, remedy)
        }
    }
}

/// Checks a device that can be opened with a test guest, in the same way as `boot`.
fn opened(test_guest: Option<&TestGuest>) -> Check {
    let untried = |why: &str| {
        Check::warn(
            NAME,
            format!("{PATH} can be opened; no test guest could be run on it: {why}"),
            "pass a lock whose QEMU is in the cache (host-builder boot fetches it): --lock FILE; or apt install qemu-system-x86",
        )
    };
    match test_guest {
        Some(TestGuest::Ran) => Check::pass(NAME, format!("{PATH} can be opened, and a test guest ran on it")),
        Some(TestGuest::Failed(said)) => Check::fail(
            NAME,
            format!("{PATH} can be opened, but a test guest did not run on it; boot uses tcg here"),
            "use a host whose KVM runs ordinary guests: bare metal, or a virtual machine with nested virtualisation",
        )
        .evidence(said.iter().cloned()),
        Some(TestGuest::Untried(why)) => untried(why),
        None => untried("no test guest was started"),
    }
}
