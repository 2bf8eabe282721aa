//! Credentials that a VMM passes in SMBIOS tables, as systemd reads them (systemd.io/CREDENTIALS): OEM strings (type 11)
//! `io.systemd.credential:NAME=VALUE`, or `io.systemd.credential.binary:NAME=BASE64`.

use image::config::NotifySocket;
use std::fs::File;
use std::io::Read;

const TABLES: &str = "/sys/firmware/dmi/tables/DMI";
/// Maximum size of the tables in bytes.
const MAX_TABLES: u64 = 1 << 20;
/// SMBIOS structure type of OEM strings.
const OEM_STRINGS: u8 = 11;
const PREFIX: &str = "io.systemd.credential:";
const PREFIX_BINARY: &str = "io.systemd.credential.binary:";

/// Returns the address in `vmm.notify_socket`, if the VMM passed one.
pub fn notify_socket() -> Option<NotifySocket> {
    let mut tables = Vec::new();
    File::open(TABLES).ok()?.take(MAX_TABLES).read_to_end(&mut tables).ok()?;
    let (value, socket) = if let Some(value) = credential(&tables, PREFIX, NotifySocket::CREDENTIAL) {
        (value.clone(), NotifySocket::parse(&value))
    } else {
        let value = credential(&tables, PREFIX_BINARY, NotifySocket::CREDENTIAL)?;
        (value.clone(), NotifySocket::parse_base64(&value))
    };
    if socket.is_none() {
        log::warn!("{}: expected vsock-stream:2:PORT, found {value:?}", NotifySocket::CREDENTIAL);
    }
    socket
}

/// Finds a credential in the structures of SMBIOS tables. Each structure is type, length, handle, fields up to that length, then
/// strings, each ended by a zero, and one more zero.
fn credential(mut tables: &[u8], prefix: &str, name: &str) -> Option<String> {
    while let [kind, length, ..] = *tables {
        let strings = tables.get(usize::from(length).max(4)..)?;
        let end = strings.windows(2).position(|pair| pair == [0, 0])?;
        if kind == OEM_STRINGS {
            for string in strings[..end].split(|byte| *byte == 0) {
                let string = String::from_utf8_lossy(string);
                let found =
                    string.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(name)?.strip_prefix('='));
                if let Some(value) = found {
                    return Some(value.to_owned());
                }
            }
        }
        tables = &strings[end + 2..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn structure(kind: u8, fields: &[u8], strings: &[&str]) -> Vec<u8> {
        let length = u8::try_from(4 + fields.len()).unwrap();
        let mut bytes = [&[kind, length, 7, 0], fields].concat();
        for string in strings {
            bytes.extend_from_slice(string.as_bytes());
            bytes.push(0);
        }
        bytes.extend_from_slice(if strings.is_empty() { &[0, 0] } else { &[0] });
        bytes
    }

    #[test]
    fn the_credential_is_found_among_the_oem_strings() {
        let address = "io.systemd.credential:vmm.notify_socket=vsock-stream:2:9999";
        let tables = [
            structure(1, &[1, 2, 3], &["QEMU", address]),
            structure(2, &[], &[]),
            structure(11, &[2], &["io.systemd.credential:vmm.notify_socket2=x", address]),
            structure(11, &[2], &["io.systemd.credential.binary:vmm.notify_socket=eA=="]),
        ]
        .concat();
        assert_eq!(credential(&tables, PREFIX, "vmm.notify_socket").as_deref(), Some("vsock-stream:2:9999"));
        assert_eq!(credential(&tables, PREFIX_BINARY, "vmm.notify_socket").as_deref(), Some("eA=="));
        assert_eq!(credential(&tables, PREFIX, "other"), None);
        assert_eq!(credential(&structure(1, &[], &[address]), PREFIX, "vmm.notify_socket"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(tables in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = credential(&tables, PREFIX, "vmm.notify_socket");
        }
    }
}
