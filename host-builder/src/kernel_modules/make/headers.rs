//! Kernel headers: their kernel, whether modules can be built with them, and the paths of their
//! parts.

use super::environment::{Room, Workshop};
use crate::common::error::{Doing, Error, Result};
use crate::common::plain;
use crate::programs::toolroot::Toolroot;
use std::fs;
use std::path::{Path, PathBuf};

/// Files that a tree must have for building modules.
const PREPARED: [&str; 4] = [
    "include/config/kernel.release",
    "include/generated/autoconf.h",
    "Module.symvers",
    "scripts/mod/modpost",
];

/// Headers of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// The configured part.
    pub configured: PathBuf,
    /// The sources; the same directory if the headers are not split.
    pub common: PathBuf,
    /// Release of the kernel.
    pub release: String,
}

/// Headers as programs in the environment see them.
pub struct Seen {
    /// Directories to bind.
    pub binds: Vec<(PathBuf, Room)>,
    /// Path of the sources.
    pub source: String,
    /// Path of the configured part.
    pub output: String,
}

impl Headers {
    /// The headers of a toolroot, by the release of the kernel.
    pub fn in_toolroot(toolroot: &Toolroot, release: &str) -> Result<Self> {
        let name = format!("linux-headers-{release}");
        let path = toolroot.path().join("usr/src").join(&name);
        if !path.is_dir() {
            return Err(Error::new(format!(
                "the toolroot has no /usr/src/{name}, which is needed to build modules for kernel {release}"
            ))
            .hint("the locked headers belong to another kernel; resolve again: build-initrd --update-lock"));
        }
        Self::read(&path, None)
    }

    /// The headers in a directory. `common`: the directory of the sources, if it cannot be derived
    /// from the first one.
    pub fn read(directory: &Path, common: Option<&Path>) -> Result<Self> {
        let configured = directory.canonicalize().doing("finding the kernel headers", directory)?;
        for file in PREPARED {
            // A directory of links into /usr may be in another root: the targets of its links are
            // resolved inside that root.
            if fs::symlink_metadata(configured.join(file)).is_err() {
                return Err(Error::new(format!(
                    "{}: expected a configured kernel build tree or a linux-headers directory, found no {file}",
                    directory.display()
                ))
                .hint("build the kernel there (`make`; `make modules_prepare` does not create Module.symvers), or pass the directory of a package linux-headers-RELEASE"));
            }
        }
        let release = release_of(&configured)?;
        let common = match common {
            Some(common) => common.canonicalize().doing("finding the common kernel headers", common)?,
            None => find_common(&configured).ok_or_else(|| {
                Error::new(format!("{}: expected include/linux/module.h, or a Makefile or link `source` that names the sources", directory.display()))
                    .hint("pass the directory of the common part: --headers-common DIR")
            })?,
        };
        if !has_sources(&common) {
            return Err(Error::new(format!(
                "{}: expected the kernel's include/linux/module.h",
                common.display()
            ))
            .hint("pass the directory of the common part: --headers-common DIR"));
        }
        Ok(Self { configured, common, release })
    }

    /// Fails if the configuration shows that the kernel is for another architecture than x86-64.
    pub fn check_arch(&self, arch: &str) -> Result<()> {
        let option = match arch {
            "aarch64" => "CONFIG_ARM64",
            _ => "CONFIG_X86_64",
        };
        if self.has(option) != Some(false) {
            return Ok(());
        }
        Err(Error::new(format!(
            "{}: expected {option}=y (a kernel for {arch}), found another architecture",
            self.configuration().display()
        ))
        .hint("pass headers of a kernel for the machine that the modules are for"))
    }

    /// Whether this option is built into the kernel; `None` if its configuration cannot be read.
    pub fn has(&self, option: &str) -> Option<bool> {
        let text = plain::read_text(&self.configuration()).ok()?;
        Some(text.lines().any(|line| line.strip_prefix(option) == Some("=y")))
    }

    fn configuration(&self) -> PathBuf {
        self.configured.join("include/config/auto.conf")
    }

    /// The headers with their paths in the environment. Headers below `usr/src` are bound with all
    /// of that `usr`, because their links lead there.
    pub fn seen_from(&self, workshop: &Workshop) -> Seen {
        if let Workshop::Toolroot(toolroot) = workshop {
            let inside =
                |path: &Path| Some(format!("/{}", path.strip_prefix(toolroot.path()).ok()?.display()));
            if let (Some(source), Some(output)) = (inside(&self.common), inside(&self.configured)) {
                return Seen { binds: Vec::new(), source, output };
            }
        }
        let whole = |path: &Path| {
            let src = path.parent().filter(|parent| parent.ends_with("usr/src"));
            src.and_then(Path::parent).unwrap_or(path).to_owned()
        };
        let below = |path: &Path, root: &Path, room: Room| {
            let rest = path.strip_prefix(root).ok()?;
            let place = workshop.place(room);
            Some(if rest.as_os_str().is_empty() {
                place.to_owned()
            } else {
                format!("{place}/{}", rest.display())
            })
        };
        let (root, other) = (whole(&self.configured), whole(&self.common));
        let output = below(&self.configured, &root, Room::Headers).expect("it is at or below the root");
        let mut binds = vec![(root.clone(), Room::Headers)];
        let source = below(&self.common, &root, Room::Headers).unwrap_or_else(|| {
            let source = below(&self.common, &other, Room::Common).expect("it is at or below the root");
            binds.push((other, Room::Common));
            source
        });
        Seen { binds, source, output }
    }
}

/// The kernel release in a module's vermagic. Debian's headers may have an upstream version in
/// `kernel.release`.
fn release_of(configured: &Path) -> Result<String> {
    let path = configured.join("include/generated/utsrelease.h");
    let header = plain::read_text(&path).unwrap_or_default();
    let defined =
        header.lines().find_map(|line| line.strip_prefix("#define UTS_RELEASE \"")?.split('"').next());
    let (path, release) = if let Some(release) = defined {
        (path, release.to_owned())
    } else {
        let path = configured.join("include/config/kernel.release");
        let text = plain::read_text(&path)?;
        (path, text.trim().to_owned())
    };
    if !release.is_empty() && !release.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return Ok(release);
    }
    Err(Error::new(format!("{}: expected a kernel release, found {release:?}", path.display()))
        .hint("build the kernel's tree again"))
}

fn has_sources(dir: &Path) -> bool {
    dir.join("include/linux/module.h").is_file() && dir.join("Makefile").is_file()
}

/// The directory of the sources: this one, the target of a link `source`, or the one from which the
/// Makefile is included. An absolute path may refer to the root that the headers were unpacked
/// into, or to the directory next to them.
fn find_common(configured: &Path) -> Option<PathBuf> {
    if has_sources(configured) {
        return Some(configured.to_owned());
    }
    let linked = configured.join("source").canonicalize().ok();
    let makefile = plain::read_text(&configured.join("Makefile")).unwrap_or_default();
    let named = makefile.lines().find_map(|line| {
        Some(PathBuf::from(line.strip_prefix("include ")?.trim().strip_suffix("/Makefile")?))
    });
    let mut candidates: Vec<PathBuf> = linked.into_iter().collect();
    if let Some(named) = named {
        let root = configured.parent().filter(|parent| parent.ends_with("usr/src"));
        let root = root.and_then(|parent| parent.parent()?.parent());
        candidates.extend(root.map(|root| root.join(named.strip_prefix("/").unwrap_or(&named))));
        candidates.extend(named.file_name().map(|name| configured.with_file_name(name)));
        candidates.push(named);
    }
    candidates.into_iter().find(|dir| has_sources(dir))?.canonicalize().ok()
}

/// Possible names of the packages with a kernel's headers, the most likely one first. Debian splits
/// headers: the common part of `6.12.1+deb13-cloud-amd64` is in `6.12.1+deb13-common`. Ubuntu does,
/// too: `6.8.0-31-generic`, `6.8.0-31`.
pub fn headers_names(release: &str) -> Vec<String> {
    let abi = release.strip_suffix("-amd64").or(release.strip_suffix("-arm64")).unwrap_or(release);
    let abi = ["-cloud", "-rt"].iter().find_map(|flavour| abi.strip_suffix(flavour)).unwrap_or(abi);
    let without_flavour = release.rsplit_once('-').map_or(release, |(abi, _)| abi);
    [format!("{abi}-common"), without_flavour.to_owned(), release.to_owned()]
        .map(|name| format!("linux-headers-{name}"))
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_debian_and_ubuntu_headers_are_tried() {
        assert_eq!(headers_names("6.12.1+deb13-cloud-amd64")[0], "linux-headers-6.12.1+deb13-common");
        assert_eq!(headers_names("6.1.0-9-amd64")[0], "linux-headers-6.1.0-9-common");
        assert_eq!(headers_names("6.8.0-31-generic")[1], "linux-headers-6.8.0-31");
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn tree(dir: &Path) {
        for file in PREPARED {
            write(&dir.join(file), "6.1.0-x\n");
        }
    }

    #[test]
    fn common_part_is_found_through_the_makefile_in_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (configured, common) = (root.join("usr/src/h-amd64"), root.join("usr/src/h-common"));
        tree(&configured);
        write(&configured.join("Makefile"), "include /usr/src/h-common/Makefile\n");
        let error = Headers::read(&configured, None).unwrap_err();
        assert!(error.remedy().unwrap().contains("--headers-common"));
        write(&common.join("include/linux/module.h"), "");
        write(&common.join("Makefile"), "");
        let headers = Headers::read(&configured, None).unwrap();
        assert_eq!((&headers.common, headers.release.as_str()), (&common, "6.1.0-x"));
        assert_eq!(Headers::read(&configured, Some(&common)).unwrap(), headers);
        write(&configured.join("include/generated/utsrelease.h"), "#define UTS_RELEASE \"6.1.0-9-x\"\n");
        assert_eq!(Headers::read(&configured, None).unwrap().release, "6.1.0-9-x");
        write(&configured.join("include/config/auto.conf"), "CONFIG_ARM64=y\n");
        assert!(headers.check_arch("x86_64").unwrap_err().to_string().contains("CONFIG_X86_64=y"));
        headers.check_arch("aarch64").unwrap();
    }

    #[test]
    fn unprepared_tree_is_refused_with_what_is_missing() {
        for lacking in PREPARED {
            let dir = tempfile::tempdir().unwrap();
            tree(dir.path());
            fs::remove_file(dir.path().join(lacking)).unwrap();
            let error = Headers::read(dir.path(), None).unwrap_err();
            assert!(error.to_string().contains(&format!("found no {lacking}")), "{error}");
            assert!(error.remedy().is_some());
        }
    }
}
