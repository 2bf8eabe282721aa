//! The config disk of a guest: the given one, or one made from a `config.json` and `--volume`.

use super::before::{self, file, text};
use super::options::Boot;
use crate::common::error::{Doing, Error, Result};
use crate::common::ui::Ui;
use crate::doctor::ImageFileSystem;
use crate::initramfs::file_type::describe;
use crate::programs::tools::Tools;
use crate::vm::disk::{self, FileSystem, Owners};
use crate::vm::qemu::Drive;
use crate::vm::volume::Volume;
use image::config::Config;
use image::layout::{CONFIG_FILE, CONFIG_SERIAL};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Most bytes of a `config.json`.
const MAX_CONFIG: u64 = 1 << 20;
/// Most volumes.
const MAX_VOLUMES: usize = 16;

/// What the guest gets: the content of its config disk, if there is one, and the disks of its
/// volumes.
pub struct Given {
    disk: Option<PathBuf>,
    json: Option<Vec<u8>>,
    volumes: Vec<Drive>,
}

impl Given {
    /// Reads the files in the arguments. Creates nothing.
    pub fn of(args: &Boot) -> Result<Self> {
        if args.volume.len() > MAX_VOLUMES {
            return Err(Error::new(format!(
                "too many volumes: found {} (expected at most {MAX_VOLUMES})",
                args.volume.len()
            ))
            .hint("put several volumes on one disk"));
        }
        let hint = "pass a config.json, or a disk image that contains one";
        let file = args.config.as_deref().map(|path| file("--config", path, hint)).transpose()?;
        let json = file.as_deref().map(json_of).transpose()?.flatten();
        let image = file.filter(|_| json.is_none());
        if let (Some(image), Some(given)) = (&image, &args.config)
            && ImageFileSystem::of(image).is_err()
        {
            let message = format!(
                "--config {}: expected a config.json or a disk image, found {}",
                given.display(),
                describe(image)
            );
            return Err(Error::new(message).hint(hint));
        }
        if image.is_some() && !args.volume.is_empty() {
            return Err(Error::new(
                "--volume cannot be used with a config disk: volumes are configured on the disk",
            )
            .hint("pass the config.json instead: --config FILE"));
        }
        let json = match (json, args.volume.is_empty()) {
            (json, true) => json.map(Value::Object),
            (json, false) => Some(with_volumes(json.unwrap_or_default(), &args.volume)?),
        };
        let json = json.map(|json| serde_json::to_vec_pretty(&json).expect("it was JSON"));
        if let Some(bytes) = &json {
            Config::default().apply_json(bytes).map_err(|error| {
                let place = args.config.as_deref().unwrap_or(Path::new(CONFIG_FILE));
                Error::new(format!("{}: {error}", place.display()))
                    .hint("docs/booting.md, section \"Config disk\"")
            })?;
        }
        let volumes = args.volume.iter().enumerate().map(|(number, volume)| {
            let image = before::disk("--volume", &volume.disk, "name a disk image with a file system")?;
            Ok(Drive { image, read_only: volume.read_only, serial: serial(number) })
        });
        Ok(Self { disk: image, json, volumes: volumes.collect::<Result<_>>()? })
    }

    /// The drives for the guest. A config disk is created below `work` if it is needed and none was
    /// given.
    pub fn drives(self, tools: &dyn Tools, work: &Path, ui: &Ui) -> Result<Vec<Drive>> {
        let disk = match (self.disk, self.json) {
            (None, Some(bytes)) => Some(make(tools, &bytes, work, ui)?),
            (disk, _) => disk,
        };
        let config = disk.map(|image| Drive { image, read_only: true, serial: CONFIG_SERIAL.into() });
        Ok(config.into_iter().chain(self.volumes).collect())
    }
}

fn serial(number: usize) -> String {
    format!("volume{number}")
}

/// The object in a JSON file; `None` for a disk image.
fn json_of(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = text(path, MAX_CONFIG)?;
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Ok(None);
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::new(format!("{}: expected JSON", path.display()))
            .source(error)
            .hint("docs/booting.md, section \"Config disk\"")
    })
}

fn with_volumes(mut json: Map<String, Value>, volumes: &[Volume]) -> Result<Value> {
    let mounts = json.entry("volume_mounts").or_insert_with(|| json!([]));
    let Value::Array(mounts) = mounts else {
        return Err(
            Error::new("volume_mounts: expected a list").hint("docs/booting.md, section \"Config disk\"")
        );
    };
    mounts.extend(volumes.iter().enumerate().map(|(number, volume)| {
        let mode = if volume.read_only { "ro" } else { "rw" };
        json!({"device": format!("serial:{}", serial(number)), "path": volume.path, "mode": mode})
    }));
    Ok(Value::Object(json))
}

fn make(tools: &dyn Tools, json: &[u8], work: &Path, ui: &Ui) -> Result<PathBuf> {
    let (directory, image) = (work.join("config"), work.join("config.erofs"));
    fs::create_dir_all(&directory).doing("creating", &directory)?;
    let file = directory.join(CONFIG_FILE);
    fs::write(&file, json).doing("writing", &file)?;
    disk::make_owned(tools, FileSystem::Erofs, Owners::Root, &directory, &image)?;
    ui.line("config       packed into a config disk");
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_come_behind_those_of_the_file() {
        let json = json!({"volume_mounts": [{"device": "/dev/vdd", "path": "/a", "mode": "ro"}]});
        let Value::Object(json) = json else { unreachable!() };
        let volumes = ["x:/b".parse().unwrap(), "y:/c:ro".parse().unwrap()];
        let all = with_volumes(json, &volumes).unwrap();
        let mut config = Config::default();
        config.apply_json(all.to_string().as_bytes()).unwrap();
        let places: Vec<_> =
            config.volumes.iter().map(|volume| (volume.device.to_string(), &*volume.path)).collect();
        let expected = [("/dev/vdd", "/a"), ("serial:volume0", "/b"), ("serial:volume1", "/c")];
        assert_eq!(places, expected.map(|(device, path)| (device.to_owned(), path)));
        assert!(with_volumes(json!({"volume_mounts": 7}).as_object().unwrap().clone(), &volumes).is_err());
    }

    #[test]
    fn a_file_is_json_or_a_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for (content, is_json) in [(&b" \n{\"cmd\": [\"x\"]}"[..], true), (&[0; 4096], false), (b"", false)] {
            fs::write(&path, content).unwrap();
            assert_eq!(json_of(&path).unwrap().is_some(), is_json);
        }
        fs::write(&path, "{\"cmd\": ").unwrap();
        assert!(json_of(&path).unwrap_err().to_string().contains("expected JSON"));
    }
}
