//! Creates the SONAME links.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::scan::Found;
use super::{CacheReport, LinkChange, join};
use crate::confined_fs::{EntryType, RootDir};

/// Loaders whose links Debian's `ldconfig` never changes: with a wrong link, no program starts. Upstream's would change them,
/// but it is more important that guest-init never changes a loader.
const LOADERS: [&str; 8] = [
    "ld-linux-aarch64.so.1",
    "ld-linux-armhf.so.3",
    "ld-linux-x86-64.so.2",
    "ld-linux.so.2",
    "ld-linux.so.3",
    "ld.so.1",
    "ld64.so.1",
    "ld64.so.2",
];

/// Creates or changes the SONAME link of a library in `dir` if `ldconfig` would. A library whose link cannot be created is
/// kept: the next one in the search order might be worse. `known` are links of this directory, with their targets.
pub(super) fn make(
    root: &RootDir,
    dir: &OsStr,
    lib: &Found,
    known: &HashMap<OsString, OsString>,
    report: &mut CacheReport,
) {
    if lib.is_link || lib.name == lib.soname || known.get(&lib.soname) == Some(&lib.name) {
        return;
    }
    let path = join(dir, &lib.soname);
    let Ok(file) = root.stat(&join(dir, &lib.name)) else { return };
    match root.stat(&path) {
        Ok(present) if (present.dev, present.ino) == (file.dev, file.ino) => return,
        Ok(_) if LOADERS.iter().any(|loader| lib.soname == **loader) => return,
        _ => {}
    }
    if let Ok(present) = root.lstat(&path)
        && present.kind != EntryType::Link
    {
        return report.warn(format!("{}: not replaced: expected a symbolic link", path.display()));
    }
    // A SONAME with a slash results in a dangling link. It is created, as by ldconfig, but only once.
    if root.read_link(&path).is_ok_and(|target| target.as_os_str() == lib.name) {
        return;
    }
    if !is_below(&lib.soname) {
        return report
            .warn(format!("{}: no link created: the SONAME leads to another directory", path.display()));
    }
    match root.symlink(&lib.name, &path) {
        Ok(()) => report.links.push(LinkChange {
            path: path.display().to_string(),
            target: lib.name.to_string_lossy().into_owned(),
        }),
        Err(error) => report.warn(error.to_string()),
    }
}

/// Returns whether a link with this name stays below its directory. `ldconfig` also creates others.
fn is_below(soname: &OsStr) -> bool {
    let parts = || Path::new(soname).components();
    parts().next().is_some()
        && parts().all(|part| matches!(part, Component::Normal(_) | Component::RootDir))
        && PathBuf::from(soname).file_name().is_some_and(|name| soname.as_bytes().ends_with(name.as_bytes()))
}
