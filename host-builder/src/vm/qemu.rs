//! The virtual machine: a description that becomes a QEMU command line, and the process that runs it.
//!
//! Guest memory is shared, which the vhost-user and vfio-user devices need. The command line is built by a pure function;
//! its callers create files and sockets.

use crate::common::error::Result;
use crate::programs::process::Background;
use crate::programs::tools::Tools;
use serde_json::json;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, ExitStatus};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Name of the executable, looked up in the place that runs it.
pub(super) const QEMU: &str = "qemu-system-x86_64";
/// The path by which QEMU's monitor knows a vsock device that has a backend on a vhost-user socket.
pub(super) const VSOCK_PATH: &str = "/machine/peripheral/vsock/virtio-backend";

/// A disk: a raw image file as a virtio block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// The image file.
    pub image: PathBuf,
    /// Attached without permission to write.
    pub read_only: bool,
    /// What the guest reads in `/sys/block/*/serial`; at most 20 bytes.
    pub serial: String,
}

/// A directory of the host, shared by a running virtiofsd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// virtiofsd's vhost-user socket.
    pub socket: PathBuf,
    /// The name that the guest mounts it by.
    pub tag: String,
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// QEMU's translator: runs everywhere, slowly.
    Tcg,
    /// The kernel's hypervisor, with the host's CPU features.
    Kvm,
}

impl Accel {
    /// As QEMU calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// A GPU, and how the guest gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpu {
    /// A device served over a vfio-user socket.
    VfioUser(PathBuf),
    /// A PCI device of this machine, bound to vfio-pci, by its address (`0000:01:00.0`).
    Vfio(String),
}

/// How the guest's vsock device is backed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vsock {
    /// By a daemon on this vhost-user socket.
    User(PathBuf),
    /// By the host's kernel; the guest gets this context id.
    Kernel(u32),
}

/// Where the serial console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// In a file, which must exist when paths are made visible.
    File(PathBuf),
    /// On QEMU's own standard input and output.
    Stdio,
}

/// A virtual machine, described.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Kernel image (bzImage).
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of virtual CPUs.
    pub cpus: u32,
    /// What executes it.
    pub accel: Accel,
    /// Whether its clock counts the instructions that it executes, a nanosecond each, and skips waiting: for measurements that are the
    /// same each time. Under TCG, one CPU at a time.
    pub counts_instructions: bool,
    /// Disks, in the order the guest names them (vda, vdb, …).
    pub drives: Vec<Drive>,
    /// Images that the guest has as persistent memory, read-only (virtio-pmem); their sizes are multiples of 2 MiB.
    pub pmem: Vec<PathBuf>,
    /// Shared directories.
    pub shares: Vec<Share>,
    /// GPUs; each gets a root port, hence a bus, of its own, in this order. The monitor knows them as `gpu0`, `gpu1`, …
    pub gpus: Vec<Gpu>,
    /// The vsock device.
    pub vsock: Option<Vsock>,
    /// OEM strings of its SMBIOS tables, which carry systemd's credentials.
    pub oem_strings: Vec<String>,
    /// The serial console.
    pub console: Console,
    /// Sockets for QEMU's monitor (QMP), made by QEMU. Each serves one client at a time.
    pub monitors: Vec<PathBuf>,
}

impl Machine {
    /// One CPU under TCG, 512 MiB, no devices; a kernel that panics ends the machine.
    pub fn new(kernel: &Path, initrd: &Path, console: Console) -> Self {
        Self {
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            cmdline: "console=ttyS0 panic=-1".into(),
            memory_mib: 512,
            cpus: 1,
            accel: Accel::Tcg,
            counts_instructions: false,
            drives: Vec::new(),
            pmem: Vec::new(),
            shares: Vec::new(),
            gpus: Vec::new(),
            vsock: None,
            oem_strings: Vec::new(),
            console,
            monitors: Vec::new(),
        }
    }

    /// QEMU's arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args = Arguments::default();
        self.board(&mut args);
        self.gpu_devices(&mut args);
        self.disk_devices(&mut args);
        self.pmem_devices(&mut args);
        self.shared_directories(&mut args);
        match &self.vsock {
            Some(Vsock::User(socket)) => {
                args.option("-chardev", &[b"socket,id=vsock,path=", &escaped(socket)]);
                args.text("-device", "vhost-user-vsock-pci,id=vsock,chardev=vsock");
            }
            Some(Vsock::Kernel(cid)) => {
                args.text("-device", &format!("vhost-vsock-pci,guest-cid={cid}"));
            }
            None => {}
        }
        for socket in &self.monitors {
            args.option("-qmp", &[b"unix:", &escaped(socket), b",server=on,wait=off"]);
        }
        args.0
    }

    /// The directories of all files and sockets that the arguments name, sorted, each once; a file that lies in the
    /// root directory stands for itself.
    pub fn directories(&self) -> Vec<PathBuf> {
        let mut files = vec![&self.kernel, &self.initrd];
        files.extend(self.drives.iter().map(|drive| &drive.image));
        files.extend(&self.pmem);
        files.extend(self.shares.iter().map(|share| &share.socket));
        for gpu in &self.gpus {
            if let Gpu::VfioUser(socket) = gpu {
                files.push(socket);
            }
        }
        if let Some(Vsock::User(socket)) = &self.vsock {
            files.push(socket);
        }
        if let Console::File(file) = &self.console {
            files.push(file);
        }
        files.extend(&self.monitors);
        let directory = |file: &PathBuf| match file.parent() {
            Some(parent) if parent != Path::new("/") => parent.to_owned(),
            _ => file.clone(),
        };
        let mut directories: Vec<_> = files.into_iter().map(directory).collect();
        directories.sort();
        directories.dedup();
        directories
    }

    /// Starts it with a QEMU from `tools`; QEMU's own messages go to `log`.
    pub fn start(&self, tools: &dyn Tools, log: &Path) -> Result<Vm> {
        let mut command = tools.command(QEMU, &self.directories());
        command.args(self.arguments());
        Ok(Vm { process: Background::start(command, log)? })
    }

    /// Starts it with pipes to and from its console ([`Console::Stdio`]).
    pub fn start_piped(&self, tools: &dyn Tools) -> Result<(Vm, ChildStdin, ChildStdout)> {
        let mut command = tools.command(QEMU, &self.directories());
        command.args(self.arguments());
        let (process, input, output) = Background::piped(command)?;
        Ok((Vm { process }, input, output))
    }

    fn board(&self, args: &mut Arguments) {
        args.flag("-no-user-config").flag("-nodefaults").flag("-no-reboot");
        args.text("-display", "none")
            .text("-machine", &format!("q35,accel={},memory-backend=ram", self.accel.name()));
        if self.accel == Accel::Kvm {
            args.text("-cpu", "host");
        }
        if self.counts_instructions {
            args.text("-icount", "shift=0,sleep=off");
        }
        args.text("-object", &format!("memory-backend-memfd,id=ram,size={}M,share=on", self.memory_mib));
        args.text("-m", &self.memory()).text("-smp", &self.cpus.to_string());
        for string in &self.oem_strings {
            args.option("-smbios", &[b"type=11,value=", &escaped(Path::new(string))]);
        }
        match &self.console {
            Console::File(file) => args.option("-chardev", &[b"file,id=console,path=", &escaped(file)]),
            // signal=off: what is typed is all for the guest.
            Console::Stdio => args.option("-chardev", &[b"stdio,id=console,signal=off"]),
        }
        args.text("-serial", "chardev:console");
        args.option("-kernel", &[self.kernel.as_os_str().as_encoded_bytes()]);
        args.option("-initrd", &[self.initrd.as_os_str().as_encoded_bytes()]);
        args.text("-append", &self.cmdline);
    }

    /// Persistent memory needs room in the guest's address space beyond its memory.
    fn memory(&self) -> String {
        let size = |image: &PathBuf| std::fs::metadata(image).map_or(0, |metadata| metadata.len() >> 20) + 1;
        match self.pmem.iter().map(size).sum::<u64>() {
            0 => format!("{}M", self.memory_mib),
            more => format!(
                "{}M,slots={},maxmem={}M",
                self.memory_mib,
                self.pmem.len(),
                (u64::from(self.memory_mib) + more).next_multiple_of(2)
            ),
        }
    }

    fn gpu_devices(&self, args: &mut Arguments) {
        for (i, gpu) in self.gpus.iter().enumerate() {
            args.text("-device", &format!("pcie-root-port,id=rp{i},chassis={0},slot={0}", i + 1));
            let (id, bus) = (format!("gpu{i}"), format!("rp{i}"));
            let device = match gpu {
                Gpu::VfioUser(socket) => json!({
                    "driver": "vfio-user-pci",
                    "id": id,
                    "bus": bus,
                    "socket": { "type": "unix", "path": socket.to_string_lossy() },
                }),
                Gpu::Vfio(address) => json!({ "driver": "vfio-pci", "id": id, "bus": bus, "host": address }),
            };
            args.text("-device", &device.to_string());
        }
    }

    fn disk_devices(&self, args: &mut Arguments) {
        for (i, drive) in self.drives.iter().enumerate() {
            let block = json!({
                "driver": "raw",
                "node-name": format!("disk{i}"),
                "read-only": drive.read_only,
                "file": { "driver": "file", "filename": drive.image.to_string_lossy() },
            });
            args.text("-blockdev", &block.to_string());
            let device = json!({
                "driver": "virtio-blk-pci",
                "id": format!("drive{i}"),
                "drive": format!("disk{i}"),
                "serial": drive.serial,
            });
            args.text("-device", &device.to_string());
        }
    }

    fn pmem_devices(&self, args: &mut Arguments) {
        for (i, image) in self.pmem.iter().enumerate() {
            let size = std::fs::metadata(image).map_or(0, |metadata| metadata.len());
            let object = format!("memory-backend-file,id=pmem{i},share=on,readonly=on,size={size},mem-path=");
            args.option("-object", &[object.as_bytes(), &escaped(image)]);
            args.text("-device", &format!("virtio-pmem-pci,memdev=pmem{i}"));
        }
    }

    fn shared_directories(&self, args: &mut Arguments) {
        for (i, share) in self.shares.iter().enumerate() {
            let id = format!("socket,id=share{i},path=");
            args.option("-chardev", &[id.as_bytes(), &escaped(&share.socket)]);
            args.text("-device", &format!("vhost-user-fs-pci,chardev=share{i},tag={}", share.tag));
        }
    }
}

/// The arguments while they are put together.
#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    fn text(&mut self, flag: &str, value: &str) -> &mut Self {
        self.flag(flag).flag(value)
    }

    fn option(&mut self, flag: &str, parts: &[&[u8]]) {
        use std::os::unix::ffi::OsStringExt as _;
        self.flag(flag).0.push(OsString::from_vec(parts.concat()));
    }
}

/// A path as a value in QEMU's `key=value,…` syntax, where a comma is written twice.
fn escaped(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().flat_map(|&b| std::iter::repeat_n(b, if b == b',' { 2 } else { 1 })).collect()
}

/// A running virtual machine. It is killed when this is dropped.
pub struct Vm {
    process: Background,
}

impl Vm {
    /// Waits until QEMU has ended: the guest powered off, or panicked, or QEMU failed.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.process.wait(deadline)
    }

    /// How QEMU ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// What QEMU itself had to say.
    pub fn messages(&self) -> String {
        self.process.output()
    }

    /// Pulls the plug.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// QEMU's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}
