//! A booted guest: the machine and everything that it needs, in one directory, which is removed at
//! the end of the test.

use std::{
    fs::File,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use host_builder::artifacts::cache::Cache;
use host_builder::common::ui::Ui;
use host_builder::vm::qmp::Qmp;
use host_builder::vm::vsock_backend;
use host_builder::vm::vsock_backend::VsockBackend;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    RigError,
    phantom::{Condition, Model, PhantomGpu, PhantomHandle},
    process::{Background, poll, tail},
    qemu::{Console, Drive, Gpu, Machine, Share, Vm, Vsock},
    slots::{self, Slot},
    tools::Tools,
    vmlinux, vsock,
};

/// Longest time for virtiofsd to create its socket. It needs milliseconds on an idle machine.
const START: Duration = Duration::from_secs(20);
/// Longest time for an answer of QEMU's monitor, on a busy machine.
const MONITOR_ANSWER: Duration = Duration::from_secs(20);
/// The same when a test has failed: QEMU may answer nothing.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// Context id of every guest: each has a backend of its own.
pub const CID: u32 = 5;

/// The hybrid vsock socket, in the guest's directory.
const UDS: &str = "vsock.sock";
/// File with the serial console, in the guest's directory.
const CONSOLE: &str = "console.log";
/// QEMU's monitor, in the guest's directory.
const MONITOR: &str = "monitor.sock";

/// A guest that is not booted yet.
pub struct Setup {
    machine: Machine,
    models: Vec<(Model, Condition)>,
    shared: Vec<(PathBuf, String)>,
    last: Option<Drive>,
    vsock: bool,
    directory: TempDir,
}

impl Setup {
    /// A guest of `kernel` and `initrd` with one CPU, 512 MiB, vsock, no disk and no GPU.
    pub fn new(kernel: &Path, initrd: &Path) -> Result<Self, RigError> {
        let directory = tempfile::Builder::new().prefix("gpu-rig-").tempdir();
        let directory =
            directory.map_err(|e| RigError::io("make a directory in", std::env::temp_dir(), e))?;
        let console = Console::File(directory.path().join(CONSOLE));
        let mut machine = Machine::new(&vmlinux::of(kernel)?, initrd, console);
        // The kernel's tests of its own ciphers are a tenth of an emulated boot.
        machine.cmdline.push_str(" cryptomgr.notests");
        Ok(Self { machine, models: Vec::new(), shared: Vec::new(), last: None, vsock: true, directory })
    }

    /// Adds to the kernel command line.
    #[must_use]
    pub fn cmdline(mut self, more: &str) -> Self {
        self.machine.cmdline.push(' ');
        self.machine.cmdline.push_str(more);
        self
    }

    /// Guest memory in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.machine.memory_mib = mib;
        self
    }

    /// Number of virtual CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.machine.cpus = cpus;
        self
    }

    /// Makes its clock count instructions.
    #[must_use]
    pub fn counting_instructions(mut self) -> Self {
        self.machine.counts_instructions = true;
        self
    }

    /// A disk that the guest may only read.
    #[must_use]
    pub fn disk(self, image: &Path, serial: &str) -> Self {
        self.drive(Drive { image: image.to_owned(), read_only: true, serial: serial.into() })
    }

    /// A disk.
    #[must_use]
    pub fn drive(mut self, drive: Drive) -> Self {
        self.machine.drives.push(drive);
        self
    }

    /// The disk with the driver. It comes after all others, so that their names do not change.
    #[must_use]
    pub fn driver_disk(mut self, image: &Path) -> Self {
        self.last = Some(Drive { image: image.to_owned(), read_only: true, serial: "driver".into() });
        self
    }

    /// An image that the guest has as persistent memory.
    #[must_use]
    pub fn pmem(mut self, image: &Path) -> Self {
        self.machine.pmem.push(image.to_owned());
        self
    }

    /// A directory of the host that the guest mounts by `tag` (virtiofs).
    #[must_use]
    pub fn share(mut self, directory: &Path, tag: &str) -> Self {
        self.shared.push((directory.to_owned(), tag.into()));
        self
    }

    /// One more phantom GPU, on a bus of its own.
    #[must_use]
    pub fn gpu(mut self, model: Model) -> Self {
        self.models.push((model, Condition::Well));
        self
    }

    /// One more phantom GPU, in this condition.
    #[must_use]
    pub fn gpu_that_is(mut self, condition: Condition, model: Model) -> Self {
        self.models.push((model, condition));
        self
    }

    /// An OEM string of its SMBIOS tables.
    #[must_use]
    pub fn oem_string(mut self, string: &str) -> Self {
        self.machine.oem_strings.push(string.into());
        self
    }

    /// Accepts the connections that the guest will open to `port` of the host, as the hybrid socket
    /// forwards them.
    pub fn listen(&self, port: u32) -> Result<UnixListener, RigError> {
        let path = self.directory.path().join(format!("{UDS}_{port}"));
        UnixListener::bind(&path).map_err(|e| RigError::io("listen on", &path, e))
    }

    /// A guest without a vsock device.
    #[must_use]
    pub fn without_vsock(mut self) -> Self {
        self.vsock = false;
        self
    }

    /// Starts everything, with QEMU and virtiofsd from `tools`, as soon as fewer guests run than
    /// there are processors.
    pub fn boot(mut self, tools: &dyn Tools) -> Result<Guest, RigError> {
        let slot = slots::take();
        self.machine.drives.extend(self.last.take());
        let dir = self.directory.path();
        let mut phantoms = Vec::new();
        for (i, &(model, condition)) in self.models.iter().enumerate() {
            let phantom = PhantomGpu::bind(&dir.join(format!("gpu{i}.sock")), model, condition)?.spawn()?;
            self.machine.gpus.push(Gpu::VfioUser(phantom.socket().to_owned()));
            phantoms.push(phantom);
        }
        let mut daemons = Vec::new();
        for (i, (directory, tag)) in self.shared.iter().enumerate() {
            let socket = dir.join(format!("share{i}.sock"));
            daemons.push(virtiofsd(tools, directory, &socket, &dir.join(format!("share{i}.log")))?);
            self.machine.shares.push(Share { socket, tag: tag.clone() });
        }
        let vsock = if self.vsock { Some(vsock_backend(dir)?) } else { None };
        self.machine.vsock = vsock.as_ref().map(|v| Vsock::User(v.vhost().to_owned()));
        self.machine.monitors = vec![dir.join(MONITOR)];
        let console = dir.join(CONSOLE);
        File::create(&console).map_err(|e| RigError::io("create", &console, e))?;
        let vm = self.machine.start(tools, &dir.join("qemu.log"))?;
        Ok(Guest {
            vm,
            vsock,
            _phantoms: phantoms,
            daemons,
            machine: self.machine,
            directory: self.directory,
            _slot: slot,
        })
    }
}

fn vsock_backend(dir: &Path) -> Result<VsockBackend, RigError> {
    let daemon = vsock_backend::daemon(&Cache::open()?, &Ui::new(false))?;
    Ok(VsockBackend::start(&daemon, dir, &dir.join(UDS), CID, &dir.join(MONITOR))?)
}

fn virtiofsd(tools: &dyn Tools, directory: &Path, socket: &Path, log: &Path) -> Result<Background, RigError> {
    let beside = socket.parent().unwrap_or(Path::new("/"));
    let mut command = tools.command("virtiofsd", &[directory.to_owned(), beside.to_owned()]);
    command.arg("--socket-path").arg(socket).arg("--shared-dir").arg(directory);
    // The toolroot's namespace is sandbox enough, and another one needs privileges.
    command.args(["--sandbox=none", "--inode-file-handles=never"]);
    let mut daemon = Background::start(command, log)?;
    daemon.wait_ready(START, "virtiofsd's socket", || socket.exists())?;
    Ok(daemon)
}

/// A booted guest. Everything that belongs to it ends when this is dropped.
pub struct Guest {
    // Dropped in this order: the machine first, so that its devices exist as long as it runs.
    vm: Vm,
    vsock: Option<VsockBackend>,
    _phantoms: Vec<PhantomHandle>,
    daemons: Vec<Background>,
    machine: Machine,
    directory: TempDir,
    _slot: Slot,
}

impl Guest {
    /// All that the guest has written to its serial console, line ends as `\n`.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join(CONSOLE)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Waits until a whole line of the console contains `text`, and returns that line. The guest's
    /// end is an error at once.
    pub fn wait_for_console(&mut self, text: &str, deadline: Duration) -> Result<String, RigError> {
        let mut over = false;
        let line = poll(deadline, || {
            // The end is checked first: everything that the guest wrote is on the console by then.
            over = self.vm.ended()?.is_some();
            let line = find_line(&self.console(), text).map(str::to_owned);
            Ok::<_, RigError>(if line.is_some() || over { Some(line) } else { None })
        })?;
        line.flatten().ok_or_else(|| {
            let ended = if over { " before the guest ended" } else { "" };
            RigError::Deadline {
                what: format!("{text:?} on the console{ended}"),
                deadline,
                context: self.last_words(),
            }
        })
    }

    /// Waits until the guest has powered itself off, and returns its whole console.
    pub fn wait_for_end(&mut self, deadline: Duration) -> Result<(ExitStatus, String), RigError> {
        let status = poll(deadline, || self.vm.ended())?.ok_or_else(|| RigError::Deadline {
            what: "the guest's end".into(),
            deadline,
            context: self.last_words(),
        })?;
        Ok((status, self.console()))
    }

    /// The hybrid vsock socket, for the host's programs. A guest without vsock has none.
    pub fn uds(&self) -> Option<&Path> {
        self.vsock.as_ref().map(VsockBackend::uds)
    }

    /// The address of the guest's vsock `port` in the form for host-builder: `unix:PATH:PORT`. A
    /// guest without vsock has none.
    pub fn address(&self, port: u32) -> Option<String> {
        self.uds().map(|uds| format!("unix:{}:{port}", uds.display()))
    }

    /// A connection to the guest's vsock `port`, as soon as it listens.
    pub fn connect(&self, port: u32, deadline: Duration) -> Result<UnixStream, RigError> {
        let uds = self.uds().ok_or_else(|| RigError::Missing {
            what: "the guest's vsock device".into(),
            remedy: "set it up without `without_vsock`".into(),
        })?;
        vsock::connect(uds, port, deadline)
    }

    /// The machine as it was started.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// QEMU's process id.
    pub fn id(&self) -> u32 {
        self.vm.id()
    }

    /// Removes the phantom GPU that was added as number `index`, counted from 0, while the guest
    /// runs, as an operator does (`device_del`): the guest is asked to release it. Returns once
    /// QEMU has accepted that.
    pub fn unplug(&self, index: usize) -> Result<(), RigError> {
        self.monitor("device_del", &json!({ "id": format!("gpu{index}") }))
    }

    /// Gives QEMU's monitor a command, and returns once QEMU has accepted it.
    pub fn monitor(&self, command: &str, arguments: &serde_json::Value) -> Result<(), RigError> {
        self.ask_monitor(command, arguments, MONITOR_ANSWER).map(drop)
    }

    fn ask_monitor(
        &self,
        command: &str,
        arguments: &serde_json::Value,
        deadline: Duration,
    ) -> Result<serde_json::Value, RigError> {
        let monitor = self.directory.path().join(MONITOR);
        let stream = UnixStream::connect(&monitor)
            .map_err(|e| RigError::io("connect to QEMU's monitor at", &monitor, e))?;
        Ok(Qmp::new(stream, deadline)?.execute(command, arguments, deadline)?)
    }

    /// Makes the disk that was added as number `index`, counted from 0, answer nothing any more, apart from its next request: QEMU
    /// allows one byte a second.
    pub fn freeze_disk(&self, index: usize) -> Result<(), RigError> {
        let device = format!("/machine/peripheral/drive{index}/virtio-backend");
        let none = json!({ "id": device, "bps": 1, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0 });
        self.monitor("block_set_io_throttle", &none)
    }

    /// Kills the daemons of the shares: what the guest asks of them is not answered any more.
    pub fn kill_shares(&self) -> Result<(), RigError> {
        for daemon in &self.daemons {
            let group = Pid::from_raw(daemon.id().cast_signed());
            killpg(group, Signal::SIGKILL).map_err(|e| RigError::io("kill", "virtiofsd", e.into()))?;
        }
        Ok(())
    }

    /// Kills QEMU.
    pub fn kill(&mut self) {
        self.vm.kill();
    }

    /// The end of the console, and the messages of QEMU and of the vsock backend. What QEMU says about the disks tells a guest that waits
    /// for one from a QEMU that answers nothing.
    pub fn last_words(&self) -> String {
        let console = self.console();
        let backend = self.vsock.as_ref().map(VsockBackend::messages).unwrap_or_default();
        let disks = match self.ask_monitor("query-blockstats", &json!({}), LAST_ANSWER) {
            Ok(disks) => disks.to_string(),
            Err(error) => error.to_string(),
        };
        format!(
            "--- console\n{}\n--- qemu\n{}\n--- its disks\n{disks}\n--- vsock\n{backend}",
            tail(&console),
            self.vm.messages()
        )
    }
}

/// A test that fails while its guest runs prints the guest's output.
impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
    }
}

/// The first complete line with `text` in it.
fn find_line<'a>(console: &'a str, text: &str) -> Option<&'a str> {
    let (complete, _) = console.rsplit_once('\n')?;
    complete.lines().find(|line| line.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_console_lines_are_searched() {
        assert_eq!(find_line("one\ntwo 2\nthr", "two"), Some("two 2"));
        assert_eq!(find_line("one\ntwo 2\nthr", "thr"), None);
        assert_eq!(find_line("thr", "thr"), None);
    }
}
