//! The driver that is installed below a root directory (`host:/`): only the driver's own files,
//! found by name in the directories where distributions install them.

use super::file::{pinned, store};
use super::source::{Access, Source, WantedArtifact, check};
use crate::artifacts::directory;
use crate::artifacts::directory::Files;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::base_name;
use crate::pins::lock::{Artifact, Set, SourceKind};
use image::capability::installed::{Directories, data_paths};
use image::capability::{self, TABLE, classify, version_of};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Directories with the driver's own list of its files.
const LIST_DIRECTORIES: [&str; 2] = ["usr/share/nvidia", "usr/share/nvidia/files.d"];
/// A subdirectory of library directories.
const VDPAU: &str = "vdpau";
const FILELIST: &str = "sandboxutils-filelist.json";
/// Most entries of a directory that are read.
const MAX_ENTRIES: usize = 100_000;

/// The driver below a root directory.
pub struct HostSource<'a> {
    access: Access<'a>,
    release: Option<&'a str>,
}

impl<'a> HostSource<'a> {
    /// `release`: kernel release of the modules; default: the running kernel.
    pub fn new(access: Access<'a>, release: Option<&'a str>) -> Self {
        Self { access, release }
    }

    fn take(&self, url: &str, sets: &[Set], driver: &str) -> Result<(u64, String)> {
        let files = self.files(url, sets, driver)?;
        store(self.access, |out, place| directory::pack(&files, out, place))
    }

    fn files(&self, url: &str, sets: &[Set], driver: &str) -> Result<Files> {
        let root = Path::new(url.strip_prefix("host:").unwrap_or(url));
        let root = root.canonicalize().doing("looking for", root)?;
        let mut found = Found { root, files: Files::new() };
        for set in sets {
            match set {
                Set::Firmware => found.below("lib/firmware/nvidia", driver, |_| true)?,
                Set::GpuModules => found.modules(&self.release()?, is_gpu_module)?,
                Set::Kernel => found.kernel(&self.release()?)?,
                _ => found.driver(driver)?,
            }
            if found.files.is_empty() {
                return Err(found.nothing(*set, driver));
            }
        }
        Ok(found.files)
    }

    fn release(&self) -> Result<String> {
        if let Some(release) = self.release {
            return Ok(release.to_owned());
        }
        let path = Path::new("/proc/sys/kernel/osrelease");
        Ok(fs::read_to_string(path).doing("reading", path)?.trim().to_owned())
    }
}

struct Found {
    root: PathBuf,
    files: Files,
}

impl Found {
    /// Adds a file by its path. A link counts as its target if that is below the root.
    fn add(&mut self, path: &str) {
        let real = self.root.join(path).canonicalize();
        if let Ok(real) = real
            && real.starts_with(&self.root)
            && real.is_file()
        {
            self.files.insert(path.to_owned(), real);
        }
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(directory)) else { return Vec::new() };
        let names = entries.take(MAX_ENTRIES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.collect()
    }

    /// Directories that may contain the driver's files.
    fn directories(&self) -> Vec<String> {
        let subdirectories = |directory: &str| {
            let names = self.names(directory).into_iter();
            names.filter(|name| self.root.join(directory).join(name).is_dir()).collect()
        };
        let found = Directories::of(&subdirectories);
        let vdpau = found.of_libraries().map(|directory| join(directory, VDPAU)).collect::<Vec<_>>();
        let libraries = found.of_libraries().cloned().collect::<Vec<_>>();
        let lists = LIST_DIRECTORIES.map(str::to_owned);
        libraries.into_iter().chain(vdpau).chain(found.programs).chain(lists).collect()
    }

    fn driver(&mut self, driver: &str) -> Result<()> {
        for directory in self.directories() {
            for name in self.names(&directory) {
                if classify(&name, driver).is_some() || name == FILELIST {
                    self.add(&join(&directory, &name));
                }
            }
        }
        for row in TABLE {
            if let capability::Kind::Data(path) = row.kind {
                for path in data_paths(path, driver) {
                    self.add(&path);
                }
            }
        }
        // Without this file, it is not a driver, regardless of other files.
        if self.files.keys().any(|path| path.contains("/libcuda.so.")) {
            return Ok(());
        }
        Err(self.nothing(Set::Driver, driver))
    }

    /// The content of a subdirectory, whether the directory is merged into /usr or not.
    fn below(&mut self, directory: &str, name: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let directory = [format!("usr/{directory}/{name}"), format!("{directory}/{name}")]
            .into_iter()
            .find(|directory| self.root.join(directory).is_dir());
        let Some(directory) = directory else { return Ok(()) };
        for (path, _) in directory::below(&self.root.join(&directory))? {
            if wanted(&path) {
                self.add(&format!("{directory}/{path}"));
            }
        }
        Ok(())
    }

    fn modules(&mut self, release: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.below("lib/modules", release, wanted)
    }

    fn kernel(&mut self, release: &str) -> Result<()> {
        let image = format!("boot/vmlinuz-{release}");
        self.add(&image);
        if !self.files.contains_key(&image) {
            return Err(Error::new(format!("{}: has no {image}", self.root.display()))
                .hint("name the kernel that is installed there in the profile: [kernel] release"));
        }
        self.modules(release, |path| {
            let listed = path.starts_with("modules.") && !path.contains('/');
            (listed || path.starts_with("kernel/")) && !is_gpu_module(path)
        })
    }

    fn nothing(&self, set: Set, driver: &str) -> Error {
        let directories = self.directories();
        let names = directories.iter().flat_map(|directory| self.names(directory));
        let versions: BTreeSet<_> =
            names.filter_map(|name| version_of(&name).map(|(_, version)| version.to_owned())).collect();
        let versions: Vec<_> = versions.into_iter().collect();
        let found = if versions.is_empty() {
            "no driver".to_owned()
        } else {
            format!("driver {}", versions.join(", "))
        };
        Error::new(format!("{}: expected {set} of driver {driver}, found {found}", self.root.display()))
            .hint("set `driver` in the profile to the installed version, and [kernel] release to its kernel")
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn is_gpu_module(path: &str) -> bool {
    let name = base_name(path);
    name.starts_with("nvidia") && name.contains(".ko") && !path.starts_with("kernel/drivers/video")
}

impl Source for HostSource<'_> {
    type Query<'w> = Vec<WantedArtifact<'w>>;

    fn resolve(&self, wanted: Vec<WantedArtifact>) -> Result<Vec<Artifact>> {
        let one = |wanted: &WantedArtifact| {
            let url = wanted.url()?;
            let found = self.take(&url, &wanted.artifact.sets, wanted.values.driver)?;
            let mut artifact = pinned(self.access, wanted, SourceKind::Host, url, found)?;
            // These paths are needed to pack the same archive again.
            wanted.values.driver.clone_into(&mut artifact.version);
            Ok(artifact)
        };
        wanted.iter().map(one).collect()
    }

    fn fetch(&self, artifacts: &[&Artifact]) -> Result<()> {
        artifacts.iter().try_for_each(|artifact| {
            let url = artifact.url.as_deref().unwrap_or_default();
            let (size, sha256) = self.take(url, &artifact.sets, &artifact.version)?;
            check(artifact, size, &sha256)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::cache::Cache;
    use crate::common::ui::Ui;
    use std::os::unix::fs::symlink;

    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "usr/lib/x86_64-linux-gnu/libcuda.so.550.163.01",
            "usr/lib/x86_64-linux-gnu/libc.so.6",
            "usr/lib/nvidia/current/nvidia-smi",
            "usr/lib/x86_64-linux-gnu/nvidia/tesla-550/libnvidia-ml.so.550.163.01",
            "usr/lib/libcuda.so.550.163.01",
            "usr/share/vulkan/icd.d/nvidia_icd.x86_64.json",
            "etc/vulkan/implicit_layer.d/nvidia_layers.json",
            "usr/lib/firmware/nvidia/550.163.01/gsp_ga10x.bin",
            "usr/lib/firmware/nvidia/999.1/gsp_ga10x.bin",
            "usr/lib/modules/6.12-x/updates/dkms/nvidia.ko.xz",
            "usr/lib/modules/6.12-x/kernel/drivers/net/virtio_net.ko.xz",
            "usr/lib/modules/6.13-y/updates/dkms/nvidia.ko.xz",
            "etc/OpenCL/vendors/nvidia.icd",
            "etc/passwd",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        symlink("../lib/nvidia/current/nvidia-smi", dir.path().join("usr/bin/nvidia-smi")).unwrap();
        symlink("/bin/sh", dir.path().join("usr/bin/nvidia-modprobe")).unwrap();
        dir
    }

    fn found(sets: &[Set], driver: &str) -> Result<Vec<String>> {
        let (dir, ui) = (machine(), Ui::new(true));
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        let host = HostSource::new(Access::new(&cache, &ui), Some("6.12-x"));
        let url = format!("host:{}", dir.path().display());
        host.files(&url, sets, driver).map(|files| files.into_keys().collect())
    }

    #[test]
    fn only_driver_files_are_packed_and_no_link_leaves_the_root() {
        assert_eq!(
            found(&[Set::Driver], "550.163.01").unwrap(),
            [
                "etc/OpenCL/vendors/nvidia.icd",
                "etc/vulkan/implicit_layer.d/nvidia_layers.json",
                "usr/bin/nvidia-smi",
                "usr/lib/libcuda.so.550.163.01",
                "usr/lib/nvidia/current/nvidia-smi",
                "usr/lib/x86_64-linux-gnu/libcuda.so.550.163.01",
                "usr/lib/x86_64-linux-gnu/nvidia/tesla-550/libnvidia-ml.so.550.163.01",
                "usr/share/vulkan/icd.d/nvidia_icd.x86_64.json",
            ]
        );
        assert_eq!(
            found(&[Set::Firmware, Set::GpuModules], "550.163.01").unwrap(),
            [
                "usr/lib/firmware/nvidia/550.163.01/gsp_ga10x.bin",
                "usr/lib/modules/6.12-x/updates/dkms/nvidia.ko.xz"
            ]
        );
    }

    #[test]
    fn another_driver_is_an_error_with_both_versions() {
        let error = found(&[Set::Driver], "570.86.16").unwrap_err().to_string();
        assert!(error.contains("570.86.16") && error.contains("550.163.01"), "{error}");
        assert!(found(&[Set::Kernel], "550.163.01").unwrap_err().to_string().contains("boot/vmlinuz-6.12-x"));
    }
}
