//! Directories of driver installations: Debian's packages (`nvidia/current`, `nvidia/tesla-535`), Ubuntu's, those
//! for RPM, NVIDIA's own installer, Bottlerocket (`nvidia/tesla`, by version on some), Talos (a glibc of its own), NixOS (links into the store), the
//! directories that cluster nodes share. Paths are below the root of the installation, without a slash in front.
//!
//! The directory does not determine whether a file is 32-bit: such files are in `usr/lib` next to `usr/lib64`. The ELF header does.

use super::VERSION;
use std::env::consts::ARCH;

/// Roots within a root: unpacked images of Bottlerocket, and the driver container of NVIDIA's GPU operator.
const ROOTS: [&str; 4] = [
    "",
    "x86_64-bottlerocket-linux-gnu/sys-root/",
    "aarch64-bottlerocket-linux-gnu/sys-root/",
    "run/nvidia/driver/",
];
/// Directories of libraries. The last is the root itself, for directories such as `/usr/local/nvidia/lib64`.
pub const LIBRARIES: [&str; 17] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "lib",
    "usr/lib/i386-linux-gnu",
    "usr/lib32",
    "lib32",
    "usr/local/nvidia/lib64",
    "usr/local/nvidia/lib",
    "usr/local/lib",
    "usr/local/glibc/usr/lib",
    "run/opengl-driver/lib",
    "run/opengl-driver-32/lib",
    "usr/X11R6/lib64",
    "",
];
/// Directories of programs.
const PROGRAMS: [&str; 11] = [
    "usr/bin",
    "bin",
    "usr/sbin",
    "sbin",
    "usr/local/bin",
    "usr/local/sbin",
    "usr/local/nvidia/bin",
    "opt/bin",
    "run/opengl-driver/bin",
    "run/current-system/sw/bin",
    "",
];
/// Parents of directories with the driver's name in which packages keep programs.
const PROGRAM_PARENTS: [&str; 2] = ["usr/lib", "usr/libexec"];
/// Maximum depth searched in directories with the driver's name: `nvidia/tesla/bin/535.161.07`.
const DEPTH: usize = 4;
/// Maximum number of subdirectories searched per directory.
const MAX_SUBDIRECTORIES: usize = 64;
/// Alternatives to `/usr/share` for data files; the last one is for GKE's nodes, `vulkan/icd.d` in the driver's own directory.
const DATA_BASES: [&str; 5] = ["usr/share/", "etc/", "usr/local/share/", "usr/local/etc/", ""];
/// Alternative directories of X server modules.
const XORG_BASES: [&str; 3] =
    ["usr/lib/xorg/modules/", "usr/lib64/xorg/modules/", "usr/lib/x86_64-linux-gnu/xorg/modules/"];

/// Directories of an installation that may contain driver files, existing or not; earlier ones take precedence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directories {
    /// Directories of libraries, in groups: directories with the driver's name, then their parent. One group has one driver.
    pub libraries: Vec<Vec<String>>,
    /// Directories of programs.
    pub programs: Vec<String>,
}

impl Directories {
    /// Returns the directories of an installation. `subdirectories` lists the subdirectories of a directory.
    pub fn of(subdirectories: &dyn Fn(&str) -> Vec<String>) -> Self {
        let mut found = Self::default();
        for root in ROOTS {
            for base in LIBRARIES.map(|base| format!("{root}{base}")) {
                found.libraries.push(of_the_driver(&base, subdirectories));
                found.libraries.push(vec![base]);
            }
            for parent in PROGRAM_PARENTS {
                found.programs.extend(of_the_driver(&format!("{root}{parent}"), subdirectories));
            }
            found.programs.extend(PROGRAMS.map(|base| format!("{root}{base}")));
        }
        found.libraries.retain(|group| !group.is_empty());
        found
    }

    /// Returns all directories of libraries.
    pub fn of_libraries(&self) -> impl Iterator<Item = &String> {
        self.libraries.iter().flatten()
    }
}

/// Returns the directories with the driver's name in a directory, and their subdirectories, ordered by depth.
fn of_the_driver(base: &str, subdirectories: &dyn Fn(&str) -> Vec<String>) -> Vec<String> {
    // The root contains every directory.
    if base.is_empty() || base.ends_with('/') {
        return Vec::new();
    }
    let below = |dir: &String| {
        let mut names = subdirectories(dir);
        names.sort();
        names.truncate(MAX_SUBDIRECTORIES);
        names.into_iter().map(|name| format!("{dir}/{name}")).collect::<Vec<_>>()
    };
    let is_named = |dir: &String| {
        let name = dir.rsplit('/').next().unwrap_or(dir);
        name == "nvidia" || name.starts_with("nvidia-")
    };
    let mut names = subdirectories(base);
    names.sort();
    let mut level: Vec<String> = names
        .into_iter()
        .map(|name| format!("{base}/{name}"))
        .filter(is_named)
        .take(MAX_SUBDIRECTORIES)
        .collect();
    let mut all = level.clone();
    for _ in 1..DEPTH {
        level = level.iter().flat_map(below).take(MAX_SUBDIRECTORIES).collect();
        all.extend(level.iter().cloned());
    }
    all
}

/// Returns the paths at which an installation may have the [`super::Kind::Data`] file for `path`, in a driver of this version.
pub fn data_paths(path: &str, version: &str) -> Vec<String> {
    let path = path.replace(VERSION, version);
    let path = path.trim_start_matches('/');
    let bases: &[&str] = if path.starts_with(XORG_BASES[0]) { &XORG_BASES } else { &DATA_BASES };
    let mut paths = vec![path.to_owned()];
    if let Some(rest) = path.strip_prefix(bases[0]) {
        paths.extend(bases[1..].iter().map(|base| format!("{base}{rest}")));
    }
    let of_machine: Vec<_> = paths.iter().filter_map(|path| of_this_machine(path)).collect();
    paths.extend(of_machine);
    ROOTS.iter().flat_map(|root| paths.iter().map(move |path| format!("{root}{path}"))).collect()
}

/// Returns `nvidia_icd.x86_64.json` for `nvidia_icd.json`, as RPM packages name it.
pub(super) fn of_this_machine(name: &str) -> Option<String> {
    Some(format!("{}.{ARCH}.json", name.strip_suffix(".json")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn of(tree: &[&str]) -> Directories {
        let all: BTreeSet<&str> = tree
            .iter()
            .flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at]).chain([*path]))
            .collect();
        Directories::of(&|dir: &str| {
            let below = all.iter().filter_map(|path| path.strip_prefix(dir)?.strip_prefix('/'));
            below.filter(|rest| !rest.contains('/')).map(str::to_owned).collect()
        })
    }

    #[test]
    fn directories_of_the_drivers_name_come_before_what_they_are_in() {
        let found = of(&[
            "usr/lib/x86_64-linux-gnu/nvidia/tesla-535",
            "usr/lib/x86_64-linux-gnu/nvidia/current",
            "usr/lib/x86_64-linux-gnu/nvidia/xorg",
            "usr/lib/nvidia/current",
            "usr/lib64/nvidia-current",
            "usr/lib64/other/nvidia",
        ]);
        let at = |dir: &str| found.of_libraries().position(|found| found == dir);
        let base = at("usr/lib/x86_64-linux-gnu").unwrap();
        for name in ["nvidia", "nvidia/current", "nvidia/tesla-535", "nvidia/xorg"] {
            assert!(at(&format!("usr/lib/x86_64-linux-gnu/{name}")).unwrap() < base, "{name}");
        }
        assert!(at("usr/lib64/nvidia-current").is_some() && at("usr/lib64/other/nvidia").is_none());
        assert_eq!(found.programs[..2], ["usr/lib/nvidia", "usr/lib/nvidia/current"]);
        assert!(at("").is_some() && found.programs.contains(&String::new()));
        let group =
            found.libraries.iter().find(|group| group.contains(&"usr/lib/x86_64-linux-gnu/nvidia".into()));
        assert_eq!(group.unwrap().len(), 4);
    }

    #[test]
    fn roots_within_a_root_are_looked_into_and_no_deeper_than_any_package_goes() {
        let root = "x86_64-bottlerocket-linux-gnu/sys-root/usr";
        let found = of(&[
            &format!("{root}/lib/nvidia/tesla/535.1/x/deeper"),
            &format!("{root}/libexec/nvidia/tesla/bin/535.1"),
        ]);
        let libraries: Vec<_> = found.of_libraries().cloned().collect();
        let has = |list: &[String], dir: &str| list.contains(&format!("{root}/{dir}"));
        assert!(has(&libraries, "lib/nvidia/tesla/535.1"));
        assert!(!has(&libraries, "lib/nvidia/tesla/535.1/x/deeper"));
        assert!(has(&found.programs, "libexec/nvidia/tesla/bin/535.1"));
    }

    #[test]
    fn data_is_where_installers_and_packages_put_it() {
        let icd = data_paths("/usr/share/vulkan/icd.d/nvidia_icd.json", "1");
        assert_eq!(icd[0], "usr/share/vulkan/icd.d/nvidia_icd.json");
        for path in [
            "etc/vulkan/icd.d/nvidia_icd.json".to_owned(),
            "vulkan/icd.d/nvidia_icd.json".to_owned(),
            format!("usr/share/vulkan/icd.d/nvidia_icd.{ARCH}.json"),
        ] {
            assert!(icd.contains(&path), "{path}");
        }
        let xorg = data_paths("/usr/lib/xorg/modules/extensions/libglxserver_nvidia.so.{version}", "550.1");
        assert!(xorg.contains(&"usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so.550.1".to_owned()));
        assert_eq!(data_paths("/etc/OpenCL/vendors/nvidia.icd", "1")[0], "etc/OpenCL/vendors/nvidia.icd");
    }
}
