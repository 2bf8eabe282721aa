//! Checks a payload disk against the manifest of its image.

use super::difference::Difference;
use crate::build::payload::verity;
use crate::common::digest::{Hasher, HashingReader};
use crate::common::error::{Doing, Error, Result};
use image::manifest::{Manifest, Payload, Verity};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Checks a payload disk against its manifest. The hash tree is computed again from the file system
/// and compared.
pub fn against(manifest: &Manifest, disk: &Path) -> Result<Vec<Difference>> {
    let Payload::Disk { erofs, verity } = &manifest.payload else {
        let message =
            format!("{}: the initrd has no payload disk, it contains the driver itself", disk.display());
        return Err(Error::new(message).hint("omit --payload"));
    };
    let name = disk.display().to_string();
    let mut differences = Vec::new();
    let mut hold = |what, expected: &str, found: &str| {
        if expected != found {
            differences.push(Difference::new(&name, what, expected, found));
        }
    };
    let mut source = std::fs::File::open(disk).doing("opening", disk)?;
    let size = source.seek(SeekFrom::End(0)).doing("reading", disk)?;
    hold("its size", &verity.disk_size.to_string(), &size.to_string());
    source.rewind().doing("reading", disk)?;
    let place = std::env::temp_dir();
    let mut again = tempfile::tempfile().doing("creating a temporary file in", &place)?;
    let mut system = HashingReader::new((&mut source).take(erofs.size));
    let copied = io::copy(&mut system, &mut again).doing("copying the disk to", &place)?;
    hold("the sha256 of its file system", &erofs.sha256, &system.hasher.hex());
    if copied != erofs.size || !copied.is_multiple_of(Verity::BLOCK) {
        hold("bytes of its file system", &erofs.size.to_string(), &copied.to_string());
        return Ok(differences);
    }
    let made = verity::append(&mut again, &place, &verity.salt)?;
    hold("the root of its hash tree", &verity.root_hash, &made.root_hash);
    again.seek(SeekFrom::Start(erofs.size)).doing("reading", &place)?;
    let tree = |file: &mut std::fs::File| {
        let mut hasher = Hasher::default();
        io::copy(file, &mut hasher).map(|_| hasher.hex())
    };
    let (expected, found) =
        (tree(&mut again).doing("reading", &place)?, tree(&mut source).doing("reading", disk)?);
    hold("the sha256 of its hash tree", &expected, &found);
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::super::tests::manifest;
    use super::*;
    use image::manifest::Erofs;
    use std::fs;

    #[test]
    fn a_disk_is_good_only_when_every_byte_of_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("driver.img");
        let system = vec![7; 3 << 20];
        fs::write(&path, &system).unwrap();
        let mut file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let verity = verity::append(&mut file, &path, "00ff").unwrap();
        let erofs =
            Erofs { uuid: String::new(), size: 3 << 20, sha256: crate::common::digest::sha256(&system) };
        let manifest = Manifest { payload: Payload::Disk { erofs, verity }, ..manifest() };
        let what =
            || against(&manifest, &path).unwrap().into_iter().map(|found| found.what).collect::<Vec<_>>();
        assert!(what().is_empty());
        let whole = fs::read(&path).unwrap();
        for (at, expected) in [
            (
                0,
                vec![
                    "the sha256 of its file system",
                    "the root of its hash tree",
                    "the sha256 of its hash tree",
                ],
            ),
            ((3 << 20) + 5, vec!["the sha256 of its hash tree"]),
        ] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(what(), expected);
        }
        fs::write(&path, &whole[..5000]).unwrap();
        let expected = ["its size", "the sha256 of its file system", "bytes of its file system"];
        assert_eq!(what(), expected);
    }

    #[test]
    fn an_image_without_a_disk_has_none_to_verify() {
        let error = against(&manifest(), Path::new("/dev/null")).unwrap_err();
        assert!(error.to_string().contains("no payload disk") && error.remedy().is_some());
    }
}
