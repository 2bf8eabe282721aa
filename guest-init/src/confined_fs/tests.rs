use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A directory with a secret beside the root, and the root.
fn fixture() -> (tempfile::TempDir, RootDir) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    fs::create_dir_all(dir.path().join("root/usr/lib")).unwrap();
    fs::write(dir.path().join("root/usr/lib/file"), "inside").unwrap();
    let root = RootDir::open(&dir.path().join("root")).unwrap();
    (dir, root)
}

#[test]
fn reads_with_and_without_a_leading_slash() {
    let (_dir, root) = fixture();
    assert_eq!(root.read(Path::new("/usr/lib/file"), 100).unwrap(), b"inside");
    assert_eq!(root.read(Path::new("usr/lib/file"), 100).unwrap(), b"inside");
}

#[test]
fn dot_dot_stays_at_the_root() {
    let (_dir, root) = fixture();
    assert!(root.read(Path::new("/../secret"), 100).unwrap_err().is_not_found());
    assert_eq!(root.read(Path::new("/../../usr/lib/../lib/file"), 100).unwrap(), b"inside");
}

#[test]
fn absolute_and_climbing_links_stay_in_the_root() {
    let (dir, root) = fixture();
    let at = |name: &str| dir.path().join("root").join(name);
    symlink(dir.path().join("secret"), at("absolute")).unwrap();
    symlink("../../../../../../secret", at("usr/lib/climb")).unwrap();
    symlink("/usr/lib/file", at("fine")).unwrap();
    assert!(root.read(Path::new("absolute"), 100).unwrap_err().is_not_found());
    assert!(root.read(Path::new("usr/lib/climb"), 100).unwrap_err().is_not_found());
    assert_eq!(root.read(Path::new("fine"), 100).unwrap(), b"inside");
}

#[test]
fn names_are_bounded_over_all_directories() {
    let (dir, mut root) = fixture();
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join("root/usr").join(name), "").unwrap();
    }
    root.names_left = AtomicUsize::new(6);
    assert_eq!(root.list(Path::new("usr")).unwrap().len(), 4);
    assert_eq!(root.list(Path::new("usr/lib")).unwrap().len(), 1);
    let error = root.list(Path::new("usr")).unwrap_err();
    assert!(matches!(error, RootError::TooLarge { found: 2, limit: 1, .. }), "{error}");
}

/// Short names, of which each leads deeper.
#[test]
fn a_path_does_not_grow_longer_than_the_kernels() {
    let (dir, root) = fixture();
    let name = "n".repeat(200);
    let mut deep = dir.path().join("root");
    let mut at = String::new();
    for _ in 0..10 {
        deep.push(&name);
        at = format!("{at}/{name}");
    }
    fs::create_dir_all(&deep).unwrap();
    symlink(&at, dir.path().join("root/l")).unwrap();
    // Each step down is a link back to the top of the same deep way.
    symlink(&at[1..], deep.join("more")).unwrap();
    assert_eq!(root.canonical(Path::new("l")).unwrap(), Path::new(&at));
    fs::create_dir_all(deep.join(&at[1..])).unwrap();
    assert_eq!(root.canonical(Path::new("l/more")).unwrap().as_os_str().len(), 2 * at.len());
    symlink(format!("{}/{name}", &at[1..]), deep.join(&at[1..]).join("more")).unwrap();
    let error = root.canonical(Path::new("l/more/more")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG), "{error}");
}

#[test]
fn magic_links_are_not_followed() {
    let root = RootDir::open(Path::new("/")).unwrap();
    assert_eq!(root.stat(Path::new("/proc/self/root/etc")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert!(root.read(Path::new("/proc/self/exe"), u64::MAX).is_err());
}

#[test]
fn changes_through_a_link_stay_in_the_root() {
    let (dir, root) = fixture();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    symlink(dir.path().join("elsewhere"), dir.path().join("root/out")).unwrap();
    assert!(root.write_atomic(Path::new("out/file"), b"x", 0o644).is_err());
    assert!(root.create_dir_all(Path::new("out/sub")).is_err());
    assert_eq!(fs::read_dir(dir.path().join("elsewhere")).unwrap().count(), 0);
}

#[test]
fn writing_replaces_a_link_and_not_its_target() {
    let (dir, root) = fixture();
    let link = dir.path().join("root/usr/lib/link");
    symlink("file", &link).unwrap();
    root.write_atomic(Path::new("usr/lib/link"), b"new", 0o640).unwrap();
    assert_eq!(fs::read(dir.path().join("root/usr/lib/file")).unwrap(), b"inside");
    assert_eq!(fs::read(&link).unwrap(), b"new");
    assert_eq!(fs::symlink_metadata(&link).unwrap().permissions().mode() & 0o7777, 0o640);
    root.symlink(OsStr::new("file"), Path::new("usr/lib/link")).unwrap();
    assert_eq!(root.read_link(Path::new("usr/lib/link")).unwrap(), Path::new("file"));
    assert_eq!(
        fs::read_dir(dir.path().join("root/usr/lib")).unwrap().count(),
        2,
        "no temporary file is left"
    );
}

#[test]
fn a_link_over_a_directory_is_refused_and_leaves_nothing() {
    let (dir, root) = fixture();
    fs::create_dir(dir.path().join("root/usr/lib/dir")).unwrap();
    assert!(root.symlink(OsStr::new("file"), Path::new("usr/lib/dir")).is_err());
    assert_eq!(fs::read_dir(dir.path().join("root/usr/lib")).unwrap().count(), 2);
}

#[test]
fn only_regular_files_are_opened() {
    let (dir, root) = fixture();
    nix::unistd::mkfifo(&dir.path().join("root/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = |path| matches!(root.open_file(Path::new(path), 100), Err(RootError::NotRegular { .. }));
    assert!(refused("fifo"));
    assert!(refused("usr"));
    assert!(matches!(root.read(Path::new("usr/lib/file"), 5), Err(RootError::TooLarge { .. })));
}

#[test]
fn canonical_follows_every_link() {
    let (dir, root) = fixture();
    symlink("usr/lib", dir.path().join("root/lib")).unwrap();
    symlink("/lib/../lib", dir.path().join("root/usr/again")).unwrap();
    symlink("loop", dir.path().join("root/loop")).unwrap();
    assert_eq!(root.canonical(Path::new("/usr/again/file")).unwrap(), Path::new("/usr/lib/file"));
    assert_eq!(root.canonical(Path::new("../lib")).unwrap(), Path::new("/usr/lib"));
    assert_eq!(root.canonical(Path::new("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert!(root.canonical(Path::new("missing")).unwrap_err().is_not_found());
}

/// What changes after the list was read is noticed.
#[test]
fn a_name_of_a_directory_is_not_followed_and_must_be_a_file() {
    let (dir, root) = fixture();
    let lib = dir.path().join("root/usr/lib");
    let directory = root.directory(Path::new("usr/lib")).unwrap();
    let name = OsStr::new("file");
    let (file, stat) = directory.open_file(name, 6).unwrap();
    assert_eq!((std::io::read_to_string(file).unwrap().as_str(), stat.size), ("inside", 6));
    assert!(matches!(directory.open_file(name, 5), Err(RootError::TooLarge { .. })));
    fs::remove_file(lib.join("file")).unwrap();
    symlink("/etc/passwd", lib.join("file")).unwrap();
    assert!(matches!(directory.open_file(name, 6), Err(RootError::NotRegular { .. })));
    assert_eq!(directory.read_link(name).unwrap(), "/etc/passwd");
    fs::remove_file(lib.join("file")).unwrap();
    nix::unistd::mkfifo(&lib.join("file"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(directory.open_file(name, 6), Err(RootError::NotRegular { .. })));
}

#[test]
fn lists_names_and_kinds() {
    let (dir, root) = fixture();
    symlink("file", dir.path().join("root/usr/lib/link")).unwrap();
    let mut entries = root.list(Path::new("usr/lib")).unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let expected = [("file", EntryType::File), ("link", EntryType::Link)];
    assert_eq!(entries, expected.map(|(name, kind)| DirEntry { name: name.into(), kind }));
}
