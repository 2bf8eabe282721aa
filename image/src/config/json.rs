//! `config.json` on the config disk: the keys of gpu-initrd, and those that hypeman writes.

use super::cmdline::init_mode;
use super::{
    Capabilities, Config, ConfigError, DriverFiles, ExpectedGpus, Restart, Source, Volume, VolumeMode, value,
};
use serde_json::Value;

const ORIGIN: &str = "config.json";

/// Keys that only hypeman writes. They identify its files and have no effect here.
const OF_HYPEMAN: [&str; 8] = [
    "egress_proxy",
    "guest_cidr",
    "guest_dns",
    "guest_gw",
    "guest_ip",
    "network_enabled",
    "skip_guest_agent",
    "skip_kernel_headers",
];

/// One key of the file.
pub struct JsonKey {
    /// Name.
    pub name: &'static str,
    /// Accepted values.
    pub expects: &'static str,
    /// Effect of the key, as in docs/booting.md.
    pub help: &'static str,
    /// The equivalent key of the kernel command line.
    same_as: Option<&'static str>,
    set: fn(&mut Config, &Value) -> Option<()>,
}

/// Every key. A test compares this table with the one in docs/booting.md.
pub const JSON_KEYS: &[JsonKey] = &[
    JsonKey {
        name: "entrypoint",
        expects: "a list of strings, or a string",
        help: "first part of the command",
        same_as: None,
        set: |config, json| strings(json).map(|list| config.entrypoint = list),
    },
    JsonKey {
        name: "cmd",
        expects: "a list of strings, or a string",
        help: "second part of the command; a command after ` -- ` on the kernel command line replaces both",
        same_as: None,
        set: |config, json| strings(json).map(|list| config.cmd = list),
    },
    JsonKey {
        name: "workdir",
        expects: "an absolute path, or an empty string",
        help: "working directory of the command; default /",
        same_as: Some("gpu_initrd.workdir"),
        set: |config, json| {
            let text = json.as_str()?;
            match text {
                "" => Some(()),
                text => text.starts_with('/').then(|| config.workdir = text.into()),
            }
        },
    },
    JsonKey {
        name: "env",
        expects: "an object of strings, or a list of NAME=VALUE",
        help: "environment of the command",
        same_as: None,
        set: environment,
    },
    JsonKey {
        name: "user",
        expects: "NAME, UID, NAME:GROUP or UID:GID, or an empty string",
        help: "user that runs the command, resolved in the container image; default root",
        same_as: Some("gpu_initrd.user"),
        set: |config, json| json.as_str().map(|text| config.user = text.into()),
    },
    JsonKey {
        name: "capabilities",
        expects: "a list of capabilities, or \"all\", \"none\" or \"default\"",
        help: "the same as `gpu_initrd.capabilities`",
        same_as: Some("gpu_initrd.capabilities"),
        set: |config, json| {
            let names = strings(json)?.join(",");
            let text = if json.as_array().is_some_and(Vec::is_empty) { "none" } else { &names };
            Capabilities::named(text).map(|set| config.capabilities = set)
        },
    },
    JsonKey {
        name: "no_new_privs",
        expects: "true or false",
        help: "the same as `gpu_initrd.no_new_privs`",
        same_as: Some("gpu_initrd.no_new_privs"),
        set: |config, json| json.as_bool().map(|on| config.no_new_privs = on),
    },
    JsonKey {
        name: "hostname",
        expects: "a host name",
        help: "host name of the guest",
        same_as: Some("gpu_initrd.hostname"),
        set: |config, json| json.as_str().map(|text| config.hostname = Some(text.into())),
    },
    JsonKey {
        name: "has_gpu",
        expects: "true or false",
        help: "the host passes a GPU through to the guest; the same as `HAS_GPU`",
        same_as: Some("HAS_GPU"),
        set: |config, json| json.as_bool().map(|on| config.has_gpu = on),
    },
    JsonKey {
        name: "gpus",
        expects: "a number, or a list of PCI ids such as \"10de:2330\"",
        help: "GPUs that the host passes through; the same as `gpu_initrd.gpus`",
        same_as: Some("gpu_initrd.gpus"),
        set: gpus,
    },
    JsonKey {
        name: "driver_files",
        expects: "\"mask\", \"keep\" or \"refuse\"",
        help: "the same as `gpu_initrd.driver_files`",
        same_as: Some("gpu_initrd.driver_files"),
        set: |config, json| DriverFiles::named(json.as_str()?).map(|policy| config.driver_files = policy),
    },
    JsonKey {
        name: "init_mode",
        expects: "\"exec\" or \"systemd\"",
        help: "the same as `gpu_initrd.init_mode`",
        same_as: Some("gpu_initrd.init_mode"),
        set: |config, json| match json.as_str()? {
            "" => Some(()),
            text => init_mode(text).map(|mode| config.init_mode = mode),
        },
    },
    JsonKey {
        name: "restart",
        expects: "\"no\", \"on-failure\", \"on-failure:N\" or \"always\"",
        help: "the same as `gpu_initrd.restart`",
        same_as: Some("gpu_initrd.restart"),
        set: |config, json| Restart::named(json.as_str()?).map(|policy| config.restart = policy),
    },
    JsonKey {
        name: "volume_mounts",
        expects: "a list of {device, path, mode: ro|rw|overlay, overlay_device}",
        help: "additional file systems for the container; devices are `/dev/NAME` or `serial:NAME`",
        same_as: None,
        set: |config, json| match json {
            Value::Null => Some(()),
            json => {
                let lenient = config.of_hypeman;
                let volumes = json.as_array()?.iter().map(|json| volume(json, lenient));
                volumes.collect::<Option<_>>().map(|list| config.volumes = list)
            }
        },
    },
];

pub(super) fn apply(config: &mut Config, bytes: &[u8]) -> Result<(), ConfigError> {
    let json: Value = serde_json::from_slice(bytes).map_err(|error| ConfigError::Json(error.to_string()))?;
    let Value::Object(object) = json else {
        return Err(ConfigError::Json("found another JSON value".into()));
    };
    let command = std::mem::take(&mut config.cmd);
    config.of_hypeman = object.keys().any(|name| OF_HYPEMAN.contains(&name.as_str()));
    for (name, json) in &object {
        let Some(key) = JSON_KEYS.iter().find(|key| key.name == name) else {
            let known = OF_HYPEMAN.contains(&name.as_str());
            let list = if known { &mut config.without_effect } else { &mut config.unknown };
            list.push(name.clone());
            continue;
        };
        // The command line comes from the host and overrides the file, whose value must be valid all the same.
        let mut aside = key.same_as.filter(|key| config.said.contains(key)).map(|_| config.clone());
        (key.set)(aside.as_mut().unwrap_or(config), json).ok_or_else(|| ConfigError::Value {
            origin: ORIGIN,
            key: name.clone(),
            expected: key.expects,
            found: excerpt(json),
        })?;
    }
    if !command.is_empty() {
        (config.entrypoint, config.cmd) = (Vec::new(), command);
    }
    Ok(())
}

/// Returns the value as JSON text, truncated if it is long.
fn excerpt(json: &Value) -> String {
    let text = json.to_string();
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { short + " …" } else { short }
}

fn strings(json: &Value) -> Option<Vec<String>> {
    match json {
        Value::Null => Some(Vec::new()),
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn environment(config: &mut Config, json: &Value) -> Option<()> {
    let pairs: Vec<(String, String)> = match json {
        Value::Null => Vec::new(),
        Value::Object(map) => {
            map.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect::<Option<_>>()?
        }
        Value::Array(list) => {
            let pair =
                |item: &Value| item.as_str()?.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
            list.iter().map(pair).collect::<Option<_>>()?
        }
        _ => return None,
    };
    let clean = |text: &str| !text.contains('\0');
    if !pairs.iter().all(|(k, v)| !k.is_empty() && !k.contains('=') && clean(k) && clean(v)) {
        return None;
    }
    config.env.extend(pairs);
    Some(())
}

fn gpus(config: &mut Config, json: &Value) -> Option<()> {
    config.gpus = match json {
        Value::Number(number) => ExpectedGpus::Count(u32::try_from(number.as_u64()?).ok()?),
        Value::Array(_) => value::gpus(&strings(json)?.join(","))?,
        _ => return None,
    };
    Some(())
}

fn volume(json: &Value, lenient: bool) -> Option<Volume> {
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    let disk = |source: &Source| matches!(source, Source::Device(_) | Source::Serial(_));
    let device = |key: &str| text(key).and_then(value::source).filter(disk);
    let inside = |path: &&str| path.split('/').all(|part| part != "..") && !path.trim_matches('/').is_empty();
    let path = text("path").filter(|path| path.starts_with('/')).filter(inside)?;
    let mode = match text("mode")? {
        "ro" => VolumeMode::ReadOnly,
        "rw" => VolumeMode::ReadWrite,
        "overlay" => VolumeMode::Overlay { upper: device("overlay_device")? },
        _ if lenient => VolumeMode::ReadWrite,
        _ => return None,
    };
    Some(Volume { device: device("device")?, path: path.into(), mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_that_hypeman_writes_is_read() {
        let mut config = Config::default();
        config
            .apply_json(
                br#"{"entrypoint": ["/bin/sh"], "cmd": ["-c", "true"], "workdir": "/srv", "env": {"A": "b"},
                 "network_enabled": true, "has_gpu": true, "init_mode": "exec",
                 "volume_mounts": [{"device": "/dev/vdd", "path": "/data", "mode": "overlay", "overlay_device": "/dev/vde"}]}"#,
            )
            .unwrap();
        assert_eq!(config.command(), ["/bin/sh", "-c", "true"]);
        assert!(config.has_gpu);
        assert_eq!(config.env["A"], "b");
        assert_eq!(
            (config.unknown.as_slice(), config.without_effect.as_slice()),
            (&[][..], &["network_enabled".to_owned()][..])
        );
        assert_eq!(config.volumes[0].mode, VolumeMode::Overlay { upper: Source::Device("/dev/vde".into()) });
        config
            .apply_json(br#"{"volume_mounts": [{"device": "serial:data", "path": "/d", "mode": "ro"}]}"#)
            .unwrap();
        assert_eq!(config.volumes[0].device, Source::Serial("data".into()));
        for device in ["virtiofs:x", "tmpfs", "none", "/etc", "serial:"] {
            let text =
                format!(r#"{{"volume_mounts": [{{"device": "{device}", "path": "/d", "mode": "ro"}}]}}"#);
            assert!(config.apply_json(text.as_bytes()).is_err(), "{device}");
        }
    }

    #[test]
    fn what_hypeman_takes_is_taken_in_its_own_files_alone() {
        let volume = r#""volume_mounts": [{"device": "/dev/vdd", "path": "/data", "mode": "private"}]"#;
        let mut config = Config::default();
        assert!(config.apply_json(format!("{{{volume}}}").as_bytes()).is_err());
        let file = format!(r#"{{{volume}, "egress_proxy": {{}}, "skip_guest_agent": true, "typo": 1}}"#);
        config.apply_json(file.as_bytes()).unwrap();
        assert!(config.of_hypeman && config.volumes[0].mode == VolumeMode::ReadWrite);
        assert_eq!(config.unknown, ["typo"]);
        assert_eq!(config.without_effect, ["egress_proxy", "skip_guest_agent"]);
    }

    #[test]
    fn the_command_line_wins() {
        let mut config = Config::from_cmdline("HAS_GPU=1 gpu_initrd.gpus=2 -- nvidia-smi").unwrap();
        config.apply_json(br#"{"entrypoint": ["/x"], "cmd": ["y"], "gpus": 1, "has_gpu": false}"#).unwrap();
        assert_eq!(config.command(), ["nvidia-smi"]);
        assert_eq!(config.gpus, ExpectedGpus::Count(2));
        assert!(config.has_gpu);
    }

    #[test]
    fn the_command_line_wins_also_where_it_says_the_default() {
        let line = "HAS_GPU=0 gpu_initrd.init_mode=exec gpu_initrd.restart=no gpu_initrd.workdir=/ gpu_initrd.driver_files=mask gpu_initrd.user=root";
        let mut config = Config::from_cmdline(line).unwrap();
        let file = br#"{"has_gpu": true, "init_mode": "systemd", "restart": "always", "workdir": "/srv", "driver_files": "keep", "user": "app", "hostname": "h"}"#;
        config.apply_json(file).unwrap();
        let mut expected = Config::from_cmdline(line).unwrap();
        expected.hostname = Some("h".into());
        assert_eq!(config, expected);
        // What the file says must be right all the same.
        assert!(config.apply_json(br#"{"init_mode": "maybe"}"#).is_err());
    }

    #[test]
    fn capabilities_are_a_list_or_a_word() {
        let set = |json: &str| {
            let mut config = Config::default();
            config
                .apply_json(format!(r#"{{"capabilities": {json}}}"#).as_bytes())
                .map(|()| config.capabilities)
        };
        let named = |text: &str| Ok(Capabilities::named(text).unwrap());
        assert_eq!(set(r#""default""#), named("default"));
        assert_eq!(set(r#"["CAP_CHOWN", "kill"]"#), named("kill,chown"));
        assert_eq!((set("[]"), set(r#"["all"]"#)), (named("none"), named("all")));
        for wrong in ["null", r#""""#, "{}", r#"["al"]"#, "[1]"] {
            assert!(set(wrong).is_err(), "{wrong}");
        }
    }

    /// Every key that the command line has too names its equivalent.
    #[test]
    fn keys_of_both_are_known_as_such() {
        for key in JSON_KEYS {
            let name = format!("gpu_initrd.{}", key.name);
            let partner = super::super::KEYS
                .iter()
                .map(|key| key.name)
                .find(|known| *known == name || *known == "HAS_GPU" && key.name == "has_gpu");
            assert_eq!(key.same_as, partner, "{}", key.name);
        }
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_it() {
        let mut config = Config::default();
        let error = config.apply_json(br#"{"env": {"A": 1}}"#).unwrap_err().to_string();
        assert!(error.contains("env expects an object of strings"), "{error}");
        let said = |text: &str| Config::default().apply_json(text.as_bytes()).unwrap_err().to_string();
        assert!(
            said(r#"{"workdir": "srv"}"#).ends_with(r#", found "srv""#),
            "{}",
            said(r#"{"workdir": "srv"}"#)
        );
        let long = format!(r#"{{"workdir": ["{}"]}}"#, "x".repeat(100));
        assert!(said(&long).ends_with("xx …"), "{}", said(&long));
        assert!(config.apply_json(b"[]").is_err());
        assert!(
            config
                .apply_json(br#"{"volume_mounts": [{"device": "/etc", "path": "/x", "mode": "ro"}]}"#)
                .is_err()
        );
    }
}
