//! vsock without a kernel module on the host: the vhost-device-vsock daemon runs next to the guest. It listens on a Unix
//! socket and speaks the hybrid protocol of Firecracker and Cloud Hypervisor (see [`crate::guest_client`]).

use super::vsock_gate::{Gate, Paths};
use crate::artifacts::cache::Cache;
use crate::common::error::{Doing, Error, Result};
use crate::common::interrupt::Guard;
use crate::common::ui::Ui;
use crate::programs::process::Background;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Name of the daemon and of its crate.
pub const DAEMON: &str = "vhost-device-vsock";
/// The release that is installed if there is none.
pub const DAEMON_VERSION: &str = "0.3.0";
/// Longest time for the daemon to create its sockets. It needs milliseconds on an idle machine.
const START: Duration = Duration::from_secs(20);
/// Longest path of a Unix socket: 108 bytes with the terminator (unix(7)).
const SOCKET_PATH: usize = 107;

/// A running vsock backend for one guest. It is killed when this is dropped, and its sockets are removed.
pub struct VsockBackend {
    gate: Option<Gate>,
    daemon: Background,
    vhost: PathBuf,
    uds: PathBuf,
    guards: [Guard; 3],
}

impl VsockBackend {
    /// Starts `daemon` for the guest `cid`: vhost-user socket and log in `dir`, the hybrid socket at `uds`. Clients are
    /// refused until QEMU reports at `monitor`, its monitor's socket, that the guest's vsock device runs.
    pub fn start(daemon: &Path, dir: &Path, uds: &Path, cid: u32, monitor: &Path) -> Result<Self> {
        let vhost = dir.join("vhost-vsock.sock");
        check(&vhost)?;
        prepare(uds)?;
        let mut aside = uds.as_os_str().to_owned();
        aside.push(".starting");
        let aside = PathBuf::from(aside);
        let guards = [&vhost, uds, &aside].map(Guard::new);
        let mut command = Command::new(daemon);
        command.args(arguments(&vhost, uds, cid));
        let daemon = Background::start(command, &dir.join("vhost-vsock.log"))?;
        let mut backend = Self { gate: None, daemon, vhost, uds: uds.to_owned(), guards };
        // It creates this socket last.
        backend.daemon.wait_ready(START, "the vsock backend's socket", || backend.vhost.exists())?;
        backend.gate = Some(Gate::start(Paths { monitor: monitor.to_owned(), uds: uds.to_owned(), aside })?);
        Ok(backend)
    }

    /// The vhost-user socket, for QEMU.
    pub fn vhost(&self) -> &Path {
        &self.vhost
    }

    /// The hybrid socket, for the host's programs.
    pub fn uds(&self) -> &Path {
        &self.uds
    }

    /// The output of the daemon, and the reason why clients are still refused after a failure.
    pub fn messages(&self) -> String {
        match self.gate.as_ref().and_then(Gate::trouble) {
            Some(error) => {
                format!("{}waiting for the vsock device: {}\n", self.daemon.output(), error.chain())
            }
            None => self.daemon.output(),
        }
    }
}

impl Drop for VsockBackend {
    fn drop(&mut self) {
        self.daemon.kill();
        self.gate = None;
        for guard in &self.guards {
            let _ = fs::remove_file(guard.path());
        }
    }
}

fn arguments(vhost: &Path, uds: &Path, cid: u32) -> [String; 2] {
    let vm = format!("guest-cid={cid},socket={},uds-path={}", vhost.display(), uds.display());
    ["--vm".into(), vm]
}

/// Checks that a path is valid for the daemon's option and for a socket address.
fn check(socket: &Path) -> Result<()> {
    let found = socket.as_os_str().as_bytes();
    let hint =
        "choose a shorter path without special characters: --uds PATH, and TMPDIR for the other socket";
    if found.len() > SOCKET_PATH {
        let message = format!(
            "{}: the path of the socket has {} bytes (expected at most {SOCKET_PATH})",
            socket.display(),
            found.len()
        );
        return Err(Error::new(message).hint(hint));
    }
    if found.contains(&b',') || socket.to_str().is_none() {
        let message = format!("{}: the path of a socket must be UTF-8 without commas", socket.display());
        return Err(Error::new(message).hint(hint));
    }
    Ok(())
}

/// Prepares the path of the hybrid socket: creates its directory, and removes a stale socket of a killed guest. A
/// socket with a listener, and a file of another type, are errors.
fn prepare(uds: &Path) -> Result<()> {
    check(uds)?;
    if let Some(parent) = uds.parent() {
        fs::create_dir_all(parent).doing("creating", parent)?;
    }
    let metadata = match fs::symlink_metadata(uds) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        result => result.doing("reading", uds)?,
    };
    let hint = "choose another path: --uds PATH";
    if !metadata.file_type().is_socket() {
        let message = format!("{}: expected a socket or nothing, found another file", uds.display());
        return Err(Error::new(message).hint(hint));
    }
    if UnixStream::connect(uds).is_ok() {
        return Err(Error::new(format!("{}: another guest uses this socket", uds.display())).hint(hint));
    }
    fs::remove_file(uds).doing("removing a stale socket", uds)
}

/// The daemon's executable from PATH or the cache, else installed into the cache with cargo, which is reported.
pub fn daemon(cache: &Cache, ui: &Ui) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = in_path(std::env::split_paths(&path)) {
        return Ok(found);
    }
    let installed =
        cache.derived("tools", &format!("{DAEMON}-{DAEMON_VERSION}"), |root| install(root, ui))?;
    let program = installed.join("bin").join(DAEMON);
    if program.is_file() {
        return Ok(program);
    }
    Err(Error::new(format!("{}: the vsock backend does not exist", program.display()))
        .hint(format!("remove {} and run again; the backend is then installed again", installed.display())))
}

fn in_path(mut directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    directories.find_map(|directory| {
        let program = directory.join(DAEMON);
        let metadata = fs::metadata(&program).ok()?;
        (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(program)
    })
}

fn install(root: &Path, ui: &Ui) -> Result<()> {
    let remedy = format!(
        "install Rust (rustup), or the daemon itself: cargo install --locked {DAEMON} --version {DAEMON_VERSION}; \
         or load vhost_vsock and have access to /dev/vhost-vsock"
    );
    ui.line(format!("installing {DAEMON} {DAEMON_VERSION} with cargo, once …"));
    let mut command = Command::new("cargo");
    command.args(["install", "--locked", DAEMON, "--version", DAEMON_VERSION, "--root"]).arg(root);
    command.args(["--quiet", "--no-track"]).stdin(Stdio::null()).stdout(Stdio::null());
    let status = ui.during(&format!("installing {DAEMON}"), || command.status()).map_err(|error| {
        Error::new(format!(
            "{DAEMON}, which a guest needs for vsock, is not installed, and cargo could not be started"
        ))
        .source(error)
        .hint(remedy.clone())
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(format!("cargo install {DAEMON} failed ({status}); see its messages above")).hint(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Shutdown, shutdown};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    #[test]
    fn daemon_arguments() {
        assert_eq!(
            arguments(Path::new("/t/vhu"), Path::new("/t/vm"), 5),
            ["--vm", "guest-cid=5,socket=/t/vhu,uds-path=/t/vm"]
        );
    }

    #[test]
    fn only_a_dead_socket_makes_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/v.sock");
        prepare(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(prepare(&path).unwrap_err().to_string().contains("another guest"));
        // Closing is not enough: a process that another test is about to start has the descriptor until its exec.
        shutdown(listener.as_raw_fd(), Shutdown::Both).unwrap();
        drop(listener);
        prepare(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "x").unwrap();
        assert!(prepare(&path).unwrap_err().to_string().contains("found another file"));
    }

    #[test]
    fn paths_that_no_socket_can_have_are_refused() {
        assert!(check(Path::new(&"x".repeat(107))).is_ok());
        assert!(check(Path::new(&"x".repeat(108))).unwrap_err().to_string().contains("has 108 bytes"));
        assert!(check(Path::new("/a,b")).is_err());
    }

    #[test]
    fn only_an_executable_file_is_taken_from_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join(DAEMON);
        let find = || in_path([PathBuf::from("/nowhere"), dir.path().to_owned()].into_iter());
        assert_eq!(find(), None);
        fs::write(&program, "").unwrap();
        assert_eq!(find(), None);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(), Some(program.clone()));
    }
}
