//! Volumes: mounted from the guest's disks before the container root is entered, and moved to their paths after the kernel's
//! file systems have been mounted.

use super::namespace::own;
use super::{ContainerError, Spec};
use crate::confined_fs::RootDir;
use crate::kernel::disks;
use crate::kernel::disks::DiskError;
use image::config::{Source, Volume, VolumeMode};
use image::layout;
use image::text::chain;
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Directories of the kernel, on which no volume is mounted.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];
/// Exception to [`KERNELS`]: shared memory of programs.
const SHARED: &str = "/dev/shm";
/// Maximum time to wait for an optional disk.
const SHORT: Duration = Duration::from_secs(1);

/// The container's volumes, mounted but not yet at their paths.
pub struct Volumes<'a> {
    staged: Vec<Staged<'a>>,
    /// Whether an unusable volume does not end the boot.
    lenient: bool,
}

impl<'a> Volumes<'a> {
    /// Mounts the volumes where only PID 1's processes see them. `warn` receives errors of unusable volumes.
    ///
    /// # Errors
    /// [`ContainerError`] that names the volume.
    pub fn stage(spec: &'a Spec, warn: &mut dyn FnMut(ContainerError)) -> Result<Self, ContainerError> {
        let mut volumes = Self { staged: Vec::new(), lenient: spec.lenient };
        let timeout = if spec.lenient { spec.disk_timeout.min(SHORT) } else { spec.disk_timeout };
        for (number, volume) in spec.volumes.iter().enumerate() {
            match Staged::new(number, volume, timeout) {
                Ok(staged) => volumes.staged.push(staged),
                Err(error) => volumes.unusable(error, warn)?,
            }
        }
        Ok(volumes)
    }

    /// Moves the volumes to their paths in the root, which this process has entered.
    ///
    /// # Errors
    /// [`ContainerError`] that names the volume.
    pub fn place(&self, root: &RootDir, warn: &mut dyn FnMut(ContainerError)) -> Result<(), ContainerError> {
        self.staged.iter().try_for_each(|staged| match staged.place(root) {
            Ok(()) => Ok(()),
            Err(what) => self.unusable(unusable(staged.volume, &what), warn),
        })
    }

    fn unusable(
        &self,
        error: ContainerError,
        warn: &mut dyn FnMut(ContainerError),
    ) -> Result<(), ContainerError> {
        if !self.lenient {
            return Err(error);
        }
        warn(error);
        Ok(())
    }
}

/// A volume that is mounted but not yet at its path.
struct Staged<'a> {
    volume: &'a Volume,
    mounted: File,
}

impl<'a> Staged<'a> {
    fn new(number: usize, volume: &'a Volume, timeout: Duration) -> Result<Self, ContainerError> {
        let base = PathBuf::from(layout::RUN_DIR).join(format!("volume{number}"));
        let find = |source: &Source| {
            disks::find(source, timeout).map_err(|error| match error {
                DiskError::Absent { .. } => missing(volume, &error.to_string()),
                error => unusable(volume, &chain(&error)),
            })
        };
        let device = find(&volume.device)?;
        let upper = match &volume.mode {
            VolumeMode::Overlay { upper } => Some(find(upper)?),
            VolumeMode::ReadOnly | VolumeMode::ReadWrite => None,
        };
        Self::mount(volume, &device, upper.as_deref(), &base).map_err(|what| unusable(volume, &what))
    }

    /// `upper`: the disk for the writes of an overlay.
    fn mount(volume: &'a Volume, device: &Path, upper: Option<&Path>, base: &Path) -> Result<Self, String> {
        let [lower, scratch, target] = ["lower", "scratch", "volume"].map(|name| base.join(name));
        for dir in [&lower, &scratch, &target] {
            fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let mount_disk = |device: &Path, target: &Path, read_only| {
            disks::mount_disk(device, target, read_only).map_err(|error| chain(&error))
        };
        match upper {
            None => mount_disk(device, &target, volume.mode == VolumeMode::ReadOnly)?,
            Some(upper) => {
                mount_disk(device, &lower, true)?;
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

    /// Moves the mount to its path, which is resolved inside the untrusted root.
    fn place(&self, root: &RootDir) -> Result<(), String> {
        let path = Path::new(&self.volume.path);
        root.create_dir_all(path).map_err(|error| chain(&error))?;
        let place = root.canonical(path).map_err(|error| chain(&error))?;
        if let Some(kernels) = KERNELS.iter().find(|kernels| place.starts_with(kernels))
            && !place.starts_with(SHARED)
        {
            return Err(format!("the path is below {kernels}, which belongs to the kernel"));
        }
        let target = root.open_dir(path).map_err(|error| chain(&error))?;
        mount(Some(&own(&self.mounted)), &own(&target), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|errno| format!("cannot move the mount to its path: {errno}"))
    }
}

fn unusable(volume: &Volume, what: &str) -> ContainerError {
    let (device, path) = (volume.device.to_string(), volume.path.clone());
    ContainerError::VolumeUnusable { device, path, what: what.into() }
}

fn missing(volume: &Volume, what: &str) -> ContainerError {
    let (device, path) = (volume.device.to_string(), volume.path.clone());
    ContainerError::VolumeMissing { device, path, what: what.into() }
}
