//! Which loader the container has, told by where its libc is, never by the name of the distribution.

use std::path::{Path, PathBuf};

use image::elf::{self, Class, Elf};

use crate::rootfs::RootDir;

/// Bytes of a library file. The largest of the driver are about 300 MB.
pub(super) const MAX_LIBRARY: u64 = 4 << 30;

const EM_386: u16 = 3;
const EM_ARM: u16 = 40;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// The machine that a loader was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    I386,
    /// 64-bit ARM.
    Aarch64,
}

impl Machine {
    /// The machine of this program, and so of the container.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// Debian's name of this machine, for directories.
    pub fn triplet(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::I386 => "i386-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// The flags that this machine's `ldconfig` gives a library; `None` for one it does not know.
    pub fn flags(self, elf: &Elf) -> Option<i32> {
        const ARM_EABI5: u32 = 0x0500_0000;
        let arm = matches!(self, Self::Aarch64);
        match (elf.machine, elf.class) {
            (EM_X86_64, Class::Elf64) if !arm => Some(0x303),
            (EM_X86_64, Class::Elf32) if !arm => Some(0x803),
            (EM_386, Class::Elf32) if !arm => Some(0x003),
            (EM_AARCH64, Class::Elf64) if arm => Some(0xa03),
            (EM_ARM, Class::Elf32) if arm && elf.e_flags & 0xff00_0000 != ARM_EABI5 => Some(0x003),
            (EM_ARM, Class::Elf32) if arm && elf.e_flags & 0x400 != 0 => Some(0x903),
            (EM_ARM, Class::Elf32) if arm && elf.e_flags & 0x200 != 0 => Some(0xb03),
            (EM_ARM, Class::Elf32) if arm => Some(0x003),
            _ => None,
        }
    }

    /// The flags of libraries that this machine's loader opens.
    pub fn native_flags(self) -> i32 {
        match self {
            Self::X86_64 => 0x303,
            Self::I386 => 0x003,
            Self::Aarch64 => 0xa03,
        }
    }

    fn matches(self, elf: &Elf) -> bool {
        self.flags(elf) == Some(self.native_flags())
    }
}

/// What the container's glibc was built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Machine of its libc.
    pub machine: Machine,
    /// Directory that holds libc.so.6, without links on the way.
    pub lib_dir: PathBuf,
    /// The directories built into the loader and `ldconfig`, in the order of `ldconfig`.
    pub system_dirs: Vec<PathBuf>,
}

impl Default for Platform {
    /// Debian's layout, for a root without a glibc.
    fn default() -> Self {
        Self::multiarch(Machine::NATIVE, PathBuf::from("/usr/lib").join(Machine::NATIVE.triplet()))
    }
}

impl Platform {
    /// Finds libc.so.6 in `root` and concludes from its place. `None` where there is no glibc (musl, static
    /// programs).
    pub fn detect(root: &RootDir) -> Option<Self> {
        [Machine::NATIVE, Machine::I386].into_iter().find_map(|machine| Self::detect_machine(root, machine))
    }

    fn detect_machine(root: &RootDir, machine: Machine) -> Option<Self> {
        let multiarch = ["/lib", "/usr/lib"].map(|dir| Path::new(dir).join(machine.triplet()));
        if let Some(dir) = multiarch.iter().find_map(|dir| libc_dir(root, dir, machine)) {
            return Some(Self::multiarch(machine, dir));
        }
        let plain = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(Path::new);
        let lib_dir = plain.iter().find_map(|dir| libc_dir(root, dir, machine))?;
        // Where libc is in /usr/lib itself, the loader was built for that directory alone.
        let merged = lib_dir == Path::new("/usr/lib");
        let dirs: &[&str] = match machine {
            Machine::X86_64 if merged => &["/usr/lib", "/usr/lib64"],
            Machine::X86_64 => &["/lib", "/lib64", "/usr/lib", "/usr/lib64"],
            Machine::I386 if merged => &["/usr/lib"],
            Machine::I386 => &["/lib", "/usr/lib"],
            Machine::Aarch64 if merged => &["/usr/lib", "/usr/lib64", "/usr/libilp32"],
            Machine::Aarch64 => &["/lib", "/lib64", "/libilp32", "/usr/lib", "/usr/lib64", "/usr/libilp32"],
        };
        Some(Self { machine, lib_dir, system_dirs: dirs.iter().map(PathBuf::from).collect() })
    }

    fn multiarch(machine: Machine, lib_dir: PathBuf) -> Self {
        let triplet = machine.triplet();
        let system_dirs = vec![
            Path::new("/lib").join(triplet),
            Path::new("/usr/lib").join(triplet),
            "/lib".into(),
            "/usr/lib".into(),
        ];
        Self { machine, lib_dir, system_dirs }
    }
}

/// The canonical form of `dir` if it holds a libc of this machine.
fn libc_dir(root: &RootDir, dir: &Path, machine: Machine) -> Option<PathBuf> {
    let file = root.open_file(&dir.join("libc.so.6"), MAX_LIBRARY).ok()?;
    let elf = elf::read(&file).ok()?;
    if machine.matches(&elf) { root.canonical(dir).ok() } else { None }
}
