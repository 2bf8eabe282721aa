//! The fake driver: this project's own kernel modules, which register what NVIDIA's driver
//! registers, with GPUs that become ready.
//!
//! A phantom GPU tests the real driver up to the point where hardware would answer. These modules
//! replace the real ones, under their names, for everything after that point: a GPU that is ready,
//! MIG instances, one GPU of many that fails.

use std::{
    fs,
    path::{Path, PathBuf},
};

use host_builder::common::digest::sha256;

use crate::{RigError, process::run, tools::Tools};

/// The modules, in the order in which they can be loaded.
pub const MODULES: [&str; 4] = ["nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm"];

const SOURCES: [(&str, &str); 7] = [
    ("Makefile", include_str!("../stub/Makefile")),
    ("stub.h", include_str!("../stub/stub.h")),
    ("stub.c", include_str!("../stub/stub.c")),
    ("proc.c", include_str!("../stub/proc.c")),
    ("uvm.c", include_str!("../stub/uvm.c")),
    ("modeset.c", include_str!("../stub/modeset.c")),
    ("drm.c", include_str!("../stub/drm.c")),
];

/// Changes whenever the stub driver changes.
pub fn digest() -> String {
    sha256(SOURCES.map(|(name, text)| [name, "\n", text].concat()).concat().as_bytes())
}

/// Kernel headers, as paths where the modules are built: `/usr/src/linux-headers-…`.
#[derive(Clone, Debug)]
pub struct Headers {
    /// The tree that all flavours share.
    pub common: PathBuf,
    /// The tree of the one flavour (its configuration and symbol versions).
    pub flavour: PathBuf,
}

impl Headers {
    /// Where Debian's packages put them for the kernel `release`, such as
    /// `6.12.107+deb13-cloud-amd64`.
    pub fn of_debian(release: &str) -> Result<Self, RigError> {
        let abi = release.splitn(3, '-').collect::<Vec<_>>();
        let [abi, _flavour, _arch] = abi[..] else {
            return Err(RigError::Malformed {
                what: "the kernel release".into(),
                detail: format!("{release:?} is not ABI-FLAVOUR-ARCHITECTURE"),
            });
        };
        let path = |name: &str| PathBuf::from(format!("/usr/src/linux-headers-{name}"));
        Ok(Self { common: path(&format!("{abi}-common")), flavour: path(release) })
    }
}

/// Builds the stub driver that reports `version`, in `directory`, with the compiler of `tools`.
/// Returns the modules, stripped of debugging symbols, in load order.
pub fn build(
    tools: &dyn Tools,
    headers: &Headers,
    version: &str,
    directory: &Path,
) -> Result<Vec<PathBuf>, RigError> {
    for (name, text) in SOURCES {
        let file = directory.join(name);
        fs::write(&file, text).map_err(|e| RigError::io("write", &file, e))?;
    }
    let visible = [directory.to_owned()];
    let mut make = tools.command("make", &visible);
    make.arg("-C").arg(directory).args(["CC=gcc", "modules"]);
    make.arg(format!("SYSSRC={}", headers.common.display()))
        .arg(format!("SYSOUT={}", headers.flavour.display()));
    run(make.arg(format!("STUB_VERSION={version}")))?;
    let modules: Vec<_> = MODULES.iter().map(|name| directory.join(format!("{name}.ko"))).collect();
    run(tools.command("strip", &visible).arg("--strip-debug").args(&modules))?;
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_headers_match_the_release() {
        let headers = Headers::of_debian("6.12.107+deb13-cloud-amd64").unwrap();
        assert_eq!(headers.common, Path::new("/usr/src/linux-headers-6.12.107+deb13-common"));
        assert_eq!(headers.flavour, Path::new("/usr/src/linux-headers-6.12.107+deb13-cloud-amd64"));
        assert!(Headers::of_debian("6.12.107").is_err());
    }

    #[test]
    fn every_stub_source_says_that_it_is_fake() {
        for (name, text) in
            SOURCES.iter().filter(|(name, _)| Path::new(name).extension().is_some_and(|e| e == "c"))
        {
            let comment = text.split("*/").next().unwrap();
            assert!(comment.to_lowercase().contains("fake"), "{name}");
        }
    }
}
