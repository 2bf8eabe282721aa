//! Chooses the accelerator: KVM if it runs an ordinary guest, else TCG.
//!
//! A /dev/kvm that can be opened is not enough: paravirtual variants run only kernels made for them, and an ordinary guest
//! hangs. So QEMU starts a test machine. Its firmware has seven bytes that end it, and its CPU model has only features
//! of every x86-64 hypervisor (`qemu64,enforce`). QEMU must return the expected exit code in time.

use super::qemu::{Accel, QEMU};
use crate::common::error::{Doing, Error, Result};
use crate::programs::process::Background;
use crate::programs::tools::Tools;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

const KVM: &str = "/dev/kvm";
/// A usable KVM answers within a fifth of a second.
const DEADLINE: Duration = Duration::from_secs(5);
/// QEMU's isa-debug-exit turns the value v into exit code 2v + 1.
const GOOD: i32 = 3;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// KVM where it runs an ordinary guest (a test guest is started), else TCG.
    Auto,
    /// KVM.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// The accelerator to use, and why.
pub fn choose(choice: Choice, tools: &dyn Tools, scratch: &Path) -> Result<(Accel, String)> {
    match choice {
        Choice::Tcg => Ok((Accel::Tcg, "as asked".into())),
        Choice::Kvm => match openable(Path::new(KVM)) {
            Ok(()) => Ok((Accel::Kvm, "as asked".into())),
            Err(why) => Err(Error::new(format!("--accel kvm: {why}"))
                .hint("load the module (kvm_intel, kvm_amd) and be in group kvm, or use --accel tcg")),
        },
        Choice::Auto => match openable(Path::new(KVM)) {
            Err(why) => Ok((Accel::Tcg, why)),
            Ok(()) if runs(tools, scratch)? => Ok((Accel::Kvm, "a test guest ran on it".into())),
            Ok(()) => Ok((Accel::Tcg, format!("{KVM} exists, but a test guest did not run on it"))),
        },
    }
}

fn openable(device: &Path) -> std::result::Result<(), String> {
    let opened = File::options().read(true).write(true).open(device);
    opened.map(drop).map_err(|error| format!("{}: {error}", device.display()))
}

/// Whether the test guest ends as expected.
fn runs(tools: &dyn Tools, scratch: &Path) -> Result<bool> {
    let rom = scratch.join("probe.rom");
    fs::write(&rom, firmware()).doing("writing", &rom)?;
    let mut command = tools.command(QEMU, &[scratch.to_owned()]);
    command.args(arguments(&rom));
    let mut qemu = Background::start(command, &scratch.join("probe.log"))?;
    Ok(qemu.wait(DEADLINE).is_ok_and(|status| status.code() == Some(GOOD)))
}

fn arguments(rom: &Path) -> Vec<String> {
    let mut arguments: Vec<_> = [
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-machine",
        "q35,accel=kvm",
        "-cpu",
        "qemu64,enforce",
        "-m",
        "16M",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=1",
        "-bios",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(rom.display().to_string());
    arguments
}

/// 64 KiB of ROM; an x86 CPU begins 16 bytes before its end.
fn firmware() -> Vec<u8> {
    const CODE: [u8; 7] = [
        0xb0, 0x01, // mov al, 1
        0xe6, 0xf4, // out 0xf4, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to the hlt
    ];
    let mut rom = vec![0; 64 << 10];
    let start = rom.len() - 16;
    rom[start..start + CODE.len()].copy_from_slice(&CODE);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::tools::HostTools;
    use std::path::PathBuf;
    use std::process::Command;

    /// A place whose QEMU is a shell script.
    struct Fake(&'static str);

    impl Tools for Fake {
        fn command(&self, _program: &str, _visible: &[PathBuf]) -> Command {
            let mut command = Command::new("sh");
            command.args(["-c", self.0]);
            command
        }
    }

    #[test]
    fn only_the_test_guests_own_exit_code_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert!(runs(&Fake("exit 3"), dir.path()).unwrap());
        assert!(!runs(&Fake("exit 0"), dir.path()).unwrap());
        assert!(!runs(&Fake("exit 1"), dir.path()).unwrap());
    }

    #[test]
    fn tcg_needs_nothing_and_a_missing_device_is_named() {
        let (accel, why) = choose(Choice::Tcg, &HostTools, Path::new("/nowhere")).unwrap();
        assert_eq!((accel, why.as_str()), (Accel::Tcg, "as asked"));
        let why = openable(Path::new("/nowhere/kvm")).unwrap_err();
        assert_eq!(why, "/nowhere/kvm: No such file or directory (os error 2)");
    }

    #[test]
    fn the_firmware_begins_where_the_cpu_does() {
        let rom = firmware();
        assert_eq!((rom.len(), &rom[0xfff0..0xfff4]), (0x10000, &[0xb0, 1, 0xe6, 0xf4][..]));
    }
}
