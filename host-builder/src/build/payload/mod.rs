//! How an image carries the driver's files: as plain files, as an EROFS image in the initrd, or as
//! an EROFS image on a disk. The choice depends on what the kernel can mount and on the guest's
//! memory.

mod erofs;
mod memory;
pub mod verity;

pub use self::erofs::{Compression, Image, make};
pub use self::memory::{minimum as minimum_memory, minimum_without_gpu as minimum_memory_without_gpu};

use crate::common::error::{Error, Result};
use crate::kernel_modules::features::{Features, State};
use clap::ValueEnum;
use std::fmt;

/// How the driver's files are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Plain files in the initrd. Works with every kernel; they are uncompressed in memory.
    Files,
    /// An EROFS image in the initrd. It is compressed in memory.
    Image,
    /// An EROFS image on a disk that many guests share. It uses no memory of a guest.
    Disk,
}

/// Values of `--payload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PayloadChoice {
    /// The best that the kernel and the guest's memory allow: image, then disk, then files.
    Auto,
    /// Plain files in the initrd.
    Files,
    /// One EROFS image in the initrd, mounted: compressed in memory.
    Image,
    /// One EROFS image on a separate disk that many guests share: uses no memory.
    Disk,
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Files => "files",
            Self::Image => "image",
            Self::Disk => "disk",
        })
    }
}

impl Mode {
    /// Modules that every boot needs to mount the payload, in addition to the profile's. Modules
    /// that are built in, or that the kernel does not have, are left out.
    pub fn modules(self, features: &Features) -> Vec<&'static str> {
        let wanted: &[&str] = match self {
            Self::Files => &[],
            Self::Image => &["erofs", "overlay", "loop"],
            Self::Disk => &["erofs", "overlay", "dm_verity", "virtio_pmem", "nd_pmem"],
        };
        wanted.iter().copied().filter(|name| features.module(name).is_there()).collect()
    }

    /// The best compression for this mode: the smallest in memory, the fastest to read from a disk.
    pub fn compression(self, features: &Features) -> Compression {
        let zstd = features.option("EROFS_FS_ZIP_ZSTD").is_some_and(State::is_there);
        if self == Self::Image && zstd { Compression::Zstd } else { Compression::Lz4hc }
    }
}

/// What an EROFS payload lacks; `None`: nothing. `tools`: whether mkfs.erofs is available.
fn lacks(features: &Features, tools: bool) -> Option<&'static str> {
    let absent = |name: &str| !features.module(name).is_there();
    if !tools {
        Some("the profile has no packages that make an EROFS image ([payload])")
    } else if absent("erofs") {
        Some("the kernel has no EROFS (CONFIG_EROFS_FS)")
    } else if absent("overlay") {
        Some("the kernel has no overlayfs (CONFIG_OVERLAY_FS)")
    } else if features.option("TMPFS_XATTR").is_some_and(|state| !state.is_there()) {
        Some("the kernel's tmpfs has no extended attributes (CONFIG_TMPFS_XATTR)")
    } else if !features.at_least(6, 5) {
        Some("overlayfs has data-only layers since Linux 6.5, but the kernel is older")
    } else {
        None
    }
}

/// The modes to try, the best one first, each with its reason. `memory`: the guest's memory in
/// bytes; `tools`: whether mkfs.erofs is available.
pub fn candidates(
    wanted: PayloadChoice,
    memory: Option<u64>,
    features: &Features,
    tools: bool,
) -> Result<Vec<(Mode, String)>> {
    let erofs = features.module("erofs");
    let explicit = |mode: Mode| {
        let missing = if mode == Mode::Files { None } else { lacks(features, tools) };
        match missing {
            None => Ok(vec![(mode, "asked for".to_owned())]),
            Some(lack) => Err(Error::new(format!("--payload {mode}: {lack}"))
                .hint("choose --payload files, which works with every kernel; or another kernel or profile")),
        }
    };
    match wanted {
        PayloadChoice::Files => explicit(Mode::Files),
        PayloadChoice::Image => explicit(Mode::Image),
        PayloadChoice::Disk => explicit(Mode::Disk),
        PayloadChoice::Auto => Ok(match (lacks(features, tools), memory) {
            (Some(lack), _) => vec![(Mode::Files, lack.to_owned())],
            (None, None) => vec![(Mode::Image, format!("EROFS is {erofs} of the kernel"))],
            (None, Some(bytes)) => {
                let fits =
                    format!("EROFS is {erofs} of the kernel, and a guest of {} MiB has room", bytes >> 20);
                let small = format!(
                    "EROFS is {erofs} of the kernel, and a guest of {} MiB has no room for it in the initrd",
                    bytes >> 20
                );
                vec![(Mode::Image, fits), (Mode::Disk, small)]
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_modules::Index;
    use std::collections::BTreeSet;

    fn index(release: &str, builtin: &[&str]) -> Index {
        Index {
            release: release.into(),
            modules: Vec::new(),
            builtin: builtin.iter().map(|name| (*name).to_owned()).collect(),
            builtin_aliases: BTreeSet::new(),
        }
    }

    fn modes(wanted: PayloadChoice, memory: Option<u64>, index: &Index) -> Result<Vec<Mode>> {
        let features = Features::without_configuration(index);
        Ok(candidates(wanted, memory, &features, true)?.into_iter().map(|(mode, _)| mode).collect())
    }

    #[test]
    fn auto_selects_what_the_kernel_can_mount() {
        let able = index("6.12.8", &["erofs", "overlay"]);
        assert_eq!(modes(PayloadChoice::Auto, None, &able).unwrap(), [Mode::Image]);
        assert_eq!(modes(PayloadChoice::Auto, Some(1 << 28), &able).unwrap(), [Mode::Image, Mode::Disk]);
        for unable in [
            index("6.12.8", &["overlay"]),
            index("6.12.8", &["erofs"]),
            index("6.1.9", &["erofs", "overlay"]),
        ] {
            assert_eq!(modes(PayloadChoice::Auto, None, &unable).unwrap(), [Mode::Files]);
            let error = modes(PayloadChoice::Disk, None, &unable).unwrap_err();
            assert!(
                error.to_string().contains("--payload disk") && error.remedy().unwrap().contains("files")
            );
        }
    }

    #[test]
    fn without_tools_auto_selects_plain_files() {
        let able = index("6.12.8", &["erofs", "overlay"]);
        let features = Features::without_configuration(&able);
        let auto = candidates(PayloadChoice::Auto, None, &features, false).unwrap();
        assert!(auto[0].0 == Mode::Files && auto[0].1.contains("[payload]"), "{auto:?}");
        assert!(candidates(PayloadChoice::Image, None, &features, false).is_err());
    }

    #[test]
    fn mode_requests_only_modules_that_the_kernel_has() {
        let index = index("6.12", &["erofs", "dm_verity"]);
        let features = Features::without_configuration(&index);
        assert_eq!(Mode::Disk.modules(&features), ["erofs", "dm_verity"]);
        assert_eq!(Mode::Files.modules(&features), Vec::<&str>::new());
        assert_eq!(Mode::Image.compression(&features), Compression::Lz4hc);
    }
}
