//! Whole command lines, asserted.

use super::*;

fn machine() -> Machine {
    let console = Console::File("/t/console.log".into());
    Machine::new(Path::new("/b/vmlinuz"), Path::new("/b/initrd.img"), console)
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
    machine.gpus.extend([Gpu::VfioUser("/t/gpu0".into()), Gpu::VfioUser("/t/gpu1".into())]);
    machine.vsock = Some(Vsock::User("/t/vhost.sock".into()));
    machine.monitors = vec!["/t/monitor".into(), "/t/power".into()];
    let devices = [
        "-device",
        "pcie-root-port,id=rp0,chassis=1,slot=1",
        "-device",
        r#"{"bus":"rp0","driver":"vfio-user-pci","id":"gpu0","socket":{"path":"/t/gpu0","type":"unix"}}"#,
        "-device",
        "pcie-root-port,id=rp1,chassis=2,slot=2",
        "-device",
        r#"{"bus":"rp1","driver":"vfio-user-pci","id":"gpu1","socket":{"path":"/t/gpu1","type":"unix"}}"#,
        "-blockdev",
        r#"{"driver":"raw","file":{"driver":"file","filename":"/d/root,1.img"},"node-name":"disk0","read-only":true}"#,
        "-device",
        r#"{"drive":"disk0","driver":"virtio-blk-pci","id":"drive0","serial":"root"}"#,
        "-chardev",
        "socket,id=share0,path=/s/a,,b",
        "-device",
        "vhost-user-fs-pci,chardev=share0,tag=rootfs",
        "-chardev",
        "socket,id=vsock,path=/t/vhost.sock",
        "-device",
        "vhost-user-vsock-pci,id=vsock,chardev=vsock",
        "-qmp",
        "unix:/t/monitor,server=on,wait=off",
        "-qmp",
        "unix:/t/power,server=on,wait=off",
    ];
    assert_eq!(machine.arguments(), [BOARD, &devices].concat());
    assert_eq!(machine.directories(), ["/b", "/d", "/s", "/t"].map(PathBuf::from));
}

#[test]
fn machine_on_the_hosts_own_devices() {
    let mut machine = Machine::new(Path::new("/vmlinuz"), Path::new("/b/initrd.img"), Console::Stdio);
    machine.accel = Accel::Kvm;
    machine.gpus.push(Gpu::Vfio("0000:01:00.0".into()));
    machine.vsock = Some(Vsock::Kernel(7));
    let expected = [
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "q35,accel=kvm,memory-backend=ram",
        "-cpu",
        "host",
        "-object",
        "memory-backend-memfd,id=ram,size=512M,share=on",
        "-m",
        "512M",
        "-smp",
        "1",
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
        "-kernel",
        "/vmlinuz",
        "-initrd",
        "/b/initrd.img",
        "-append",
        "console=ttyS0 panic=-1",
        "-device",
        "pcie-root-port,id=rp0,chassis=1,slot=1",
        "-device",
        r#"{"bus":"rp0","driver":"vfio-pci","host":"0000:01:00.0","id":"gpu0"}"#,
        "-device",
        "vhost-vsock-pci,guest-cid=7",
    ];
    assert_eq!(machine.arguments(), expected);
    assert_eq!(machine.directories(), ["/b", "/vmlinuz"].map(PathBuf::from));
}
