//! `pins add`: writes a profile from addresses or files.

use super::options::Add;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::Staged;
use crate::common::ui::print_wrapped;
use crate::pins::profile::Profile;
use std::io::Write;
use std::path::PathBuf;
use toml::{Table, Value};

/// What NVIDIA's driver loads, in order.
const LOAD: [&str; 4] = ["nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm"];

/// Runs the command.
pub fn run(args: &Add) -> Result<()> {
    let text = text(args);
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.toml", args.name)));
    Profile::parse(&text, &args.name)?;
    if path.exists() {
        return Err(Error::new(format!("{}: already exists", path.display()))
            .hint("remove it, or choose another file: --output FILE"));
    }
    Staged::new(&path, 0o644, |file| file.write_all(text.as_bytes()).doing("writing", &path))?.commit()?;
    let file = if path.components().count() == 1 {
        format!("./{}", path.display())
    } else {
        path.display().to_string()
    };
    print_wrapped(&format!(
        "written: {file}\nnext: host-builder pins resolve --profile {file} --lock {}.lock\n",
        args.name
    ));
    Ok(())
}

fn text(args: &Add) -> String {
    let mut top = Table::new();
    let mut put = |key: &str, value: &str| drop(top.insert(key.into(), value.into()));
    put("name", &args.name);
    put("description", &format!("driver {}, written by pins add", args.driver));
    put("arch", &args.arch);
    put("driver", &args.driver);
    if let Some(day) = &args.released {
        put("released", day);
    }
    let mut kernel = Table::new();
    if let Some(version) = &args.kernel_version {
        // A machine may have several kernels, so the release selects one; in an address the version
        // is a part.
        let key = if args.kernel.starts_with("host:") { "release" } else { "version" };
        kernel.insert(key.into(), version.as_str().into());
    }
    kernel.insert("modules".into(), list(&args.modules));
    let builtin =
        if args.builtin.is_empty() && args.kernel_modules.is_none() { &args.modules } else { &args.builtin };
    kernel.insert("builtin".into(), list(builtin));
    top.insert("kernel".into(), kernel.into());
    top.insert(
        "modules".into(),
        Table::from_iter([("load".to_owned(), list(&LOAD.map(str::to_owned)))]).into(),
    );
    let mut artifacts = vec![artifact("kernel", "kernel", &args.kernel)];
    artifacts.extend(args.kernel_modules.iter().map(|url| artifact("kernel-modules", "kernel", url)));
    artifacts.push(artifact("gpu-modules", "gpu-modules", &args.gpu_modules));
    for (at, url) in args.driver_files.iter().enumerate() {
        let name = if at == 0 { "driver".to_owned() } else { format!("driver-{}", at + 1) };
        artifacts.push(artifact(&name, "driver", url));
    }
    match args.firmware.as_deref() {
        Some("none") => drop(top.insert("firmware".into(), "none".into())),
        Some(url) => artifacts.push(artifact("firmware", "firmware", url)),
        None => {}
    }
    top.insert("artifact".into(), Value::Array(artifacts));
    let body = toml::to_string_pretty(&top).expect("texts and lists are TOML");
    format!(
        "# Intent: which kernel, which driver, and where they come from. The lock records what it resolved to.\n{body}"
    )
}

fn list(words: &[String]) -> Value {
    Value::Array(words.iter().map(|word| word.as_str().into()).collect())
}

fn artifact(name: &str, set: &str, url: &str) -> Value {
    let (url, digest) = match url.split_once("#sha256=") {
        Some((url, digest)) => (url, Some(digest)),
        None => (url, None),
    };
    let mut table = Table::new();
    table.insert("name".into(), name.into());
    table.insert("sets".into(), list(&[set.to_owned()]));
    table.insert("url".into(), url.into());
    if let Some(digest) = digest {
        table.insert("sha256".into(), digest.into());
    }
    // An installer also contains a gigabyte of other files.
    if set == "firmware" && url.ends_with(".run") {
        table.insert("only".into(), list(&["firmware".to_owned()]));
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use super::super::options::{Pins, PinsCommand};
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::pins::lock::Set;
    use clap::Parser;

    fn add(more: &[&str]) -> Box<Add> {
        let words = [
            "host-builder",
            "pins",
            "add",
            "mine",
            "--driver",
            "570.86.16",
            "--kernel",
            "https://x.test/vmlinux",
        ];
        let rest = ["--gpu-modules", "./modules.tar.gz", "--driver-files", "host:/"];
        match Cli::parse_from([&words[..], &rest, more].concat()).command {
            Command::Pins(Pins { command: PinsCommand::Add(add) }) => add,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_a_profile_of_those_addresses() {
        let digest = "a".repeat(64);
        let url = format!("https://x.test/NVIDIA.run#sha256={digest}");
        let args = add(&["--firmware", &url, "--released", "2025-12-11"]);
        let profile = Profile::parse(&text(&args), "mine").unwrap();
        assert_eq!((profile.driver.as_str(), profile.released.as_deref()), ("570.86.16", Some("2025-12-11")));
        let firmware = profile.artifact.iter().find(|artifact| artifact.sets == [Set::Firmware]).unwrap();
        assert_eq!(
            (firmware.url.as_str(), firmware.sha256.as_ref()),
            ("https://x.test/NVIDIA.run", Some(&digest))
        );
        assert_eq!(firmware.only, ["firmware"]);
        assert_eq!(profile.kernel.builtin, profile.kernel.modules);
        let args = add(&["--kernel-version", "6.12-x"]);
        assert_eq!(Profile::parse(&text(&args), "mine").unwrap().kernel.version.as_deref(), Some("6.12-x"));
        let args = Add { kernel: "host:/".into(), ..*args };
        assert_eq!(Profile::parse(&text(&args), "mine").unwrap().kernel.release.as_deref(), Some("6.12-x"));
        let none = Profile::parse(&text(&add(&["--firmware", "none"])), "mine").unwrap();
        assert!(none.firmware.is_some() && none.artifact.len() == 3);
    }

    #[test]
    fn a_profile_that_is_there_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        let path = path.to_str().unwrap();
        let args = add(&["--output", path]);
        run(&args).unwrap();
        assert!(run(&args).unwrap_err().to_string().contains("already exists"));
        assert_eq!(Profile::load(path).unwrap().0.directory, dir.path());
        let bad =
            add(&["--output", "/nowhere", "--released", "x", "--firmware", "https://x.test/f#sha256=1"]);
        assert!(run(&bad).unwrap_err().to_string().contains("sha256"));
    }
}
