//! Reads the /proc files of the loaded driver.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The driver's information about one GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Information {
    /// `NVIDIA H100 80GB HBM3`.
    pub model: Option<String>,
    /// `N` of /dev/nvidiaN.
    pub minor: Option<u32>,
    /// `GPU-…`, once the adapter is up.
    pub uuid: Option<String>,
    /// Version of the GSP firmware, once it runs.
    pub firmware: Option<String>,
}

/// A node that the driver requests below /dev/nvidia-caps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Its minor number.
    pub minor: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Whether it may be created.
    pub modify: bool,
}

/// Mode and owner of the driver's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether nodes may be created.
    pub modify: bool,
}

/// `/proc`, or a directory in its place in tests.
#[derive(Debug, Clone)]
pub struct Proc(PathBuf);

impl Default for Proc {
    fn default() -> Self {
        Self(PathBuf::from("/proc"))
    }
}

impl Proc {
    /// A fake /proc.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Returns the addresses of the GPUs bound to the driver.
    pub fn bound(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("driver/nvidia/gpus")).into_iter().flatten();
        let mut list: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        list.sort();
        list
    }

    /// Reads the driver's information about one GPU.
    pub fn information(&self, bdf: &str) -> io::Result<Information> {
        let fields = self.fields(&self.0.join("driver/nvidia/gpus").join(bdf).join("information"))?;
        // Unknown values are written as question marks or N/A.
        let known =
            |key: &str| fields.get(key).filter(|v| !v.contains('?') && *v != "N/A" && !v.is_empty()).cloned();
        Ok(Information {
            model: known("Model"),
            minor: known("Device Minor").and_then(|text| text.parse().ok()),
            uuid: known("GPU UUID"),
            firmware: known("GPU Firmware"),
        })
    }

    /// Reads mode and owner of nodes. Without the file, returns the driver's defaults.
    pub fn params(&self) -> Params {
        let fields = self.fields(&self.0.join("driver/nvidia/params")).unwrap_or_default();
        let number =
            |key: &str, default: u32| fields.get(key).and_then(|text| text.parse().ok()).unwrap_or(default);
        Params {
            mode: number("DeviceFileMode", 0o666) & 0o777,
            uid: number("DeviceFileUID", 0),
            gid: number("DeviceFileGID", 0),
            modify: number("ModifyDeviceFiles", 1) != 0,
        }
    }

    /// Returns the major number of a character device driver, by its exact name in /proc/devices.
    pub fn major(&self, name: &str) -> io::Result<Option<u32>> {
        let text = fs::read_to_string(self.0.join("devices"))?;
        let character = text.split("Block devices:").next().unwrap_or_default();
        Ok(character.lines().find_map(|line| {
            let (major, found) = line.trim().split_once(char::is_whitespace)?;
            (found.trim() == name).then(|| major.parse().ok()).flatten()
        }))
    }

    /// Reads every capability file, by minor.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut files = Vec::new();
        collect(&self.0.join("driver/nvidia/capabilities"), 6, &mut files);
        let mut list: Vec<_> = files.iter().filter_map(|file| self.capability(file)).collect();
        list.sort_by_key(|capability| capability.minor);
        list.dedup_by_key(|capability| capability.minor);
        list
    }

    fn capability(&self, file: &Path) -> Option<Capability> {
        let fields = self.fields(file).ok()?;
        let number = |key: &str| fields.get(key).and_then(|text| text.parse::<u32>().ok());
        Some(Capability {
            minor: number("DeviceFileMinor")?,
            mode: number("DeviceFileMode")? & 0o777,
            modify: number("DeviceFileModify").unwrap_or(1) != 0,
        })
    }

    #[allow(clippy::unused_self)]
    fn fields(&self, file: &Path) -> io::Result<BTreeMap<String, String>> {
        let text = fs::read_to_string(file)?;
        let field = |line: &str| {
            let (key, value) = line.split_once(':')?;
            Some((key.trim().to_owned(), value.trim().to_owned()))
        };
        Ok(text.lines().filter_map(field).collect())
    }
}

fn collect(dir: &Path, depth: u32, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => collect(&entry.path(), depth - 1, files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Proc) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let proc = Proc::at(dir.path());
        (dir, proc)
    }

    #[test]
    fn majors_are_found_by_exact_name_among_characters_only() {
        let (_dir, proc) = fake(&[(
            "devices",
            "Character devices:\n195 nvidia\n195 nvidiactl\n240 nvidia-uvm\n\nBlock devices:\n 8 nvidia-caps\n",
        )]);
        assert_eq!(proc.major("nvidia").unwrap(), Some(195));
        assert_eq!(proc.major("nvidia-uvm").unwrap(), Some(240));
        assert_eq!(proc.major("nvidia-uv").unwrap(), None);
        assert_eq!(proc.major("nvidia-caps").unwrap(), None);
    }

    #[test]
    fn what_is_not_known_yet_is_none() {
        let (_dir, proc) = fake(&[(
            "driver/nvidia/gpus/0000:01:00.0/information",
            "Model: \t\t NVIDIA H100 80GB HBM3\nGPU UUID: \t GPU-????????-????-????-????-????????????\n\
             Device Minor: \t 3\nGPU Firmware: \t N/A\n",
        )]);
        let information = proc.information("0000:01:00.0").unwrap();
        assert_eq!(information.model.as_deref(), Some("NVIDIA H100 80GB HBM3"));
        assert_eq!((information.minor, information.uuid, information.firmware), (Some(3), None, None));
        assert_eq!(proc.bound(), ["0000:01:00.0"]);
    }

    #[test]
    fn params_and_capabilities_are_read() {
        let (_dir, proc) = fake(&[
            (
                "driver/nvidia/params",
                "DeviceFileUID: 7\nDeviceFileGID: 8\nDeviceFileMode: 432\nModifyDeviceFiles: 1\n",
            ),
            (
                "driver/nvidia/capabilities/mig/config",
                "DeviceFileMinor: 1\nDeviceFileMode: 256\nDeviceFileModify: 1\n",
            ),
            ("driver/nvidia/capabilities/gpu0/mig/gi0/access", "DeviceFileMinor: 12\nDeviceFileMode: 292\n"),
        ]);
        assert_eq!(proc.params(), Params { mode: 0o660, uid: 7, gid: 8, modify: true });
        let list = proc.capabilities();
        assert_eq!(list.iter().map(|c| (c.minor, c.mode)).collect::<Vec<_>>(), [(1, 0o400), (12, 0o444)]);
        assert_eq!(Proc::at(Path::new("/nonexistent")).params().mode, 0o666);
    }
}
