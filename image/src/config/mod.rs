//! What one boot is told: the kernel command line first, then the config disk's `config.json`.
//!
//! Unknown keys are reported, bad values are errors: a typing mistake must not become a default.

mod capabilities;
mod cmdline;
mod json;
mod policy;

pub use capabilities::Capabilities;
pub use cmdline::{KEYS, Key, words};
pub use json::{JSON_KEYS, JsonKey};
pub use policy::{FailureAction, NotifySocket, Restart};
pub use value::duration;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a block device, or a directory shared by the host, is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A device node: `/dev/vda`.
    Device(String),
    /// A virtio disk by its serial number: `serial:root`.
    Serial(String),
    /// A virtiofs tag: `virtiofs:rootfs`.
    Virtiofs(String),
    /// Memory: `tmpfs` (upper layer only).
    Tmpfs,
    /// Nothing: `none`.
    None,
}

impl std::fmt::Display for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(path) => out.write_str(path),
            Self::Serial(serial) => write!(out, "serial:{serial}"),
            Self::Virtiofs(tag) => write!(out, "virtiofs:{tag}"),
            Self::Tmpfs => out.write_str("tmpfs"),
            Self::None => out.write_str("none"),
        }
    }
}

/// What a GPU failure means for the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GpuPolicy {
    /// The container starts only when every GPU that was expected is usable.
    Required,
    /// The container starts in any case; failures are findings.
    Optional,
    /// Nothing of NVIDIA is touched.
    Off,
}

/// What happens to driver files that an image brings along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverFiles {
    /// They are hidden: the guest's driver wins everywhere.
    #[default]
    Mask,
    /// They stay, and may win.
    Keep,
    /// They end the boot.
    Refuse,
}

impl DriverFiles {
    /// The policy of this name.
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "mask" => Some(Self::Mask),
            "keep" => Some(Self::Keep),
            "refuse" => Some(Self::Refuse),
            _ => None,
        }
    }
}

/// Which GPUs the host says it passed through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpectedGpus {
    /// At least one.
    Any,
    /// Exactly so many.
    Count(u32),
    /// Exactly these PCI ids (vendor, device), in any order.
    Ids(Vec<(u16, u16)>),
}

impl ExpectedGpus {
    /// Whether the host says that there is at least one. Without a word, `HAS_GPU` tells.
    pub fn promises(&self) -> bool {
        !matches!(self, Self::Any | Self::Count(0))
    }

    /// As it was written; `None` when nothing was.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Any => None,
            Self::Count(count) => Some(count.to_string()),
            Self::Ids(ids) => {
                let ids: Vec<_> =
                    ids.iter().map(|(vendor, device)| format!("{vendor:04x}:{device:04x}")).collect();
                Some(ids.join(","))
            }
        }
    }
}

/// How the container's program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitMode {
    /// As a child of guest-init, in its own mount namespace.
    Exec,
    /// The image's own init (systemd) becomes PID 1.
    Systemd,
}

/// What happens when the container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerAction {
    /// ACPI power off.
    Off,
    /// Reboot (what Firecracker-like VMMs take as the end).
    Reboot,
}

/// Another file system of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The disk that holds it: a device or a serial number.
    pub device: Source,
    /// Where the container sees it.
    pub path: String,
    /// How it is mounted.
    pub mode: VolumeMode,
}

/// How a [`Volume`] is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeMode {
    /// Read-only.
    ReadOnly,
    /// Read and write.
    ReadWrite,
    /// Read-only below, writes go to another device.
    Overlay {
        /// The disk for the writes.
        upper: Source,
    },
}

/// How long the status can be asked for after the container ended.
pub const LINGER: Duration = Duration::from_secs(2);
/// How long after a boot that failed.
pub const LINGER_FAILED: Duration = Duration::from_secs(30);

/// Everything a boot is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `HAS_GPU=1` or `has_gpu`: the host passed a GPU through.
    pub has_gpu: bool,
    /// What a GPU failure means; `None`: required when the initrd carries a driver.
    pub gpu_policy: Option<GpuPolicy>,
    /// Which GPUs were passed through.
    pub gpus: ExpectedGpus,
    /// How long one GPU may take to initialise.
    pub gpu_timeout: Duration,
    /// The container root; `None`: the disk with serial `root`, else /dev/vda.
    pub root: Option<Source>,
    /// Where the container's writes go; `None`: the disk with serial `upper`, else memory. [`Source::None`]: into the
    /// root itself, without an overlay.
    pub upper: Option<Source>,
    /// The config disk; `None`: the disk with serial `config`, else /dev/vdc, if there is one.
    pub config: Option<Source>,
    /// What happens to driver files that the image brings along.
    pub driver_files: DriverFiles,
    /// Longest wait for a disk to appear.
    pub disk_timeout: Duration,
    /// Port of the status server.
    pub vsock_port: u32,
    /// How long the status can still be asked for after the end; `None`: [`LINGER`], or [`LINGER_FAILED`] after a boot that
    /// failed.
    pub linger: Option<Duration>,
    /// What happens then, when the container has ended.
    pub power: PowerAction,
    /// What happens then, when the boot has failed.
    pub on_failure: FailureAction,
    /// Whether the program is started again when it has ended.
    pub restart: Restart,
    /// Port of the host to which events are pushed.
    pub notify: Option<u32>,
    /// Where systemd's notifications go, from the kernel command line.
    pub notify_socket: Option<NotifySocket>,
    /// How the program is started.
    pub init_mode: InitMode,
    /// First part of the command.
    pub entrypoint: Vec<String>,
    /// Second part of the command.
    pub cmd: Vec<String>,
    /// Its working directory.
    pub workdir: String,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// `name`, `uid`, `name:group` or `uid:gid`, looked up in the image.
    pub user: String,
    /// The capabilities that the program, and whatever it starts, may have.
    pub capabilities: Capabilities,
    /// No program that it starts gains privileges: set-user-ID bits and file capabilities have no effect.
    pub no_new_privs: bool,
    /// Rows and columns of the container's terminal; `None`: it does not say.
    pub terminal: Option<(u16, u16)>,
    /// Host name; `None`: the kernel's.
    pub hostname: Option<String>,
    /// More file systems for the container.
    pub volumes: Vec<Volume>,
    /// `MODULE.PARAMETER=VALUE` from the kernel command line, by module name with underscores.
    pub module_parameters: BTreeMap<String, Vec<String>>,
    /// Level of guest-init's own log.
    pub log_level: String,
    /// Sets /proc/sys/kernel/modules_disabled once all modules are loaded.
    pub lock_modules: bool,
    /// Keys nobody knows, for the report.
    pub unknown: Vec<String>,
    /// `config.json` is one that hypeman has written: as there, a volume of an unknown mode is written to, and one that cannot be used
    /// does not end the boot.
    pub of_hypeman: bool,
    /// Its keys that have no effect here.
    pub without_effect: Vec<String>,
    /// Keys that the kernel command line has, whatever their values: there the file has no say.
    pub said: BTreeSet<&'static str>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            has_gpu: false,
            gpu_policy: None,
            gpus: ExpectedGpus::Any,
            gpu_timeout: Duration::from_mins(1),
            root: None,
            upper: None,
            config: None,
            driver_files: DriverFiles::default(),
            disk_timeout: Duration::from_secs(10),
            vsock_port: crate::wire::DEFAULT_PORT,
            linger: None,
            power: PowerAction::Off,
            on_failure: FailureAction::default(),
            restart: Restart::default(),
            notify: None,
            notify_socket: None,
            init_mode: InitMode::Exec,
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            workdir: "/".into(),
            env: BTreeMap::new(),
            user: String::new(),
            capabilities: Capabilities::ALL,
            no_new_privs: false,
            terminal: None,
            hostname: None,
            volumes: Vec::new(),
            module_parameters: BTreeMap::new(),
            log_level: "info".into(),
            lock_modules: true,
            unknown: Vec::new(),
            of_hypeman: false,
            without_effect: Vec::new(),
            said: BTreeSet::new(),
        }
    }
}

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The value of one key is not of its form.
    #[error("{origin}: {key} expects {expected}, found {found}")]
    Value {
        /// `kernel command line` or `config.json`.
        origin: &'static str,
        /// The key.
        key: String,
        /// What it takes.
        expected: &'static str,
        /// What it got, quoted.
        found: String,
    },
    /// The file is not JSON.
    #[error("config.json is not a JSON object: {0}")]
    Json(String),
}

impl Config {
    /// What the kernel command line says.
    pub fn from_cmdline(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        config.apply_cmdline(text)?;
        Ok(config)
    }

    /// Lays a kernel command line over it. A bad value is an error, and every other key has its effect all the same:
    /// the boot that ends because of it still needs to know where and how long to say so.
    pub fn apply_cmdline(&mut self, text: &str) -> Result<(), ConfigError> {
        cmdline::apply(self, text)
    }

    /// Lays `config.json` over it. The file describes the container; the command line, which only the host can
    /// write, wins for the keys that both have.
    pub fn apply_json(&mut self, bytes: &[u8]) -> Result<(), ConfigError> {
        json::apply(self, bytes)
    }

    /// What is asked for and cannot be had together, in words.
    pub fn contradiction(&self) -> Option<&'static str> {
        let confined = self.capabilities != Capabilities::ALL || self.no_new_privs;
        (self.init_mode == InitMode::Systemd && confined).then_some(
            "an init of the image's own (init_mode=systemd) has every privilege, and capabilities or no_new_privs are given",
        )
    }

    /// The whole command: entrypoint, then cmd.
    pub fn command(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.cmd).cloned().collect()
    }
}

/// Parsers of single values, shared by both origins.
pub(crate) mod value {
    use super::{ExpectedGpus, Source};
    use std::time::Duration;

    pub fn boolean(text: &str) -> Option<bool> {
        match text {
            "1" | "true" | "yes" | "on" => Some(true),
            "0" | "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// `90`, `90s`, `1500ms`, `2m`.
    pub fn duration(text: &str) -> Option<Duration> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u32 = text[..split].parse().ok()?;
        match &text[split..] {
            "ms" => Some(Duration::from_millis(number.into())),
            "" | "s" => Some(Duration::from_secs(number.into())),
            "m" => Some(Duration::from_secs(u64::from(number) * 60)),
            _ => None,
        }
    }

    /// `24x80`.
    pub fn size(text: &str) -> Option<(u16, u16)> {
        let (rows, columns) = text.split_once('x')?;
        Some((rows.parse().ok()?, columns.parse().ok()?)).filter(|size| size.0 > 0 && size.1 > 0)
    }

    pub fn source(text: &str) -> Option<Source> {
        match text {
            "tmpfs" => return Some(Source::Tmpfs),
            "none" => return Some(Source::None),
            _ => {}
        }
        let named = |prefix: &str| text.strip_prefix(prefix).filter(|name| !name.is_empty());
        if let Some(serial) = named("serial:") {
            return Some(Source::Serial(serial.into()));
        }
        if let Some(tag) = named("virtiofs:") {
            return Some(Source::Virtiofs(tag.into()));
        }
        named("/dev/").map(|_| Source::Device(text.into()))
    }

    /// `2`, or `10de:2330,10de:27b8`.
    pub fn gpus(text: &str) -> Option<ExpectedGpus> {
        if let Ok(count) = text.parse() {
            return Some(ExpectedGpus::Count(count));
        }
        let id = |word: &str| {
            let (vendor, device) = word.split_once(':')?;
            let hex =
                |digits: &str| (digits.len() == 4).then(|| u16::from_str_radix(digits, 16).ok()).flatten();
            Some((hex(vendor)?, hex(device)?))
        };
        text.split(',').map(id).collect::<Option<Vec<_>>>().map(ExpectedGpus::Ids)
    }
}

#[cfg(test)]
mod tests {
    use super::value::{duration, gpus, size, source};
    use super::*;

    #[test]
    fn sizes_have_rows_and_columns() {
        assert_eq!(size("24x80"), Some((24, 80)));
        for bad in ["", "24", "0x80", "24x", "24x80x1", "-1x80", "70000x80"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn values_are_read_or_refused() {
        assert_eq!(duration("90"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Some(Duration::from_mins(2)));
        assert_eq!(duration("2h"), None);
        assert_eq!(duration(""), None);
        assert_eq!(source("/dev/vda"), Some(Source::Device("/dev/vda".into())));
        assert_eq!(source("serial:root"), Some(Source::Serial("root".into())));
        assert_eq!(source("virtiofs:"), None);
        assert_eq!(source("vda"), None);
        assert_eq!(gpus("2"), Some(ExpectedGpus::Count(2)));
        assert_eq!(gpus("10de:2330"), Some(ExpectedGpus::Ids(vec![(0x10de, 0x2330)])));
        assert_eq!(gpus("10de:23"), None);
    }

    #[test]
    fn an_init_of_the_images_own_cannot_be_confined() {
        let asked = |line: &str| Config::from_cmdline(line).unwrap().contradiction().is_some();
        assert!(asked("gpu_initrd.init_mode=systemd gpu_initrd.capabilities=default"));
        assert!(asked("gpu_initrd.init_mode=systemd gpu_initrd.no_new_privs=1"));
        assert!(!asked("gpu_initrd.init_mode=systemd gpu_initrd.capabilities=all gpu_initrd.no_new_privs=0"));
        assert!(!asked("gpu_initrd.capabilities=none gpu_initrd.no_new_privs=1"));
    }

    #[test]
    fn a_source_prints_as_it_is_written() {
        for text in ["/dev/vdb", "serial:root", "virtiofs:fs", "tmpfs", "none"] {
            assert_eq!(source(text).unwrap().to_string(), text);
        }
    }
}
