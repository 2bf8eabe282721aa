//! The address of a guest, as typed on the command line.

use image::wire::DEFAULT_PORT;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

const FORMS: &str = "expected unix:PATH[:PORT] or vsock:CID[:PORT]";

/// A guest's status port, and how to connect to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The hybrid Unix socket of Firecracker, Cloud Hypervisor and vhost-device-vsock.
    Unix {
        /// The socket.
        path: PathBuf,
        /// The port in the guest.
        port: u32,
    },
    /// AF_VSOCK, through the host's kernel.
    Vsock {
        /// The guest's context id.
        cid: u32,
        /// The port in the guest.
        port: u32,
    },
}

impl Target {
    /// The port in the guest.
    pub fn port(&self) -> u32 {
        match self {
            Self::Unix { port, .. } | Self::Vsock { port, .. } => *port,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, port } => write!(out, "unix:{}:{port}", path.display()),
            Self::Vsock { cid, port } => write!(out, "vsock:{cid}:{port}"),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let (path, port) = unix(rest);
            if path.is_empty() {
                return Err(format!("{FORMS}, found no path in {text:?}"));
            }
            return Ok(Self::Unix { path: path.into(), port });
        }
        let rest = text.strip_prefix("vsock:").ok_or_else(|| format!("{FORMS}, found {text:?}"))?;
        let (cid, port) = rest.split_once(':').map_or((rest, None), |(cid, port)| (cid, Some(port)));
        let number = |what: &str, word: &str| {
            word.parse::<u32>().map_err(|_| format!("{FORMS}, found {what} {word:?} in {text:?}"))
        };
        let port = port.map_or(Ok(DEFAULT_PORT), |port| number("port", port))?;
        Ok(Self::Vsock { cid: number("CID", cid)?, port })
    }
}

/// A path may contain colons: only a number after the last one is a port.
fn unix(rest: &str) -> (&str, u32) {
    if let Some((path, last)) = rest.rsplit_once(':')
        && let Ok(port) = last.parse()
    {
        return (path, port);
    }
    (rest, DEFAULT_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &str, port: u32) -> Target {
        Target::Unix { path: path.into(), port }
    }

    #[test]
    fn both_forms_with_and_without_port() {
        let read = |text: &str| text.parse::<Target>();
        assert_eq!(read("unix:out/v.sock"), Ok(unix("out/v.sock", 1042)));
        assert_eq!(read("unix:/a:b:7"), Ok(unix("/a:b", 7)));
        assert_eq!(read("unix:/a:b"), Ok(unix("/a:b", 1042)));
        assert_eq!(read("vsock:3"), Ok(Target::Vsock { cid: 3, port: 1042 }));
        assert_eq!(read("vsock:3:9"), Ok(Target::Vsock { cid: 3, port: 9 }));
        assert_eq!(read("unix:/x:9").unwrap().to_string(), "unix:/x:9");
        assert_eq!(read("vsock:3").unwrap().to_string(), "vsock:3:1042");
    }

    #[test]
    fn anything_else_is_refused_with_the_forms() {
        for text in ["", "unix:", "unix::5", "vsock:", "vsock:x", "vsock:3:", "vsock:3:-1", "/tmp/v.sock"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.starts_with(FORMS), "{text}: {error}");
        }
    }
}
