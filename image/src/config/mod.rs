//! The configuration of one boot: the kernel command line first, then `config.json` on the config disk.
//!
//! An unknown key is reported and an invalid value is an error, so that a typing mistake never selects a default.

mod capabilities;
mod cmdline;
mod disks;
mod json;
mod policy;

pub use capabilities::Capabilities;
pub use cmdline::{KEYS, Key, words};
pub use disks::{Source, Volume, VolumeMode};
pub use json::{JSON_KEYS, JsonKey};
pub use policy::{Control, FailureAction, GpuPolicy, NotifySocket, PowerAction, Restart};
pub use value::duration;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What happens to driver files in the container image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverFiles {
    /// Hides them, so that the guest's driver takes precedence everywhere.
    #[default]
    Mask,
    /// Keeps them; they may take precedence.
    Keep,
    /// Ends the boot.
    Refuse,
}

impl DriverFiles {
    /// Parses the name of a policy.
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "mask" => Some(Self::Mask),
            "keep" => Some(Self::Keep),
            "refuse" => Some(Self::Refuse),
            _ => None,
        }
    }
}

/// The GPUs that the host passes through, according to the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpectedGpus {
    /// At least one.
    Any,
    /// Exactly this number.
    Count(u32),
    /// Exactly these PCI ids (vendor, device), in any order.
    Ids(Vec<(u16, u16)>),
}

impl ExpectedGpus {
    /// Returns whether the configuration promises at least one GPU. For [`Self::Any`], `HAS_GPU` decides.
    pub fn promises(&self) -> bool {
        !matches!(self, Self::Any | Self::Count(0))
    }

    /// Returns the configured text; `None` if the key was not set.
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

/// How guest-init starts the container's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitMode {
    /// As a child of guest-init, in its own mount namespace.
    Exec,
    /// The image's own init (systemd) becomes PID 1.
    Systemd,
}

/// Default time for which the status server answers after the container ended.
pub const LINGER: Duration = Duration::from_secs(2);
/// Default time between the signal that asks a program to stop and the one that kills it, as in container engines.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// Default time for which it answers after a failed boot.
pub const LINGER_FAILED: Duration = Duration::from_secs(30);

/// The whole configuration of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `HAS_GPU=1` or `has_gpu`: the host passed a GPU through.
    pub has_gpu: bool,
    /// Effect of a GPU failure; `None`: required if the initrd contains a driver.
    pub gpu_policy: Option<GpuPolicy>,
    /// The GPUs that the host passes through.
    pub gpus: ExpectedGpus,
    /// Maximum time to initialise one GPU.
    pub gpu_timeout: Duration,
    /// The container root; `None`: the disk with serial `root`, else /dev/vda.
    pub root: Option<Source>,
    /// Where the container's writes go; `None`: the disk with serial `upper`, else memory. [`Source::None`]: to the
    /// root itself, without an overlay.
    pub upper: Option<Source>,
    /// The config disk; `None`: the disk with serial `config`, else /dev/vdc, if there is one.
    pub config: Option<Source>,
    /// What happens to driver files in the container image.
    pub driver_files: DriverFiles,
    /// Maximum time to wait for a disk.
    pub disk_timeout: Duration,
    /// Maximum time for one step of the boot that waits for the kernel, a disk or a share.
    pub step_timeout: Duration,
    /// Port of the status server.
    pub vsock_port: u32,
    /// How long the status server answers before the shutdown; `None`: [`LINGER`], or [`LINGER_FAILED`] after a failed
    /// boot.
    pub linger: Option<Duration>,
    /// What the guest does after the linger time, if the container has ended.
    pub power: PowerAction,
    /// What the guest does after the linger time, if the boot has failed.
    pub on_failure: FailureAction,
    /// When to restart the program after it has ended.
    pub restart: Restart,
    /// Which requests of the host are accepted; the manifest can lower it.
    pub control: Control,
    /// Maximum time between the signal that asks the program to stop and its end.
    pub stop_grace: Duration,
    /// Port of the host to which the guest sends its events.
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
    /// `name`, `uid`, `name:group` or `uid:gid`, resolved in the container image.
    pub user: String,
    /// Capabilities that the program and its descendants may have.
    pub capabilities: Capabilities,
    /// Programs gain no privileges when they start: set-user-ID bits and file capabilities have no effect.
    pub no_new_privs: bool,
    /// Rows and columns of the container's terminal; `None`: unspecified.
    pub terminal: Option<(u16, u16)>,
    /// Host name; `None`: the kernel's.
    pub hostname: Option<String>,
    /// Additional file systems of the container.
    pub volumes: Vec<Volume>,
    /// `MODULE.PARAMETER=VALUE` from the kernel command line, by module name with underscores.
    pub module_parameters: BTreeMap<String, Vec<String>>,
    /// Log level of guest-init.
    pub log_level: String,
    /// Loads every module of the initrd but the driver's, also for devices that come later.
    pub all_modules: bool,
    /// Sets /proc/sys/kernel/modules_disabled once all modules are loaded.
    pub lock_modules: bool,
    /// Unknown keys, which are reported.
    pub unknown: Vec<String>,
    /// Whether hypeman wrote `config.json`. As in hypeman, a volume with an unknown mode is then mounted read-write, and an unusable
    /// volume does not end the boot.
    pub of_hypeman: bool,
    /// Keys of hypeman that have no effect here.
    pub without_effect: Vec<String>,
    /// Keys on the kernel command line, whatever their values; they override the file.
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
            step_timeout: Duration::from_mins(2),
            vsock_port: crate::wire::DEFAULT_PORT,
            linger: None,
            power: PowerAction::Off,
            on_failure: FailureAction::default(),
            restart: Restart::default(),
            control: Control::default(),
            stop_grace: STOP_GRACE,
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
            all_modules: false,
            lock_modules: true,
            unknown: Vec::new(),
            of_hypeman: false,
            without_effect: Vec::new(),
            said: BTreeSet::new(),
        }
    }
}

/// An unusable configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The value of a key is invalid.
    #[error("{origin}: {key} expects {expected}, found {found}")]
    Value {
        /// `kernel command line` or `config.json`.
        origin: &'static str,
        /// The key.
        key: String,
        /// Accepted values.
        expected: &'static str,
        /// The value found, quoted.
        found: String,
    },
    /// The file is not a JSON object.
    #[error("config.json is not a JSON object: {0}")]
    Json(String),
}

impl Config {
    /// Parses a kernel command line.
    pub fn from_cmdline(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        config.apply_cmdline(text)?;
        Ok(config)
    }

    /// Applies a kernel command line. An invalid value is an error, but every other key takes effect: the boot that fails
    /// because of it must still know where to report the failure and for how long.
    pub fn apply_cmdline(&mut self, text: &str) -> Result<(), ConfigError> {
        cmdline::apply(self, text)
    }

    /// Applies `config.json`. The file describes the container; the command line, which only the host can write,
    /// overrides it for the keys that both have.
    pub fn apply_json(&mut self, bytes: &[u8]) -> Result<(), ConfigError> {
        json::apply(self, bytes)
    }

    /// Describes a combination of settings that contradict each other.
    pub fn contradiction(&self) -> Option<&'static str> {
        let confined = self.capabilities != Capabilities::ALL || self.no_new_privs;
        (self.init_mode == InitMode::Systemd && confined).then_some(
            "init_mode=systemd gives the image's init every privilege, but capabilities or no_new_privs is set",
        )
    }

    /// Returns the whole command: entrypoint, then cmd.
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
