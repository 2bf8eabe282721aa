use super::*;
use crate::initramfs::cpio::{Entry, Writer};
use crate::pins::lock::Set;
use image::capability::Capability;
use image::manifest::Driver;

/// A manifest of a directory, a file, a link, and a file of the driver.
pub fn manifest() -> Manifest {
    let file = |path: &str, kind, mode, origin: &str| File {
        path: path.into(),
        kind,
        mode,
        origin: origin.into(),
        reason: "a test".into(),
        capabilities: vec![],
        soname: None,
        glibc: None,
        payload: false,
    };
    let content = |text: &str| Kind::File {
        size: text.len() as u64,
        sha256: crate::common::digest::sha256(text.as_bytes()),
    };
    Manifest {
        format: image::manifest::FORMAT,
        builder: "gpu-initrd 0".into(),
        profile: "p".into(),
        arch: "x86_64".into(),
        kernel_release: "6.12".into(),
        driver: Some(Driver { version: "550.1".into(), cuda: None, firmware: vec![], gpus: vec![] }),
        capabilities: vec![],
        control: None,
        payload: Payload::Files,
        modules: vec![],
        files: vec![
            file("/init", content("init"), 0o755, "gpu-initrd 0"),
            file("/lib", Kind::Directory, 0o755, "gpu-initrd 0"),
            file("/lib/a.so", content("library"), 0o644, "a 1-2"),
            file("/lib/b.so", Kind::Link { target: "a.so".into() }, 0o777, "b:i386 3"),
            file("/lib/c.ko", content("module"), 0o644, "built from c"),
            file("/usr", Kind::Directory, 0o755, "gpu-initrd 0"),
            file("/usr/share", Kind::Directory, 0o755, "gpu-initrd 0"),
            file("/usr/share/gpu-initrd", Kind::Directory, 0o755, "gpu-initrd 0"),
        ],
    }
}

/// What the image of that manifest holds, with its manifest.
fn entries() -> Vec<(Entry, &'static [u8])> {
    let entry = |name: &str, mode: u32, content: &'static [u8]| {
        let size = u32::try_from(content.len()).unwrap();
        (Entry { name: name.into(), mode, links: 1, size, ..Entry::default() }, content)
    };
    vec![
        entry("lib", kind::DIRECTORY | 0o755, b""),
        entry("lib/a.so", kind::FILE | 0o644, b"library"),
        entry("lib/b.so", kind::LINK | 0o777, b"a.so"),
        entry("lib/c.ko", kind::FILE | 0o644, b"module"),
        entry("init", kind::FILE | 0o755, b"init"),
        entry("usr", kind::DIRECTORY | 0o755, b""),
        entry("usr/share", kind::DIRECTORY | 0o755, b""),
        entry("usr/share/gpu-initrd", kind::DIRECTORY | 0o755, b""),
        entry(layout::MANIFEST, kind::FILE | 0o644, b"{}"),
    ]
}

fn found(entries: &[(Entry, &[u8])]) -> Vec<(String, &'static str)> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in entries {
        writer.entry(entry, &mut &content[..]).unwrap();
    }
    let archive = Archive::of_bytes("image", writer.finish().unwrap());
    let contents = archive.read(&Want { digests: true, keep: &|_| false }).unwrap();
    against_manifest(&contents, &contents.tree(), &manifest())
        .into_iter()
        .map(|found| (found.of, found.what))
        .collect()
}

/// Changes one entry of the image.
fn changed(at: usize, change: impl FnOnce(&mut Entry)) -> Vec<(String, &'static str)> {
    let mut entries = entries();
    change(&mut entries[at].0);
    found(&entries)
}

fn one(of: &str, what: &'static str) -> Vec<(String, &'static str)> {
    vec![(of.to_owned(), what)]
}

#[test]
fn an_image_that_is_its_manifest_is_good() {
    assert_eq!(found(&entries()), []);
    // Segments repeat the directories that their files are in.
    let mut entries = entries();
    entries.push(entries[0].clone());
    assert_eq!(found(&entries), []);
}

#[test]
fn whatever_is_not_as_stated_is_named() {
    assert_eq!(changed(1, |entry| entry.mode |= 0o111), one("/lib/a.so", "its mode"));
    assert_eq!(changed(1, |entry| entry.uid = 1), one("/lib/a.so", "its owner and group"));
    assert_eq!(changed(0, |entry| entry.mode = kind::DIRECTORY | 0o777), one("/lib", "its mode"));
    let mut other = entries();
    other[1].1 = b"librarx";
    assert_eq!(found(&other), one("/lib/a.so", "its sha256"));
    let mut other = entries();
    other[2].1 = b"x.so";
    assert_eq!(found(&other), one("/lib/b.so", "its target"));
    let mut other = entries();
    other.remove(1);
    assert_eq!(found(&other), one("/lib/a.so", "the entry"));
}

#[test]
fn an_origin_is_a_word_and_lets_nothing_in() {
    let good = crate::common::digest::sha256(b"init");
    let found = |manifest: &Manifest, guest_init: &str| {
        against_tool(manifest, guest_init).into_iter().map(|found| (found.of, found.what)).collect::<Vec<_>>()
    };
    assert_eq!(found(&manifest(), &good), []);
    let program = "the sha256 of PID 1";
    assert_eq!(found(&manifest(), "another"), one("/init", program));
    // Files whose origin is the tool itself are not checked against the lock.
    let mut evil = manifest();
    evil.files[2].origin = evil.builder.clone();
    evil.files[3].origin = evil.builder.clone();
    assert_eq!(
        found(&evil, &good),
        [one("/lib/a.so", "its origin"), one("/lib/b.so", "its origin")].concat()
    );
    let mut evil = manifest();
    evil.files[0].origin = "a 1-2".into();
    assert_eq!(found(&evil, &good), one("/init", "its origin"));
}

/// What a list shows is there, and the kernel does something else.
#[test]
fn what_the_kernel_reads_otherwise_is_named() {
    let mut other = entries();
    // The file is before its directory.
    let library = other.remove(1);
    other.insert(0, library);
    assert_eq!(found(&other), one("lib/a.so", "what the kernel unpacks"));
    let mut other = entries();
    for entry in [1, 3] {
        (other[entry].0.inode, other[entry].0.links) = (7, 2);
    }
    assert_eq!(found(&other), one("lib/a.so", "what the kernel unpacks"));
}

#[test]
fn what_the_manifest_does_not_know_is_named() {
    let mut more = entries();
    more.push((Entry { name: b"lib/evil".to_vec(), mode: kind::FILE, ..Entry::default() }, b""));
    assert_eq!(found(&more), one("/lib/evil", "an entry that is not in the manifest"));
    // A second one would replace the first when the kernel unpacks it.
    let mut more = entries();
    more.push(more[1].clone());
    assert_eq!(found(&more), one("/lib/a.so", "entries of this path"));
}

fn lock() -> Lock {
    let artifact = |name: &str, version: &str, arch: &str| {
        let text = format!(
            "name = {name:?}\nversion = {version:?}\narch = {arch:?}\nsource = \"apt\"\ndigest = \"publisher\"\nsize = 1\nsha256 = \"{}\"\nsets = []\n",
            crate::common::digest::sha256(name.as_bytes())
        );
        toml::from_str(&text).unwrap()
    };
    let mut lock = Lock::new("p", "text", "6.12".into(), "550.1".into());
    lock.add(Set::Kernel, vec![artifact("a", "1-2", "amd64"), artifact("c", "9", "amd64")]);
    lock.add(Set::Compat32(Capability::Compute), vec![artifact("b", "3", "i386")]);
    lock
}

#[test]
fn the_lock_that_an_image_was_made_from_is_told_from_another() {
    let differences = |lock: &Lock| {
        let differences = against_lock(&manifest(), lock);
        differences.into_iter().map(|found| (found.what, found.expected, found.found)).collect::<Vec<_>>()
    };
    assert_eq!(differences(&lock()), []);
    let mut other = lock();
    other.kernel_release = "7".into();
    assert_eq!(differences(&other), [("the kernel's release", "7".to_owned(), "6.12".to_owned())]);
    let mut other = lock();
    other.artifact[0].version = "2".into();
    let expected = ("an artifact of the image", "a 1-2".to_owned(), "version 2".to_owned());
    assert_eq!(differences(&other), [expected]);
    let mut other = lock();
    other.artifact.remove(2);
    let expected =
        ("an artifact of the image", "built from c".to_owned(), "no package of that name".to_owned());
    assert_eq!(differences(&other), [expected]);
}
