//! The virtual machine: a description that becomes a QEMU command line, and the process that runs it.
//!
//! Everything is software: TCG, so that it runs where there is no KVM, and shared guest memory, which the vhost-user and vfio-user
//! devices need. The command line is built by a pure function; files and sockets are made by others.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use serde_json::json;

use crate::{RigError, process::Background, tools::Tools};

/// Name of the executable, looked up in the place that runs it.
const QEMU: &str = "qemu-system-x86_64";

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
    /// Disks, in the order the guest names them (vda, vdb, …).
    pub drives: Vec<Drive>,
    /// Shared directories.
    pub shares: Vec<Share>,
    /// vfio-user sockets of GPUs; each GPU gets a root port, hence a bus, of its own, in this order.
    pub gpus: Vec<PathBuf>,
    /// vhost-user socket of the vsock backend.
    pub vsock: Option<PathBuf>,
    /// File that receives the serial console.
    pub console: PathBuf,
}

impl Machine {
    /// One CPU, 512 MiB, no devices; a kernel that panics ends the machine.
    pub fn new(kernel: &Path, initrd: &Path, console: &Path) -> Self {
        Self {
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            cmdline: "console=ttyS0 panic=-1".into(),
            memory_mib: 512,
            cpus: 1,
            drives: Vec::new(),
            shares: Vec::new(),
            gpus: Vec::new(),
            vsock: None,
            console: console.to_owned(),
        }
    }

    /// QEMU's arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args = Arguments::default();
        self.board(&mut args);
        self.gpu_devices(&mut args);
        self.disk_devices(&mut args);
        self.shared_directories(&mut args);
        if let Some(socket) = &self.vsock {
            args.option("-chardev", &[b"socket,id=vsock,path=", &escaped(socket)]);
            args.text("-device", "vhost-user-vsock-pci,chardev=vsock");
        }
        args.0
    }

    /// The directories of all files and sockets that the arguments name, sorted, each once.
    pub fn directories(&self) -> Vec<PathBuf> {
        let files = [&self.kernel, &self.initrd, &self.console].into_iter();
        let files =
            files.chain(self.drives.iter().map(|d| &d.image)).chain(self.shares.iter().map(|s| &s.socket));
        let files = files.chain(&self.gpus).chain(&self.vsock);
        let mut directories: Vec<_> = files.filter_map(|file| file.parent().map(Path::to_owned)).collect();
        directories.sort();
        directories.dedup();
        directories
    }

    /// Starts it with a QEMU from `tools`; QEMU's own messages go to `log`.
    pub fn start(&self, tools: &dyn Tools, log: &Path) -> Result<Vm, RigError> {
        let mut command = tools.command(QEMU, &self.directories());
        command.args(self.arguments());
        Ok(Vm { process: Background::start(command, log)? })
    }

    fn board(&self, args: &mut Arguments) {
        args.flag("-no-user-config").flag("-nodefaults").flag("-no-reboot");
        args.text("-display", "none").text("-machine", "q35,accel=tcg,memory-backend=ram");
        args.text("-object", &format!("memory-backend-memfd,id=ram,size={}M,share=on", self.memory_mib));
        args.text("-m", &format!("{}M", self.memory_mib)).text("-smp", &self.cpus.to_string());
        args.option("-chardev", &[b"file,id=console,path=", &escaped(&self.console)]);
        args.text("-serial", "chardev:console");
        args.option("-kernel", &[self.kernel.as_os_str().as_encoded_bytes()]);
        args.option("-initrd", &[self.initrd.as_os_str().as_encoded_bytes()]);
        args.text("-append", &self.cmdline);
    }

    fn gpu_devices(&self, args: &mut Arguments) {
        for (i, socket) in self.gpus.iter().enumerate() {
            args.text("-device", &format!("pcie-root-port,id=rp{i},chassis={0},slot={0}", i + 1));
            let device = json!({
                "driver": "vfio-user-pci",
                "bus": format!("rp{i}"),
                "socket": { "type": "unix", "path": socket.to_string_lossy() },
            });
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
            let device =
                json!({ "driver": "virtio-blk-pci", "drive": format!("disk{i}"), "serial": drive.serial });
            args.text("-device", &device.to_string());
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
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, RigError> {
        self.process.wait(deadline)
    }

    /// How QEMU ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, RigError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine::new(Path::new("/b/vmlinuz"), Path::new("/b/initrd.img"), Path::new("/t/console.log"))
    }

    const BOARD: &[&str] = &[
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "q35,accel=tcg,memory-backend=ram",
        "-object",
        "memory-backend-memfd,id=ram,size=512M,share=on",
        "-m",
        "512M",
        "-smp",
        "1",
        "-chardev",
        "file,id=console,path=/t/console.log",
        "-serial",
        "chardev:console",
        "-kernel",
        "/b/vmlinuz",
        "-initrd",
        "/b/initrd.img",
        "-append",
        "console=ttyS0 panic=-1",
    ];

    #[test]
    fn bare_machine() {
        assert_eq!(machine().arguments(), BOARD);
        assert_eq!(machine().directories(), [Path::new("/b"), Path::new("/t")]);
    }

    #[test]
    fn machine_with_every_device() {
        let mut machine = machine();
        machine.drives.push(Drive { image: "/d/root,1.img".into(), read_only: true, serial: "root".into() });
        machine.shares.push(Share { socket: "/s/a,b".into(), tag: "rootfs".into() });
        machine.gpus.extend(["/t/gpu0".into(), "/t/gpu1".into()]);
        machine.vsock = Some("/t/vhost.sock".into());
        let devices = [
            "-device",
            "pcie-root-port,id=rp0,chassis=1,slot=1",
            "-device",
            r#"{"bus":"rp0","driver":"vfio-user-pci","socket":{"path":"/t/gpu0","type":"unix"}}"#,
            "-device",
            "pcie-root-port,id=rp1,chassis=2,slot=2",
            "-device",
            r#"{"bus":"rp1","driver":"vfio-user-pci","socket":{"path":"/t/gpu1","type":"unix"}}"#,
            "-blockdev",
            r#"{"driver":"raw","file":{"driver":"file","filename":"/d/root,1.img"},"node-name":"disk0","read-only":true}"#,
            "-device",
            r#"{"drive":"disk0","driver":"virtio-blk-pci","serial":"root"}"#,
            "-chardev",
            "socket,id=share0,path=/s/a,,b",
            "-device",
            "vhost-user-fs-pci,chardev=share0,tag=rootfs",
            "-chardev",
            "socket,id=vsock,path=/t/vhost.sock",
            "-device",
            "vhost-user-vsock-pci,chardev=vsock",
        ];
        assert_eq!(machine.arguments(), [BOARD, &devices].concat());
        assert_eq!(machine.directories(), ["/b", "/d", "/s", "/t"].map(PathBuf::from));
    }
}
