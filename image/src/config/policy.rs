//! What the guest does when a GPU fails, and when the boot or the container ends, and where it sends notifications.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Serialize};

/// Effect of a GPU failure on the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GpuPolicy {
    /// The container starts only if every expected GPU is usable.
    Required,
    /// The container always starts; failures are findings.
    Optional,
    /// No GPU is used and no driver is loaded.
    Off,
}

/// What happens when the container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerAction {
    /// ACPI power off.
    Off,
    /// Reboot, on which VMMs such as Firecracker exit.
    Reboot,
}

/// What the guest does after a failed boot and the linger time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailureAction {
    /// ACPI power off.
    #[default]
    PowerOff,
    /// Reboot.
    Reboot,
    /// The guest keeps running and answers until the host stops it.
    Hold,
}

impl FailureAction {
    pub(super) fn named(text: &str) -> Option<Self> {
        match text {
            "poweroff" => Some(Self::PowerOff),
            "reboot" => Some(Self::Reboot),
            "hold" => Some(Self::Hold),
            _ => None,
        }
    }
}

/// Which requests a guest accepts from the host, apart from questions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// Questions only.
    None,
    /// The host may stop the guest.
    #[default]
    Stop,
    /// The host may also run commands in the container, and copy files.
    Exec,
}

impl Control {
    /// Every level, lowest first.
    pub const ALL: [Self; 3] = [Self::None, Self::Stop, Self::Exec];

    /// Parses the name of a level.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| crate::text::name(level) == text)
    }
}

/// When the container's program is restarted after it has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// If it failed, at most this number of times.
    OnFailure(u32),
    /// Always, however it ended.
    Always,
}

impl Restart {
    /// `no`, `always`, `on-failure` or `on-failure:N`, as container engines do.
    pub(super) fn named(text: &str) -> Option<Self> {
        match text {
            "no" => Some(Self::No),
            "always" => Some(Self::Always),
            "on-failure" => Some(Self::OnFailure(u32::MAX)),
            text => text.strip_prefix("on-failure:")?.parse().ok().map(Self::OnFailure),
        }
    }

    /// Returns whether a program is restarted, after it ended (`well` if successfully) and `restarts` earlier restarts.
    pub fn applies(self, well: bool, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(most) => !well && restarts < most,
            Self::Always => true,
        }
    }
}

/// The address of a supervisor on the host that accepts systemd's notifications: the value of `vmm.notify_socket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotifySocket {
    /// Whether each notification is a packet (`vsock:`, `vsock-seqpacket:`) or a stream of its own (`vsock-stream:`).
    pub packets: bool,
    /// The context id; only that of the host, 2, is accepted.
    pub cid: u32,
    /// The port on the host.
    pub port: u32,
}

impl NotifySocket {
    /// The systemd credential that contains the address.
    pub const CREDENTIAL: &str = "vmm.notify_socket";

    /// Parses an address in the syntax of sd_notify(3), of the kinds that virtio-vsock supports.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, address) = text.trim_end_matches(['\n', '\0']).split_once(':')?;
        let packets = match kind {
            "vsock" | "vsock-seqpacket" => true,
            "vsock-stream" => false,
            _ => return None,
        };
        host_port(address).map(|port| Self { packets, cid: HOST, port })
    }

    /// Parses an address in Base64, the form of credentials with arbitrary bytes.
    pub fn parse_base64(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text.trim_end_matches(['\n', '\0'])).ok()?;
        Self::parse(str::from_utf8(&bytes).ok()?)
    }
}

/// The host's context id.
const HOST: u32 = 2;

/// The port of `2:PORT`.
fn host_port(address: &str) -> Option<u32> {
    let (cid, port) = address.split_once(':')?;
    (cid.parse() == Ok(HOST)).then(|| port.parse().ok()).flatten()
}

/// The port of `vsock:2:PORT`.
pub(super) fn notify(text: &str) -> Option<u32> {
    host_port(text.strip_prefix("vsock:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_counted() {
        assert_eq!(Restart::named("on-failure:2"), Some(Restart::OnFailure(2)));
        assert_eq!(Restart::named("on-failure:x"), None);
        let twice = Restart::OnFailure(2);
        assert!(twice.applies(false, 1) && !twice.applies(false, 2) && !twice.applies(true, 0));
        assert!(Restart::Always.applies(true, u32::MAX) && !Restart::No.applies(false, 0));
    }

    #[test]
    fn only_the_host_is_notified() {
        let read = NotifySocket::parse;
        assert_eq!(read("vsock-stream:2:7\n"), Some(NotifySocket { packets: false, cid: 2, port: 7 }));
        assert_eq!(read("vsock:2:7"), Some(NotifySocket { packets: true, cid: 2, port: 7 }));
        for text in
            ["vsock-stream:3:7", "vsock-dgram:2:7", "/run/systemd/notify", "vsock-stream:2", "vsock:2:x", ""]
        {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(notify("vsock:2:9"), Some(9));
        assert_eq!(notify("vsock:9"), None);
    }
}
