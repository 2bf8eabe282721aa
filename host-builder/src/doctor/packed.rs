//! The driver of an image: its files, unpacked for inspection, and its list of GPUs.

use super::disk::{self, ImageFileSystem};
use super::report::Check;
use crate::common::digest::sha256_file;
use crate::common::error::{Doing, Error, Result};
use crate::initramfs::{Archive, Tree, take, take_one};
use crate::kernel_modules::gpus::{Chip, chips};
use crate::pins::branches::{Month, Support};
use crate::programs::sandbox::Tools;
use image::layout;
use image::manifest::{self, File, Manifest, Payload};
use image::requirement::Facts;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Most altered files in a message.
const SHOWN: usize = 12;

/// The driver of an image.
#[derive(Debug)]
pub struct Packed {
    /// The image's plan.
    pub manifest: Manifest,
    /// The list of GPUs in its `nvidia.ko`, or why there is none.
    pub chips: std::result::Result<Vec<Chip>, String>,
    /// Firmware files that its `nvidia.ko` requests, as far as they could be read.
    pub asked: Vec<String>,
    /// Firmware files that are packed.
    pub firmware: Vec<String>,
    /// The directory with the driver's files and the manifest, for `guest-init inject --driver`.
    pub directory: PathBuf,
    /// Files that differ from the manifest.
    pub altered: Vec<String>,
    /// Why its files could not be read: no program can read them, or the driver disk is missing.
    pub unread: Option<Error>,
}

/// Where the driver of an image comes from.
pub struct Origin<'a> {
    /// The image.
    pub archive: &'a Archive,
    /// Its files after unpacking.
    pub tree: &'a Tree<'a>,
    /// Its manifest, and the bytes of the manifest.
    pub manifest: (Manifest, &'a [u8]),
    /// Its driver disk.
    pub disk: Option<&'a Path>,
    /// Whether all files for containers are needed, or only the driver's module.
    pub whole: bool,
}

impl Packed {
    /// Unpacks the files below `work`. `tools` returns the programs if the driver is an EROFS
    /// image.
    ///
    /// # Errors
    /// When the image is damaged. An unreadable file system is an error only if files for
    /// containers are needed; a host can be checked without them ([`Packed::unread`]).
    pub fn take(
        origin: Origin,
        work: &Path,
        tools: &dyn Fn(ImageFileSystem, &Path) -> Result<Tools>,
    ) -> Result<Self> {
        let Origin { archive, tree, manifest: (manifest, bytes), disk, whole } = origin;
        let wanted: BTreeMap<&str, &File> = manifest
            .files
            .iter()
            .filter(|file| matches!(file.kind, manifest::Kind::File { .. }))
            .filter(|file| is_module(file) || whole && !file.capabilities.is_empty())
            .map(|file| (file.path.as_str(), file))
            .collect();
        let directory = work.join("driver");
        // Checked before any file is written: no path may leave the directory.
        for path in wanted.keys() {
            below(&directory, path)?;
        }
        let erofs = |image: &Path| from_erofs(image, &wanted, &directory, work, tools);
        let read = match &manifest.payload {
            Payload::Files => {
                take(archive, tree, |path| match std::str::from_utf8(path) {
                    Ok(path) if wanted.contains_key(path) => below(&directory, path).map(Some),
                    _ => Ok(None),
                })?;
                Ok(())
            }
            Payload::Image { path, .. } => {
                let image = work.join("payload");
                if !take_one(archive, tree, path, &image)? {
                    return Err(Error::new(format!("the initrd has no {path}, which is in its manifest"))
                        .hint("build the initrd again"));
                }
                erofs(&image)
            }
            Payload::Disk { .. } => disk.ok_or_else(no_disk).and_then(erofs),
        };
        let firmware = manifest.driver.as_ref().map(|driver| driver.firmware.clone()).unwrap_or_default();
        let unread = match read {
            Err(error) if whole => return Err(error),
            Err(error) => {
                let chips = Err("the driver's files could not be read".to_owned());
                let unread = Some(error);
                return Ok(Self {
                    manifest,
                    chips,
                    asked: Vec::new(),
                    firmware,
                    directory,
                    altered: Vec::new(),
                    unread,
                });
            }
            Ok(()) => None,
        };
        let place = below(&directory, layout::MANIFEST)?;
        fs::write(&place, bytes).doing("writing", &place)?;
        let mut altered = Vec::new();
        for (path, file) in &wanted {
            let manifest::Kind::File { sha256, .. } = &file.kind else { continue };
            let place = below(&directory, path)?;
            let found = place.is_file().then(|| sha256_file(&place)).transpose()?;
            if found.as_ref() != Some(sha256) {
                altered.push(format!("{path}: {}", if found.is_some() { "altered" } else { "missing" }));
            }
        }
        let module = wanted.iter().find(|(_, file)| is_module(file)).map(|(path, _)| below(&directory, path));
        let (chips, asked) = match module.transpose()? {
            Some(module) => {
                let read = fs::read(&module).map_err(|error| error.to_string());
                let info = read.as_ref().ok().and_then(|bytes| image::elf::modinfo(bytes).ok());
                let asked = info.iter().flat_map(|info| info.all("firmware")).map(str::to_owned).collect();
                (read.and_then(|bytes| chips(&bytes).map_err(|error| error.chain())), asked)
            }
            None => (Err("the initrd has no nvidia.ko".to_owned()), Vec::new()),
        };
        Ok(Self { manifest, chips, asked, firmware, directory, altered, unread })
    }

    /// Version of the driver.
    pub fn version(&self) -> &str {
        self.manifest.driver.as_ref().map_or("none", |driver| driver.version.as_str())
    }

    /// What is known about the driver.
    pub fn facts(&self) -> Facts {
        let told = self.manifest.driver.as_ref().and_then(|driver| driver.cuda.as_deref());
        Facts::of_driver(self.version(), told)
    }

    /// The check `image-driver-support`, in this month; `None` without a driver.
    pub fn support(&self, now: Month) -> Option<Check> {
        const NAME: &str = "image-driver-support";
        let version = &self.manifest.driver.as_ref()?.version;
        let support = Support::of(version, now);
        Some(match support.warning(version, now) {
            Some(warning) => Check::warn(
                NAME,
                warning,
                "build with a supported driver: host-builder build-initrd --driver 580",
            ),
            None => Check::pass(NAME, format!("driver {version}: {support}")),
        })
    }

    /// The check `image-driver`.
    pub fn check(&self) -> Check {
        const NAME: &str = "image-driver";
        let Some(driver) = &self.manifest.driver else {
            return Check::fail(
                NAME,
                "the initrd contains no driver",
                "build one with a driver: host-builder build-initrd",
            );
        };
        let what = format!(
            "driver {} for kernel {}, capabilities {}",
            driver.version,
            self.manifest.kernel_release,
            self.manifest.capabilities.join(", ")
        );
        if let Some(why) = &self.unread {
            return Check::warn(
                NAME,
                format!(
                    "{what}; its files could not be read, so GPUs are checked against the built-in list: {}",
                    why.chain()
                ),
                why.remedy()
                    .unwrap_or("check the initrd on the machine that built it: host-builder verify IMAGE"),
            );
        }
        if self.altered.is_empty() {
            return Check::pass(NAME, what)
                .evidence(driver.gpus.iter().map(|gpu| format!("built for {gpu}")));
        }
        Check::fail(
            NAME,
            format!("{what}; {} files differ from the manifest", self.altered.len()),
            "build the initrd again; for details run host-builder verify IMAGE",
        )
        .evidence(self.altered.iter().take(SHOWN).cloned())
    }
}

fn no_disk() -> Error {
    Error::new("the initrd needs its driver disk: none was given").hint(
        "pass the file that build-initrd wrote next to the initrd (its --payload-output): --payload-disk FILE",
    )
}

fn is_module(file: &File) -> bool {
    file.path.ends_with("/nvidia.ko")
}

/// The place of an absolute path of the manifest below `directory`. Creates its parent directories.
fn below(directory: &Path, path: &str) -> Result<PathBuf> {
    let relative = path.trim_start_matches('/');
    let good = !relative.is_empty()
        && Path::new(relative).components().all(|part| matches!(part, Component::Normal(_)));
    if !good {
        return Err(Error::new(format!(
            "the manifest names a file {path:?}, expected an absolute path without .."
        ))
        .hint("the image was altered: build it again"));
    }
    let place = directory.join(relative);
    let parent = place.parent().unwrap_or(directory);
    fs::create_dir_all(parent).doing("creating", parent)?;
    Ok(place)
}

/// Wanted files of an EROFS image.
fn from_erofs(
    image: &Path,
    wanted: &BTreeMap<&str, &File>,
    directory: &Path,
    work: &Path,
    tools: &dyn Fn(ImageFileSystem, &Path) -> Result<Tools>,
) -> Result<()> {
    let kind = ImageFileSystem::of(image)?;
    let unpacked = work.join("payload-unpacked");
    let (root, _) = disk::unpack(&tools(kind, image)?, kind, image, &unpacked)?;
    let root = fs::File::open(&root).doing("opening", &root)?;
    // What was unpacked is the image's: no link of it is followed.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
    for path in wanted.keys() {
        let place = below(directory, path)?;
        let Ok(found) = openat2(&root, path.trim_start_matches('/'), how) else { continue };
        let mut found = fs::File::from(found);
        if found.metadata().doing("reading", &place)?.is_file() {
            let mut file = fs::File::create(&place).doing("creating", &place)?;
            io::copy(&mut found, &mut file).doing("writing", &place)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_a_manifest_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(below(dir.path(), "/a/b").unwrap(), dir.path().join("a/b"));
        for bad in ["/../x", "/a/../../x", "/", "", "//.."] {
            assert!(below(dir.path(), bad).is_err(), "{bad}");
        }
    }
}
