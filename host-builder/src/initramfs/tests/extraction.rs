use super::extract::{Extracted, How};
use super::*;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

/// The result that the kernel would have.
fn extract(archive: &Archive, to: &Path, how: How) -> Result<Extracted> {
    let contents = archive.read(&Want::NAMES)?;
    super::extract::extract(archive, &contents, &contents.tree(), to, how)
}

/// Unpacks into DIR/to, next to DIR/outside.
fn unpack(entries: &[(Entry, Vec<u8>)], devices: bool) -> (tempfile::TempDir, Result<Extracted>) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    let archive = Archive::of_bytes("image", pack(entries));
    let done = extract(&archive, &dir.path().join("to"), How { devices, set_ids: true });
    (dir, done)
}

fn directory(name: &[u8], mode: u32) -> (Entry, Vec<u8>) {
    file(name, kind::DIRECTORY | mode, b"")
}

fn link(name: &[u8], target: &[u8]) -> (Entry, Vec<u8>) {
    file(name, kind::LINK | 0o777, target)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn files_keep_modes_times_and_owners() {
    let mut entries = [
        directory(b".", 0o700),
        directory(b"closed", 0o500),
        file(b"closed/x", kind::FILE | 0o4755, b"hello"),
        link(b"link", b"closed/x"),
    ];
    for (entry, _) in &mut entries {
        (entry.mtime, entry.uid, entry.gid) = (1_000_000, 1234, 4321);
    }
    let (dir, done) = unpack(&entries, false);
    let set_ids_left_out = u64::from(!is_root());
    let expected =
        Extracted { files: 1, bytes: 5, directories: 1, links: 1, set_ids_left_out, ..Extracted::default() };
    assert_eq!(done.unwrap(), expected);
    let root = dir.path().join("to");
    let file = fs::metadata(root.join("closed/x")).unwrap();
    let mode = if is_root() { 0o4755 } else { 0o755 };
    assert_eq!((file.mode() & 0o7777, file.mtime()), (mode, 1_000_000));
    if is_root() {
        assert_eq!((file.uid(), file.gid()), (1234, 4321));
        assert_eq!(fs::symlink_metadata(root.join("link")).unwrap().uid(), 1234);
    }
    assert_eq!(fs::metadata(root.join("closed")).unwrap().mode() & 0o777, 0o500);
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read_link(root.join("link")).unwrap().to_str(), Some("closed/x"));
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn path_that_leaves_the_directory_is_refused() {
    for name in ["../outside/x", "a/../../outside/x", "/../outside/x", ".."] {
        let entries =
            [file(b"first", kind::FILE | 0o644, b"x"), file(name.as_bytes(), kind::FILE | 0o644, b"x")];
        let (dir, done) = unpack(&entries, false);
        assert!(done.unwrap_err().to_string().contains("leaves the directory"), "{name}");
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0, "{name}");
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["outside"], "{name}");
    }
}

#[test]
fn absolute_path_is_below_the_directory() {
    let entries = [directory(b"/etc", 0o755), file(b"/etc/x", kind::FILE | 0o644, b"x")];
    let (dir, done) = unpack(&entries, false);
    done.unwrap();
    assert_eq!(fs::read(dir.path().join("to/etc/x")).unwrap(), b"x");
}

#[test]
fn link_never_leads_out_of_the_directory() {
    let name = format!("gpu-initrd-{}", std::process::id());
    let outside = |dir: &tempfile::TempDir| fs::read_dir(dir.path().join("outside")).unwrap().count();
    for target in ["../outside", "../../../../../../tmp", "/", "/outside", "/proc/self/root", "."] {
        let path = format!("out/{name}");
        let entries = [link(b"out", target.as_bytes()), file(path.as_bytes(), kind::FILE | 0o644, b"x")];
        let (dir, _) = unpack(&entries, false);
        assert_eq!(outside(&dir), 0, "{target}");
        assert!(["/", "/tmp"].iter().all(|place| !Path::new(place).join(&name).exists()), "{target}");
    }
    // A link that stays inside is followed, as in the kernel.
    let entries = [directory(b"usr", 0o755), link(b"lib", b"/usr"), file(b"lib/x", kind::FILE | 0o644, b"x")];
    let (dir, done) = unpack(&entries, false);
    done.unwrap();
    assert_eq!(fs::read(dir.path().join("to/usr/x")).unwrap(), b"x");
}

#[test]
fn last_part_of_a_path_is_never_followed() {
    let (dir, done) = unpack(&[link(b"x", b"../outside/y"), file(b"x", kind::FILE | 0o644, b"new")], false);
    done.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    assert!(fs::symlink_metadata(dir.path().join("to/x")).unwrap().is_file());
    let (dir, done) =
        unpack(&[link(b"x", b"../outside"), directory(b"x", 0o711), file(b"x/y", kind::FILE, b"")], false);
    done.unwrap();
    assert_eq!(fs::metadata(dir.path().join("outside")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::symlink_metadata(dir.path().join("to/x")).unwrap().mode() & 0o777, 0o711);
}

#[test]
fn hard_links_are_links_within_the_image() {
    let twin = |name: &[u8], kind: u32, content: &[u8]| {
        let (entry, content) = file(name, kind, content);
        (Entry { inode: 9, links: 2, ..entry }, content)
    };
    let plain = kind::FILE | 0o644;
    let entries = [directory(b"d", 0o755), twin(b"a", plain, b""), twin(b"d/b", plain, b"hello")];
    let (dir, done) = unpack(&entries, false);
    done.unwrap();
    let at = |name: &str| dir.path().join("to").join(name);
    assert_eq!(fs::read(at("a")).unwrap(), b"hello");
    assert_eq!(fs::metadata(at("a")).unwrap().ino(), fs::metadata(at("d/b")).unwrap().ino());
    // The first name is replaced by a link to the outside before the second one is linked to it.
    let out = link(b"a", b"../outside/new");
    let (dir, done) = unpack(&[twin(b"a", plain, b""), out, twin(b"b", plain, b"hello")], false);
    assert_eq!(done.unwrap().remarks, 1);
    assert_eq!(fs::read_link(dir.path().join("to/b")).unwrap().to_str(), Some("../outside/new"));
    assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
}

#[test]
fn device_nodes_are_created_only_on_request() {
    let mut null = file(b"dev/null", kind::CHARACTER | 0o666, b"");
    null.0.device = (1, 3);
    let entries = [directory(b"dev", 0o755), null, file(b"dev/fifo", kind::FIFO | 0o600, b"")];
    let (dir, done) = unpack(&entries, false);
    assert_eq!(done.unwrap().devices_left_out, 2);
    assert_eq!(fs::read_dir(dir.path().join("to/dev")).unwrap().count(), 0);
    if is_root() {
        let (dir, done) = unpack(&entries, true);
        assert_eq!(done.unwrap().devices, 2);
        let null = fs::metadata(dir.path().join("to/dev/null")).unwrap();
        assert!(null.file_type().is_char_device());
        assert_eq!((null.rdev(), null.mode() & 0o777), (nix::sys::stat::makedev(1, 3), 0o666));
        assert!(fs::metadata(dir.path().join("to/dev/fifo")).unwrap().file_type().is_fifo());
    }
}

#[test]
fn directory_with_content_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let archive = Archive::of_bytes("image", sample("a"));
    fs::create_dir(&to).unwrap();
    extract(&archive, &to, How::default()).unwrap();
    let error = extract(&archive, &to, How::default()).unwrap_err();
    assert!(error.to_string().contains("is not empty") && error.remedy().is_some());
    assert!(extract(&archive, &to.join("a/large"), How::default()).is_err());
}

#[test]
fn damaged_image_leaves_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = sample("a");
    image.truncate(1000);
    assert!(extract(&Archive::of_bytes("image", image), &dir.path().join("to"), How::default()).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn set_user_id_bits_are_kept_only_on_request() {
    let entries = [directory(b"d", 0o2755), file(b"d/su", kind::FILE | 0o4755, b"x")];
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::of_bytes("image", pack(&entries));
    let done = extract(&archive, &dir.path().join("to"), How::default()).unwrap();
    assert_eq!(done.set_ids_left_out, 2);
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("to/d"), mode("to/d/su")), (0o755, 0o755));
    let done = extract(&archive, &dir.path().join("kept"), How { set_ids: true, devices: false }).unwrap();
    let expected = if is_root() { (0, 0o2755, 0o4755) } else { (2, 0o755, 0o755) };
    assert_eq!((done.set_ids_left_out, mode("kept/d"), mode("kept/d/su")), expected);
}
