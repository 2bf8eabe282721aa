//! The kernel command line: `HAS_GPU=1`, `gpu_initrd.*`, module parameters, and the command after ` -- `.

use super::policy::notify;
use super::{
    Capabilities, Config, ConfigError, Control, DriverFiles, FailureAction, GpuPolicy, InitMode,
    NotifySocket, PowerAction, Restart, Source, value,
};

const ORIGIN: &str = "kernel command line";
const PREFIX: &str = "gpu_initrd.";
/// The only key that may be written without a value.
const FLAG: &str = "gpu_initrd.debug";
/// Keys that pass a credential to systemd in a guest: as text, and in Base64.
const CREDENTIAL: &str = "systemd.set_credential";
const CREDENTIAL_BINARY: &str = "systemd.set_credential_binary";

/// One key of the kernel command line: its name, accepted values and effect.
pub struct Key {
    /// Full name.
    pub name: &'static str,
    /// Accepted values.
    pub expects: &'static str,
    /// Effect of the key, as in docs/booting.md.
    pub help: &'static str,
    set: fn(&mut Config, &str) -> Option<()>,
}

/// Every key. A test compares this table with the one in docs/booting.md.
pub const KEYS: &[Key] = &[
    Key {
        name: "HAS_GPU",
        expects: "0 or 1",
        help: "the host passes a GPU through to the guest",
        set: |config, text| value::boolean(text).map(|on| config.has_gpu = on),
    },
    Key {
        name: "gpu_initrd.gpu",
        expects: "required, optional or off",
        help: "effect of a GPU failure: `required` ends the boot, `optional` starts the container anyway, `off` uses no GPU; default `required` if the initrd contains a driver",
        set: |config, text| {
            config.gpu_policy = Some(match text {
                "required" => GpuPolicy::Required,
                "optional" => GpuPolicy::Optional,
                "off" => GpuPolicy::Off,
                _ => return None,
            });
            Some(())
        },
    },
    Key {
        name: "gpu_initrd.gpus",
        expects: "a number, or PCI ids such as 10de:2330,10de:27b8",
        help: "GPUs that the host passes through; any value except 0 implies `HAS_GPU=1`; a different number or type is a finding",
        set: |config, text| value::gpus(text).map(|gpus| config.gpus = gpus),
    },
    Key {
        name: "gpu_initrd.gpu_timeout",
        expects: "a duration such as 60s",
        help: "maximum time to initialise one GPU; default 60s",
        set: |config, text| value::duration(text).map(|time| config.gpu_timeout = time),
    },
    Key {
        name: "gpu_initrd.root",
        expects: "/dev/NAME, serial:NAME or virtiofs:TAG",
        help: "device or share of the container root; default: the disk with serial `root`, else /dev/vda",
        set: |config, text| value::source(text).map(|source| config.root = Some(source)),
    },
    Key {
        name: "gpu_initrd.upper",
        expects: "tmpfs, /dev/NAME, serial:NAME or none",
        help: "where the container's writes go; `none` writes to the root itself, into which the driver files are copied; default: the disk with serial `upper`, or /dev/vdb if the config disk is /dev/vdc, else tmpfs",
        set: |config, text| {
            let source = value::source(text).filter(|source| !matches!(source, Source::Virtiofs(_)))?;
            config.upper = Some(source);
            Some(())
        },
    },
    Key {
        name: "gpu_initrd.config",
        expects: "/dev/NAME, serial:NAME or none",
        help: "the config disk; default: the disk with serial `config`, else /dev/vdc if neither root nor upper layer is set and none of /dev/vda to /dev/vdc has a serial",
        set: |config, text| value::source(text).map(|source| config.config = Some(source)),
    },
    Key {
        name: "gpu_initrd.driver_files",
        expects: "mask, keep or refuse",
        help: "what to do with driver files in the container image: `mask` hides them, `keep` leaves them (they may take precedence), `refuse` ends the boot; default `mask`",
        set: |config, text| DriverFiles::named(text).map(|policy| config.driver_files = policy),
    },
    Key {
        name: "gpu_initrd.disk_timeout",
        expects: "a duration such as 10s",
        help: "maximum time to wait for a disk; default 10s",
        set: |config, text| value::duration(text).map(|time| config.disk_timeout = time),
    },
    Key {
        name: "gpu_initrd.step_timeout",
        expects: "a duration such as 2m",
        help: "maximum time for one step of the boot that waits for the kernel, a disk or a share, such as a mount or the load of a module; default 2m",
        set: |config, text| {
            value::duration(text).filter(|time| !time.is_zero()).map(|time| config.step_timeout = time)
        },
    },
    Key {
        name: "gpu_initrd.vsock_port",
        expects: "a port number",
        help: "port of the status server; default 1042",
        set: |config, text| text.parse().ok().map(|port| config.vsock_port = port),
    },
    Key {
        name: "gpu_initrd.linger",
        expects: "a duration such as 2s",
        help: "how long the status server answers before the shutdown; default 2s after the container ended, 30s after a failed boot",
        set: |config, text| value::duration(text).map(|time| config.linger = Some(time)),
    },
    Key {
        name: "gpu_initrd.power",
        expects: "off or reboot",
        help: "what the guest does after that, if the container has ended; default `off`",
        set: |config, text| {
            config.power = match text {
                "off" => PowerAction::Off,
                "reboot" => PowerAction::Reboot,
                _ => return None,
            };
            Some(())
        },
    },
    Key {
        name: "gpu_initrd.on_failure",
        expects: "poweroff, reboot or hold",
        help: "what the guest does after that, if the boot has failed; with `hold` it keeps running and answers status requests; default `poweroff`",
        set: |config, text| FailureAction::named(text).map(|action| config.on_failure = action),
    },
    Key {
        name: "gpu_initrd.restart",
        expects: "no, on-failure, on-failure:N or always",
        help: "when to restart the command after it has ended; default `no`",
        set: |config, text| Restart::named(text).map(|policy| config.restart = policy),
    },
    Key {
        name: "gpu_initrd.control",
        expects: "none, stop or exec",
        help: "which requests the guest accepts besides questions: `stop` ends it, `exec` also runs commands in the container; the initrd can fix a lower level (`build-initrd --control`); default `stop`",
        set: |config, text| Control::named(text).map(|control| config.control = control),
    },
    Key {
        name: "gpu_initrd.stop_grace",
        expects: "a duration such as 10s",
        help: "maximum time between the signal that asks the program to stop (SIGTERM) and SIGKILL; default 10s",
        set: |config, text| value::duration(text).map(|time| config.stop_grace = time),
    },
    Key {
        name: "gpu_initrd.notify",
        expects: "vsock:2:PORT",
        help: "port of the host to which the guest connects and sends its events",
        set: |config, text| notify(text).map(|port| config.notify = Some(port)),
    },
    Key {
        name: "gpu_initrd.init_mode",
        expects: "exec or systemd",
        help: "`exec` starts the command as a child of guest-init; `systemd` hands PID 1 to the image's init",
        set: |config, text| init_mode(text).map(|mode| config.init_mode = mode),
    },
    Key {
        name: "gpu_initrd.user",
        expects: "NAME, UID, NAME:GROUP or UID:GID",
        help: "user that runs the command; default root",
        set: |config, text| (!text.is_empty()).then(|| config.user = text.into()),
    },
    Key {
        name: "gpu_initrd.capabilities",
        expects: "all, none, or names such as chown,setuid, where `default` stands for the default set of container engines",
        help: "capabilities that the command and its descendants may have; without `sys_admin`, the writable parts of /proc and /sys are read-only, and device nodes that the command creates have no effect; default `all`",
        set: |config, text| Capabilities::named(text).map(|set| config.capabilities = set),
    },
    Key {
        name: "gpu_initrd.no_new_privs",
        expects: "0 or 1",
        help: "programs gain no privileges when they start: set-user-ID bits and file capabilities have no effect; default 0",
        set: |config, text| value::boolean(text).map(|on| config.no_new_privs = on),
    },
    Key {
        name: "gpu_initrd.workdir",
        expects: "an absolute path",
        help: "working directory of the command; default /",
        set: |config, text| text.starts_with('/').then(|| config.workdir = text.into()),
    },
    Key {
        name: "gpu_initrd.hostname",
        expects: "a host name",
        help: "host name of the guest",
        set: |config, text| (!text.is_empty()).then(|| config.hostname = Some(text.into())),
    },
    Key {
        name: "gpu_initrd.terminal",
        expects: "ROWSxCOLUMNS, such as 24x80",
        help: "initial size of the container's terminal",
        set: |config, text| value::size(text).map(|size| config.terminal = Some(size)),
    },
    Key {
        name: "gpu_initrd.log",
        expects: "error, warn, info, debug or trace",
        help: "log level of guest-init; default info",
        set: |config, text| {
            ["error", "warn", "info", "debug", "trace"]
                .contains(&text)
                .then(|| config.log_level = text.into())
        },
    },
    Key {
        name: "gpu_initrd.debug",
        expects: "nothing, 0 or 1",
        help: "the same as `gpu_initrd.log=debug`",
        set: |config, text| {
            value::boolean(text).map(|on| {
                if on {
                    config.log_level = "debug".into();
                }
            })
        },
    },
    Key {
        name: "gpu_initrd.modules",
        expects: "needed or all",
        help: "which modules, apart from the driver's, are loaded: those that this boot needs, or all, for devices that are added later; default needed",
        set: |config, text| ["needed", "all"].contains(&text).then(|| config.all_modules = text == "all"),
    },
    Key {
        name: "gpu_initrd.lock_modules",
        expects: "0 or 1",
        help: "disable module loading: before the container starts, or soon after if it has no capability `sys_module`; default 1",
        set: |config, text| value::boolean(text).map(|on| config.lock_modules = on),
    },
];

pub(super) fn init_mode(text: &str) -> Option<InitMode> {
    match text {
        "exec" => Some(InitMode::Exec),
        "systemd" => Some(InitMode::Systemd),
        _ => None,
    }
}

/// Splits a command line as the kernel does (lib/cmdline.c, `next_arg`): at white space, except inside double quotes. A pair of
/// quotes around a whole word or a whole value is removed; other quotes stay.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for c in text.trim_end_matches(['\n', '\0']).chars() {
        if c.is_ascii_whitespace() && !quoted {
            words.extend(unquoted(&std::mem::take(&mut word)));
        } else {
            quoted ^= c == '"';
            word.push(c);
        }
    }
    words.extend(unquoted(&word));
    words
}

/// Returns the word without its quotes; `None` for an empty word.
fn unquoted(word: &str) -> Option<String> {
    if word.is_empty() {
        return None;
    }
    if let Some(rest) = word.strip_prefix('"') {
        return Some(rest.strip_suffix('"').unwrap_or(rest).to_owned());
    }
    Some(match word.split_once('=') {
        Some((name, value)) => match value.strip_prefix('"') {
            Some(value) => format!("{name}={}", value.strip_suffix('"').unwrap_or(value)),
            None => word.to_owned(),
        },
        None => word.to_owned(),
    })
}

/// Applies every valid word. The error is that of the first invalid one.
pub(super) fn apply(config: &mut Config, text: &str) -> Result<(), ConfigError> {
    let mut result = Ok(());
    let mut words = words(text).into_iter();
    for word in words.by_ref() {
        if word == "--" {
            break;
        }
        let (name, text) = word.split_once('=').unwrap_or((&word, if word == FLAG { "1" } else { "" }));
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            let applied = (key.set)(config, text).ok_or_else(|| ConfigError::Value {
                origin: ORIGIN,
                key: name.into(),
                expected: key.expects,
                found: format!("{text:?}"),
            });
            config.said.insert(key.name);
            result = result.and(applied);
        } else if name.starts_with(PREFIX) {
            config.unknown.push(name.into());
        } else if [CREDENTIAL, CREDENTIAL_BINARY].contains(&name) {
            let read = if name == CREDENTIAL { NotifySocket::parse } else { NotifySocket::parse_base64 };
            let address = text.split_once(':').filter(|(name, _)| *name == NotifySocket::CREDENTIAL);
            config.notify_socket = address.and_then(|(_, text)| read(text)).or(config.notify_socket);
        } else if let Some((module, parameter)) = name.split_once('.') {
            // `module.parameter=value` is the usual way to set one; modprobe would read it from here.
            let setting =
                if word.contains('=') { format!("{parameter}={text}") } else { parameter.to_owned() };
            config.module_parameters.entry(module.replace('-', "_")).or_default().push(setting);
        }
    }
    config.cmd = words.collect();
    result
}

#[cfg(test)]
mod tests {
    use super::super::{ExpectedGpus, Source};
    use super::*;

    #[test]
    fn words_keep_what_is_quoted() {
        assert_eq!(words("a  b=\"c d\" e=\"\" \"f g\" \n"), ["a", "b=c d", "e=", "f g"]);
        // Quotes around a part of a word belong to the word.
        assert_eq!(
            words(r#"x="a" y=b"c d"e -c"f g" "h=i j" k="l"m "#),
            ["x=a", "y=b\"c d\"e", "-c\"f g\"", "h=i j", "k=l\"m"]
        );
        assert_eq!(words("a=\"b c"), ["a=b c"]);
        assert_eq!(words("\"\" x"), ["", "x"]);
    }

    #[test]
    fn a_command_line_is_read_whole() {
        let config = Config::from_cmdline(
            "console=ttyS0 HAS_GPU=1 gpu_initrd.gpus=2 gpu_initrd.root=virtiofs:rootfs \
             nvidia-drm.modeset=1 nvidia.NVreg_NvLinkDisable=1 gpu_initrd.bogus=1 quiet -- nvidia-smi -L",
        )
        .unwrap();
        assert!(config.has_gpu);
        assert_eq!(config.gpus, ExpectedGpus::Count(2));
        assert_eq!(config.root, Some(Source::Virtiofs("rootfs".into())));
        assert_eq!(config.module_parameters["nvidia_drm"], ["modeset=1"]);
        assert_eq!(config.module_parameters["nvidia"], ["NVreg_NvLinkDisable=1"]);
        assert_eq!(config.unknown, ["gpu_initrd.bogus"]);
        assert_eq!(config.command(), ["nvidia-smi", "-L"]);
    }

    #[test]
    fn who_is_told_and_what_follows_a_failure() {
        let config = Config::from_cmdline(
            "gpu_initrd.notify=vsock:2:9000 gpu_initrd.on_failure=hold gpu_initrd.restart=on-failure:3 gpu_initrd.debug \
             systemd.set_credential=vmm.notify_socket:vsock-stream:2:8000 systemd.set_credential=other:x gpu_initrd.linger=5s",
        )
        .unwrap();
        assert_eq!((config.notify, config.linger), (Some(9000), Some(std::time::Duration::from_secs(5))));
        assert_eq!((config.on_failure, config.restart), (FailureAction::Hold, Restart::OnFailure(3)));
        assert_eq!(config.notify_socket.map(|socket| socket.port), Some(8000));
        assert_eq!(config.log_level, "debug");
        assert!(config.module_parameters.is_empty() && config.unknown.is_empty());
    }

    #[test]
    fn a_credential_may_come_in_base64() {
        let line = "systemd.set_credential_binary=vmm.notify_socket:dnNvY2stc3RyZWFtOjI6ODAwMA==";
        assert_eq!(Config::from_cmdline(line).unwrap().notify_socket.map(|socket| socket.port), Some(8000));
    }

    #[test]
    fn a_bad_value_names_key_expectation_and_value() {
        let error = Config::from_cmdline("gpu_initrd.gpu=maybe").unwrap_err().to_string();
        assert_eq!(
            error,
            "kernel command line: gpu_initrd.gpu expects required, optional or off, found \"maybe\""
        );
        assert!(Config::from_cmdline("HAS_GPU").is_err());
    }

    #[test]
    fn every_key_refuses_nonsense_or_takes_any_text() {
        for key in KEYS {
            let result = Config::from_cmdline(&format!("{}=", key.name));
            assert!(result.is_err(), "{} takes an empty value", key.name);
        }
    }
}
