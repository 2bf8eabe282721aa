//! Volumes: mounted from the guest's disks before the container's root is entered, and put in their places when all of its kernel file
//! systems are there.

use super::Spec;
use super::world::own;
use crate::disks;
use crate::report::{self, chain};
use crate::rootfs::RootDir;
use image::config::{Volume, VolumeMode};
use image::layout;
use image::status::{Code, Finding, Severity};
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where nothing is mounted over what the kernel shows.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];
/// But for this, which is memory that programs share.
const SHARED: &str = "/dev/shm";

/// All of a container's, which are mounted, and not yet where the container will see them.
pub struct Volumes<'a> {
    staged: Vec<Staged<'a>>,
    /// One that cannot be used does not end the boot.
    lenient: bool,
}

impl<'a> Volumes<'a> {
    /// Mounts them where only PID 1's processes see them. `warn` hears of those that the container is started without.
    ///
    /// # Errors
    /// The finding that names the volume.
    pub fn stage(spec: &'a Spec, warn: &mut dyn FnMut(Finding)) -> Result<Self, Finding> {
        let mut volumes = Self { staged: Vec::new(), lenient: spec.lenient };
        for (number, volume) in spec.volumes.iter().enumerate() {
            match Staged::new(number, volume) {
                Ok(staged) => volumes.staged.push(staged),
                Err(what) => volumes.unusable(&what, warn)?,
            }
        }
        Ok(volumes)
    }

    /// Moves them to their places in the root, which this process has entered.
    ///
    /// # Errors
    /// The finding that names the volume.
    pub fn place(&self, root: &RootDir, warn: &mut dyn FnMut(Finding)) -> Result<(), Finding> {
        self.staged.iter().try_for_each(|staged| match staged.place(root) {
            Ok(()) => Ok(()),
            Err(what) => self.unusable(&what, warn),
        })
    }

    fn unusable(&self, what: &str, warn: &mut dyn FnMut(Finding)) -> Result<(), Finding> {
        let hint = "attach the disk that it names, with a file system that the guest knows, and give it a place that is no file and not the kernel's";
        let finding = report::error(Code::VolumeUnusable, what, hint);
        if !self.lenient {
            return Err(finding);
        }
        warn(Finding { severity: Severity::Warning, ..finding });
        Ok(())
    }
}

/// A volume that is mounted, and not yet where the container will see it.
struct Staged<'a> {
    volume: &'a Volume,
    mounted: File,
}

impl<'a> Staged<'a> {
    fn new(number: usize, volume: &'a Volume) -> Result<Self, String> {
        let base = PathBuf::from(layout::RUN_DIR).join(format!("volume{number}"));
        Self::mount(volume, &base).map_err(|what| describe(volume, &what))
    }

    fn mount(volume: &'a Volume, base: &Path) -> Result<Self, String> {
        let [lower, scratch, target] = ["lower", "scratch", "volume"].map(|name| base.join(name));
        for dir in [&lower, &scratch, &target] {
            fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let mount_disk = |device: &str, target: &Path, read_only| {
            disks::mount_disk(Path::new(device), target, read_only).map_err(|error| chain(&error))
        };
        match &volume.mode {
            VolumeMode::ReadOnly => mount_disk(&volume.device, &target, true)?,
            VolumeMode::ReadWrite => mount_disk(&volume.device, &target, false)?,
            VolumeMode::Overlay { upper } => {
                mount_disk(&volume.device, &lower, true)?;
                mount_disk(upper, &scratch, false)?;
                let scratch = disks::Scratch::of(&scratch).map_err(|error| error.to_string())?;
                let options = scratch.overlay(&lower.display().to_string());
                mount(Some("overlay"), &target, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_str()))
                    .map_err(|errno| format!("overlay: {errno}"))?;
            }
        }
        let mounted = File::open(&target).map_err(|error| error.to_string())?;
        Ok(Self { volume, mounted })
    }

    /// The place is looked up inside the hostile root.
    fn place(&self, root: &RootDir) -> Result<(), String> {
        self.moved(root).map_err(|what| describe(self.volume, &what))
    }

    fn moved(&self, root: &RootDir) -> Result<(), String> {
        let path = Path::new(&self.volume.path);
        root.create_dir_all(path).map_err(|error| chain(&error))?;
        let place = root.canonical(path).map_err(|error| chain(&error))?;
        if let Some(kernels) = KERNELS.iter().find(|kernels| place.starts_with(kernels))
            && !place.starts_with(SHARED)
        {
            return Err(format!("it would hide a part of {kernels}, which the kernel fills"));
        }
        let target = root.open_dir(path).map_err(|error| chain(&error))?;
        mount(Some(&own(&self.mounted)), &own(&target), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|errno| format!("moving it there: {errno}"))
    }
}

fn describe(volume: &Volume, what: &str) -> String {
    format!("volume {} on {}: {what}", volume.device, volume.path)
}
