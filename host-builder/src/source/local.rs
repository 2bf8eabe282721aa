//! Directories as artifacts: packed into an archive of the same bytes for the same files, so that a lock can pin them as it
//! pins everything else.

use crate::error::{Doing, Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files by the path that they have in the archive.
pub type Files = BTreeMap<String, PathBuf>;

/// Every regular file below a directory; links are left out, since what needs one is found by its own name.
pub fn below(directory: &Path) -> Result<Files> {
    let mut files = Files::new();
    for entry in walkdir::WalkDir::new(directory).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            Error::new(format!("reading {}", directory.display()))
                .source(error)
                .hint("check its files' owner and mode")
        })?;
        if entry.file_type().is_file() {
            let path = entry.path().strip_prefix(directory).expect("entries are below the directory");
            files.insert(path.to_string_lossy().into_owned(), entry.path().to_owned());
        }
    }
    Ok(files)
}

/// Writes the archive: sorted, without owners and times.
pub fn pack(files: &Files, out: &mut impl Write, place: &Path) -> Result<()> {
    let mut builder = tar::Builder::new(BufWriter::new(out));
    for (name, path) in files {
        let file = File::open(path).doing("opening", path)?;
        let metadata = file.metadata().doing("reading", path)?;
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(metadata.len());
        header.set_mode(if metadata.mode() & 0o111 == 0 { 0o644 } else { 0o755 });
        header.set_mtime(0);
        builder.append_data(&mut header, name, file).doing("packing", path)?;
    }
    builder.into_inner().and_then(|mut out| out.flush()).doing("writing", place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let pack_of = |umask: u32| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("a")).unwrap();
            for name in ["a/z", "a/b", "c"] {
                fs::write(dir.path().join(name), name).unwrap();
                let mode = fs::Permissions::from_mode(0o755 & !umask);
                fs::set_permissions(dir.path().join(name), mode).unwrap();
            }
            symlink("c", dir.path().join("link")).unwrap();
            let files = below(dir.path()).unwrap();
            assert_eq!(files.len(), 3);
            let out = tempfile::NamedTempFile::new().unwrap();
            pack(&files, &mut out.reopen().unwrap(), out.path()).unwrap();
            fs::read(out.path()).unwrap()
        };
        assert_eq!(pack_of(0), pack_of(0o055));
    }
}
