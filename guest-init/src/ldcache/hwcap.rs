//! Subdirectories for special hardware until glibc 2.36: `haswell`, `tls`, `atomics`. The glibc-hwcaps subdirectories since 2.33
//! are different and not handled here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::machine::Machine;

/// The bit of `tls`, which all of these glibc versions have.
const TLS: u32 = 63;
/// The first bit of platforms on x86.
const FIRST_PLATFORM: u32 = 48;

/// The names known to an `ldconfig`, with their bits in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LegacyHwcaps {
    bits: Vec<(Vec<u8>, u32)>,
    /// The names whose directories it scans.
    searched: Vec<Vec<u8>>,
    /// The first bit for names from `hwcap` lines.
    first_extra: u32,
}

impl LegacyHwcaps {
    /// Returns the names of `machine` (its `dl-procinfo.c`). x86 has one list for both word sizes.
    pub fn of(machine: Machine) -> Self {
        let (names, platforms, searched, first_extra): (&[&str], &[&str], &[&str], u32) = match machine {
            Machine::X86_64 | Machine::I386 => (
                &["sse2", "x86_64", "avx512_1"],
                &["i586", "i686", "haswell", "xeon_phi"],
                &["sse2", "x86_64", "avx512_1", "i586", "i686", "haswell", "xeon_phi", "tls"],
                FIRST_PLATFORM + 4,
            ),
            Machine::Aarch64 => (&AARCH64, &[], &["atomics", "tls"], 32),
        };
        let mut bits: Vec<(Vec<u8>, u32)> = vec![(b"tls".to_vec(), TLS)];
        bits.extend(names.iter().map(|name| name.as_bytes().to_vec()).zip(0..));
        bits.extend(platforms.iter().map(|name| name.as_bytes().to_vec()).zip(FIRST_PLATFORM..));
        Self { bits, searched: searched.iter().map(|name| name.as_bytes().to_vec()).collect(), first_extra }
    }

    /// Adds the name of a `hwcap` line. Returns whether it was accepted.
    pub fn add(&mut self, index: u32, name: &[u8]) -> bool {
        let Some(bit) = self.first_extra.checked_add(index).filter(|bit| *bit < 64) else { return false };
        if self
            .bits
            .iter()
            .any(|(known, at)| (*at == bit) != (known == name) && (*at == bit || *known == name))
        {
            return false;
        }
        if self.bits.iter().any(|(known, _)| known == name) {
            return true;
        }
        self.bits.push((name.to_vec(), bit));
        self.searched.push(name.to_vec());
        true
    }

    /// Returns whether a subdirectory with this name is scanned.
    pub fn is_searched(&self, name: &OsStr) -> bool {
        self.searched.iter().any(|known| known == name.as_bytes())
    }

    /// Returns the bits of the last names of `path`.
    pub fn of_path(&self, path: &OsStr) -> u64 {
        let mut bits = 0_u64;
        // Only names after a slash count.
        for name in path.as_bytes().split(|byte| *byte == b'/').skip(1).collect::<Vec<_>>().into_iter().rev()
        {
            let Some((_, bit)) = self.bits.iter().find(|(known, _)| known == name) else { break };
            bits = bits.wrapping_add(1 << bit);
        }
        bits
    }
}

/// Names of aarch64, from bit 0.
const AARCH64: [&str; 32] = [
    "fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp", "cpuid",
    "asimdrdm", "jscvt", "fcma", "lrcpc", "dcpop", "sha3", "sm3", "sm4", "asimddp", "sha512", "sve",
    "asimdfhm", "dit", "uscat", "ilrcpc", "flagm", "ssbs", "sb", "paca", "pacg",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_end_in_hardware() {
        let x86 = LegacyHwcaps::of(Machine::X86_64);
        let bits = |path: &str| x86.of_path(OsStr::new(path));
        assert_eq!(bits("/usr/lib/haswell"), 1 << 50);
        assert_eq!(bits("/lib/tls/haswell/x86_64"), 1 << 63 | 1 << 50 | 1 << 1);
        assert_eq!(bits("/lib/haswell/other"), 0);
        assert_eq!(bits("/lib/i686/avx512_1"), 1 << 49 | 1 << 2);
        assert_eq!(LegacyHwcaps::of(Machine::Aarch64).of_path(OsStr::new("/lib/atomics")), 1 << 8);
    }

    #[test]
    fn hwcap_lines_add_names() {
        let mut x86 = LegacyHwcaps::of(Machine::X86_64);
        assert!(x86.add(0, b"nosegneg") && x86.add(0, b"nosegneg"));
        assert!(!x86.add(1, b"nosegneg") && !x86.add(0, b"other") && !x86.add(12, b"far"));
        assert!(!x86.add(11, b"other"), "the bit of tls");
        assert_eq!(x86.of_path(OsStr::new("/lib/nosegneg")), 1 << 52);
        assert!(x86.is_searched(OsStr::new("nosegneg")) && !x86.is_searched(OsStr::new("fp")));
    }
}
