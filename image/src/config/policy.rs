//! What is done when something ends, and who is told.

use base64::prelude::{BASE64_STANDARD, Engine};
/// What a failed boot ends in, after its lingering.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailureAction {
    /// ACPI power off.
    #[default]
    PowerOff,
    /// Reboot.
    Reboot,
    /// The guest stays and answers until the host ends it.
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

/// Whether the container's program is started again when it has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restart {
    /// It is not.
    #[default]
    No,
    /// When it failed, at most so many times.
    OnFailure(u32),
    /// However it ended.
    Always,
}

impl Restart {
    /// `no`, `always`, `on-failure` or `on-failure:N`, as container engines write it.
    pub(super) fn named(text: &str) -> Option<Self> {
        match text {
            "no" => Some(Self::No),
            "always" => Some(Self::Always),
            "on-failure" => Some(Self::OnFailure(u32::MAX)),
            text => text.strip_prefix("on-failure:")?.parse().ok().map(Self::OnFailure),
        }
    }

    /// Whether a program that ended well or not is started again, after it was so many times.
    pub fn applies(self, well: bool, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(most) => !well && restarts < most,
            Self::Always => true,
        }
    }
}

/// Where a supervisor on the host takes systemd's notifications: the value of `vmm.notify_socket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotifySocket {
    /// Each notification is a packet (`vsock:`, `vsock-seqpacket:`) or a stream that ends (`vsock-stream:`).
    pub packets: bool,
    /// The context id; only the host's, 2, is taken.
    pub cid: u32,
    /// The port there.
    pub port: u32,
}

impl NotifySocket {
    /// The credential of systemd's that names it.
    pub const CREDENTIAL: &str = "vmm.notify_socket";

    /// An address as sd_notify(3) writes it, of the kinds that virtio-vsock has.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, address) = text.trim_end_matches(['\n', '\0']).split_once(':')?;
        let packets = match kind {
            "vsock" | "vsock-seqpacket" => true,
            "vsock-stream" => false,
            _ => return None,
        };
        host_port(address).map(|port| Self { packets, cid: HOST, port })
    }

    /// The same in Base64, as credentials with any bytes are passed.
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
