//! KVM (Documentation/virt/kvm/api.rst).

use super::host::{Host, Node};
use super::report::Check;

const NAME: &str = "kvm";
const PATH: &str = "/dev/kvm";

/// Whether guests can run on the processor itself.
pub fn check(host: &Host) -> Check {
    let flags = host.cpu("flags").unwrap_or_default();
    let flag = flags.split_whitespace().find(|flag| matches!(*flag, "vmx" | "svm"));
    match host.node(PATH) {
        Node::Usable => Check::pass(
            NAME,
            format!("{PATH} can be opened; that guests start is proved by one that has started"),
        ),
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
