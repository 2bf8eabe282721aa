//! KVM (Documentation/virt/kvm/api.rst).

use super::host::{Host, Node};
use super::report::Check;

const NAME: &str = "kvm";
const PATH: &str = "/dev/kvm";

/// What came of a test guest on KVM. Some devices open, and run only kernels that were made for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestGuest {
    /// It ran to its end.
    Ran,
    /// It did not; what QEMU said.
    Failed(Vec<String>),
    /// It could not be started, and why.
    Untried(String),
}

/// Whether guests can run on the processor itself.
pub fn check(host: &Host, test_guest: Option<&TestGuest>) -> Check {
    let flags = host.cpu("flags").unwrap_or_default();
    let flag = flags.split_whitespace().find(|flag| matches!(*flag, "vmx" | "svm"));
    match host.node(PATH) {
        Node::Usable => opened(test_guest),
        Node::Forbidden => Check::fail(
            NAME,
            format!("{PATH} is there and this user may not open it"),
            "add the user to its group (usermod -aG kvm USER) and log in again",
        ),
        Node::Absent => {
            let module = if host.is_amd() { "kvm_amd" } else { "kvm_intel" };
            let (found, remedy) = match flag {
                Some(flag) => (
                    format!("there is no {PATH}; the processor has {flag}"),
                    format!("as root: modprobe {module}; if that is refused, turn virtualisation on in the firmware's settings"),
                ),
                None => (
                    format!("there is no {PATH}, and the processor shows neither vmx nor svm"),
                    "turn virtualisation on in the firmware's settings; in a virtual machine, have nested virtualisation turned on".into(),
                ),
            };
            Check::fail(NAME, found, remedy)
        }
    }
}

/// A device that opens, by what `boot` finds out in the same way.
fn opened(test_guest: Option<&TestGuest>) -> Check {
    let untried = |why: &str| {
        Check::warn(
            NAME,
            format!("{PATH} can be opened; whether a guest runs on it could not be tried: {why}"),
            "name a lock whose QEMU was fetched (host-builder boot fetches it): --lock FILE; or apt install qemu-system-x86",
        )
    };
    match test_guest {
        Some(TestGuest::Ran) => Check::pass(NAME, format!("{PATH} can be opened, and a test guest ran on it")),
        Some(TestGuest::Failed(said)) => Check::fail(
            NAME,
            format!("{PATH} can be opened, but a test guest did not run on it; boot takes tcg here"),
            "use a host whose KVM runs ordinary guests: bare metal, or a virtual machine with nested virtualisation turned on",
        )
        .evidence(said.iter().cloned()),
        Some(TestGuest::Untried(why)) => untried(why),
        None => untried("no test guest was started"),
    }
}
