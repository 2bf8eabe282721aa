//! Machine-dependent names, directories and cache flags.

use std::path::{Path, PathBuf};

use image::elf::{Class, Elf};

pub(super) const EM_386: u16 = 3;
const EM_ARM: u16 = 40;
pub(super) const EM_X86_64: u16 = 62;
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

impl Default for Machine {
    fn default() -> Self {
        Self::NATIVE
    }
}

impl Machine {
    /// The machine of this program, and so of the container.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// Returns Debian's name of this machine in directories.
    pub fn triplet(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::I386 => "i386-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// Returns the file name of glibc's loader.
    pub(super) fn loader_name(self) -> &'static str {
        match self {
            Self::X86_64 => "ld-linux-x86-64.so.2",
            Self::I386 => "ld-linux.so.2",
            Self::Aarch64 => "ld-linux-aarch64.so.1",
        }
    }

    /// Returns the directories in which distributions have libc and the loader, most specific first.
    pub(super) fn known_dirs(self) -> Vec<PathBuf> {
        let multiarch = ["/lib", "/usr/lib"].map(|dir| Path::new(dir).join(self.triplet()));
        let plain: &[&str] = match self {
            Self::X86_64 | Self::Aarch64 => &["/lib64", "/usr/lib64", "/lib", "/usr/lib"],
            Self::I386 => &["/lib", "/usr/lib", "/lib32", "/usr/lib32"],
        };
        multiarch.into_iter().chain(plain.iter().map(PathBuf::from)).collect()
    }

    /// The directories that upstream's `ldconfig` makes of one that it was built for (`add_system_dir`): its
    /// siblings for other word sizes belong to it.
    pub(super) fn with_siblings(self, dir: &Path, glibc: Option<(u32, u32)>) -> Vec<PathBuf> {
        // Until 2.41 there was an ABI with 32-bit pointers.
        let ilp32 = glibc.is_some_and(|version| version < (2, 42));
        let suffixes: &[&str] = match self {
            Self::X86_64 => &["64", "x32"],
            Self::Aarch64 if ilp32 => &["64", "ilp32"],
            Self::Aarch64 => &["64"],
            Self::I386 => &[],
        };
        let text = dir.as_os_str().to_string_lossy().into_owned();
        let base = suffixes
            .iter()
            .find_map(|suffix| text.strip_suffix(suffix).filter(|base| base.ends_with("/lib")))
            .unwrap_or(&text);
        let mut dirs = vec![PathBuf::from(base)];
        if base.ends_with("/lib") {
            dirs.extend(suffixes.iter().map(|suffix| PathBuf::from(format!("{base}{suffix}"))));
        }
        dirs
    }

    /// Returns the glibc-hwcaps subdirectories known to loaders of this machine, the most demanding first.
    pub(super) fn hwcaps(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["x86-64-v4", "x86-64-v3", "x86-64-v2"],
            Self::I386 | Self::Aarch64 => &[],
        }
    }

    /// Returns the flags that this machine's `ldconfig` assigns to a library; `None` for an unknown one.
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

    /// Returns the flags of libraries that this machine's loader opens.
    pub fn native_flags(self) -> i32 {
        match self {
            Self::X86_64 => 0x303,
            Self::I386 => 0x003,
            Self::Aarch64 => 0xa03,
        }
    }

    /// Returns whether the loader accepts a cache entry with these flags. Until glibc 2.36 `ldconfig` assigned 1 to 32-bit x86
    /// libraries for which it could not determine the libc.
    pub(super) fn takes(self, flags: i32) -> bool {
        flags == self.native_flags() || (self == Self::I386 && flags == 1)
    }

    /// Returns whether a file with this ELF header is a library that the loader opens.
    pub(super) fn opens(self, head: &[u8]) -> bool {
        let class: u8 = if self == Self::I386 { 1 } else { 2 };
        let machine = match self {
            Self::X86_64 => EM_X86_64,
            Self::I386 => EM_386,
            Self::Aarch64 => EM_AARCH64,
        };
        head.starts_with(b"\x7fELF")
            && head.get(4) == Some(&class)
            && head.get(18..20) == Some(&machine.to_ne_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn siblings(machine: Machine, dir: &str, version: (u32, u32)) -> Vec<String> {
        let dirs = machine.with_siblings(Path::new(dir), Some(version));
        dirs.iter().map(|dir| dir.display().to_string()).collect()
    }

    /// As `add_system_dir` in glibc's `dl-cache.h` of each machine.
    #[test]
    fn siblings_are_those_of_upstream() {
        use Machine::{Aarch64, I386, X86_64};
        assert_eq!(siblings(X86_64, "/lib64", (2, 36)), ["/lib", "/lib64", "/libx32"]);
        assert_eq!(siblings(X86_64, "/usr/lib", (2, 36)), ["/usr/lib", "/usr/lib64", "/usr/libx32"]);
        assert_eq!(siblings(X86_64, "/usr/libx32", (2, 36)), ["/usr/lib", "/usr/lib64", "/usr/libx32"]);
        assert_eq!(siblings(X86_64, "/opt/x64", (2, 36)), ["/opt/x64"]);
        assert_eq!(siblings(Aarch64, "/lib64", (2, 41)), ["/lib", "/lib64", "/libilp32"]);
        assert_eq!(siblings(Aarch64, "/lib64", (2, 42)), ["/lib", "/lib64"]);
        assert_eq!(siblings(I386, "/lib", (2, 36)), ["/lib"]);
    }
}
