//! Directories as artifacts: packed into a reproducible archive, so that a lock can pin them like
//! other artifacts.

use crate::common::error::{Doing, Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files by their path in the archive.
pub type Files = BTreeMap<String, PathBuf>;

/// Every regular file below a directory. A link is followed only if it leads out of the directory
/// to a file with the same name, as in a directory of links into a store. Other targets in the
/// directory are found under their own names.
pub fn below(directory: &Path) -> Result<Files> {
    let mut files = Files::new();
    add(directory, directory, &mut files)?;
    // `lib -> /nix/store/…/lib`.
    for entry in std::fs::read_dir(directory).doing("reading", directory)? {
        let path = entry.doing("reading", directory)?.path();
        if path.is_symlink() && path.is_dir() && leads_out(directory, &path) {
            add(directory, &path, &mut files)?;
        }
    }
    Ok(files)
}

/// The content of `part`, a directory in `whole` or a link in it.
fn add(whole: &Path, part: &Path, files: &mut Files) -> Result<()> {
    for entry in walkdir::WalkDir::new(part).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            Error::new(format!("reading {}", part.display()))
                .source(error)
                .hint("check its files' owner and mode")
        })?;
        let (path, kind) = (entry.path(), entry.file_type());
        let is_taken =
            || kind.is_symlink() && path.is_file() && is_of_its_name(path) && leads_out(whole, path);
        if kind.is_file() || is_taken() {
            let name = path.strip_prefix(whole).expect("entries are below the directory");
            files.insert(name.to_string_lossy().into_owned(), path.to_owned());
        }
    }
    Ok(())
}

fn leads_out(directory: &Path, link: &Path) -> bool {
    match (directory.canonicalize(), link.canonicalize()) {
        (Ok(directory), Ok(target)) => !target.starts_with(directory),
        _ => false,
    }
}

fn is_of_its_name(link: &Path) -> bool {
    link.canonicalize().is_ok_and(|target| target.file_name() == link.file_name())
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
    fn same_files_give_the_same_bytes() {
        let pack_of = |umask: u32| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("a")).unwrap();
            for name in ["a/z", "a/b", "c"] {
                fs::write(dir.path().join(name), name).unwrap();
                let mode = fs::Permissions::from_mode(0o755 & !umask);
                fs::set_permissions(dir.path().join(name), mode).unwrap();
            }
            symlink("c", dir.path().join("link")).unwrap();
            symlink("/etc/passwd", dir.path().join("other")).unwrap();
            let files = below(dir.path()).unwrap();
            assert_eq!(files.len(), 3);
            let out = tempfile::NamedTempFile::new().unwrap();
            pack(&files, &mut out.reopen().unwrap(), out.path()).unwrap();
            fs::read(out.path()).unwrap()
        };
        assert_eq!(pack_of(0), pack_of(0o055));
    }

    #[test]
    fn links_into_a_store_count_as_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["store/1-a/lib", "store/2-b/bin", "driver/lib"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::write(at("store/1-a/lib/libcuda.so.1.2"), "a").unwrap();
        fs::write(at("store/2-b/bin/nvidia-smi"), "b").unwrap();
        symlink(at("store/1-a/lib/libcuda.so.1.2"), at("driver/lib/libcuda.so.1.2")).unwrap();
        symlink("libcuda.so.1.2", at("driver/lib/libcuda.so.1")).unwrap();
        symlink(at("store/2-b/bin"), at("driver/bin")).unwrap();
        let names: Vec<_> = below(&at("driver")).unwrap().into_keys().collect();
        assert_eq!(names, ["bin/nvidia-smi", "lib/libcuda.so.1.2"]);
    }
}
