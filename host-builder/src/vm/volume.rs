//! A disk that is mounted in a container.

use std::path::PathBuf;

/// One `--volume DISK:PATH[:ro]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The disk image.
    pub disk: PathBuf,
    /// The mount point in the container.
    pub path: String,
    /// Whether it is read-only.
    pub read_only: bool,
}

impl std::str::FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || format!("expected DISK:PATH or DISK:PATH:ro, found {text:?}");
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let (disk, path) = rest.rsplit_once(':').ok_or_else(expected)?;
        if disk.is_empty() || !path.starts_with('/') {
            return Err(expected());
        }
        Ok(Self { disk: disk.into(), path: path.into(), read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_disk_a_place_and_perhaps_ro() {
        let of = |text: &str| text.parse::<Volume>();
        let volume = |read_only| Volume { disk: "a:b.ext4".into(), path: "/data".into(), read_only };
        assert_eq!(of("a:b.ext4:/data"), Ok(volume(false)));
        assert_eq!(of("a:b.ext4:/data:rw"), Ok(volume(false)));
        assert_eq!(of("a:b.ext4:/data:ro"), Ok(volume(true)));
        for bad in ["disk", "disk:data", ":/data", "", "disk:/data:rx"] {
            assert!(of(bad).unwrap_err().contains("DISK:PATH"), "{bad}");
        }
    }
}
