//! The kernel unpacks what host-builder lists: images that are odd on purpose, booted with a PID 1
//! that prints what it finds.

use host_builder::initramfs::cpio::{Entry, Writer, kind};
use host_builder::initramfs::{Archive, Want};
use rig::build::{initrd_for_disk, program};
use rig::guest::Setup;
use rig::process::run;
use rig::scene::{PATIENCE, boot};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

type Entries = Vec<(Entry, Vec<u8>)>;

fn entry(name: &[u8], mode: u32, content: &[u8]) -> (Entry, Vec<u8>) {
    let size = u32::try_from(content.len()).unwrap();
    (Entry { name: name.to_vec(), mode, links: 1, size, ..Entry::default() }, content.to_vec())
}

fn plain(name: &[u8], content: &[u8]) -> (Entry, Vec<u8>) {
    entry(name, kind::FILE | 0o644, content)
}

fn link(name: &[u8], target: &[u8]) -> (Entry, Vec<u8>) {
    entry(name, kind::LINK | 0o777, target)
}

fn directory(name: &[u8], mode: u32) -> (Entry, Vec<u8>) {
    entry(name, kind::DIRECTORY | mode, b"")
}

/// One more name of a file by its number.
fn numbered(number: u32, (entry, content): (Entry, Vec<u8>)) -> (Entry, Vec<u8>) {
    (Entry { inode: number, links: 2, ..entry }, content)
}

fn device(name: &[u8], of: u32, numbers: (u32, u32)) -> (Entry, Vec<u8>) {
    let (plain, content) = entry(name, of | 0o600, b"");
    (Entry { device: numbers, ..plain }, content)
}

fn pack(entries: &Entries) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in entries {
        writer.entry(entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// The PID 1 that prints what it finds.
fn witness() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("tree.c"), dir.path().join("tree"));
        fs::write(&source, include_str!("../probe/tree.c")).unwrap();
        run(Command::new("cc").args(["-O1", "-static", "-s", "-o"]).arg(&out).arg(&source)).unwrap();
        fs::read(&out).unwrap()
    })
}

fn init() -> (Entry, Vec<u8>) {
    entry(b"init", kind::FILE | 0o755, witness())
}

fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("odd.img");
    fs::write(&path, bytes).unwrap();
    path
}

/// What a guest of an image writes to its console.
fn boot_of(image: &Path) -> String {
    let setup = Setup::new(&initrd_for_disk().kernel, image).unwrap().without_vsock().memory_mib(256);
    // Without the kernel's own lines between and inside of those of PID 1, except for emergencies.
    boot(setup.cmdline("loglevel=1")).wait_for_end(PATIENCE).unwrap().1
}

/// Everything that an archive can contain without being refused by the kernel.
fn odd() -> Vec<Entries> {
    let first = vec![
        directory(b".", 0o711),
        init(),
        plain(b"early/a", b"before its directory"),
        directory(b"early", 0o750),
        plain(b"early/b", b"after it"),
        numbered(7, plain(b"harmless", b"stated")),
        numbered(7, plain(b"evil", b"of both")),
        numbered(8, plain(b"cpio-a", b"")),
        numbered(8, plain(b"cpio-b", b"with the last")),
        link(b"up", b"early/../early"),
        plain(b"up/c", b"through a link"),
        link(b"round", b"round"),
        plain(b"round/x", b"nowhere"),
        link(b"TRAILER!!!", b"no trailer"),
        link(b"cut", b"here\0and not there"),
        link(b"empty", b""),
        link(b"turned", b"/nowhere"),
        plain(b"turned", b"a file"),
        plain(b"early", b"no directory any more?"),
        link(b"early", b"/nowhere"),
        directory(b"gone", 0o700),
        link(b"gone", b"away"),
        device(b"null", kind::CHARACTER, (1, 3)),
        device(b"null", kind::CHARACTER, (1, 5)),
        device(b"pipe", kind::FIFO, (0, 0)),
        entry(b"none", 0o644, b""),
        plain(b"slash/", b"x"),
        directory(b"made/", 0o700),
        plain(b"/absolute", b"below the root"),
        plain(b"../../above", b"below the root, too"),
        plain(b"dev/there", b"the kernel has /dev"),
        numbered(9, plain(b"old", b"old")),
        link(b"old", b"/through"),
        numbered(9, plain(b"new", b"written through a link")),
        plain(&[b'n'; 256], b"too long"),
    ];
    // Numbers begin anew; a file of a path that is there keeps its other names.
    let second = vec![
        numbered(7, plain(b"another", b"another archive")),
        plain(b"cpio-a", b"new content"),
        directory(b"early", 0o500),
        plain(b"./early//d", b"once more"),
    ];
    vec![first, second]
}

#[test]
fn odd_entries_are_listed_as_the_kernel_unpacks_them() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = &odd()[..] else { unreachable!() };
    let mut image = pack(first);
    image.extend(through("gzip", &["-c"], &pack(second)));
    let image = write(dir.path(), &image);

    let contents = Archive::open(&image).unwrap().read(&Want { digests: true, keep: &|_| true }).unwrap();
    let tree = contents.tree();
    let line = |(path, left): (&Vec<u8>, &host_builder::initramfs::Left)| {
        let item = left.item;
        let holds = match left.kind() {
            kind::LINK => String::from_utf8_lossy(item.target.as_deref().unwrap()).into_owned(),
            kind::CHARACTER => format!("{}:{}", item.entry.device.0, item.entry.device.1),
            kind::FILE if left.bytes() < 100 => {
                String::from_utf8_lossy(item.content.as_deref().unwrap()).into_owned()
            }
            kind::FILE => format!("{} bytes", left.bytes()),
            _ => String::new(),
        };
        let mode = left.kind() | left.mode();
        format!("at {} {mode:o} {}:{} {holds}", String::from_utf8_lossy(path), left.entry.uid, left.entry.gid)
    };
    let ours: BTreeSet<_> = tree.paths.iter().filter(|(path, _)| *path != b"/").map(line).collect();

    let console = boot_of(&image);
    assert!(console.contains("\nthe end\n"), "{console}");
    let of_the_kernel = ["at /dev 40755 0:0 ", "at /dev/console 20600 0:0 5:1", "at /root 40700 0:0 "];
    let theirs: BTreeSet<_> = console
        .lines()
        .filter(|line| line.starts_with("at ") && !of_the_kernel.contains(line))
        .map(str::to_owned)
        .collect();
    assert_eq!(ours, theirs, "{console}");
    // The marks are visible in the output.
    let listed = Command::new(program()).arg("list").arg(&image).output().unwrap();
    let warnings = String::from_utf8(listed.stderr).unwrap();
    for name in
        ["early/a", "harmless", "cpio-b", "round/x", "cut", "empty", "early", "null", "none", "slash/", "new"]
    {
        assert!(warnings.contains(&format!("odd.img: {name}: the kernel ")), "{name}: {warnings}");
    }
}

fn through(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program} {args:?}");
        output.stdout
    })
}

/// An archive in a field of the gzip header, which is the one that the kernel unpacks.
#[test]
fn gzip_header_that_the_kernel_reads_otherwise_is_refused() {
    // The field's length, 1024, begins a stored block to the kernel: 00, and 04 as the low half of
    // its length.
    const FIELD: u16 = 0x0400;
    const STORED: u16 = 0x0204;
    let mut archive = pack(&vec![plain(b"evil", b"unpacked")]);
    archive.resize(usize::from(STORED), 0);
    let mut field = vec![STORED.to_be_bytes()[0]];
    field.extend((!STORED).to_le_bytes());
    field.extend(archive);
    // A last block with nothing in it, and a checksum and size that the kernel does not check.
    field.extend([1, 0, 0, 0xff, 0xff]);
    field.resize(usize::from(FIELD), 0);
    let member = through("gzip", &["-c"], &pack(&vec![plain(b"harmless", b"unpacked")]));
    let hidden =
        [&[0x1f, 0x8b, 8, 4], &member[4..10], &FIELD.to_le_bytes(), &field[..], &member[10..]].concat();
    let seen = String::from_utf8_lossy(&through("gzip", &["-dc"], &hidden)).into_owned();
    assert!(seen.contains("harmless") && !seen.contains("evil"));

    let dir = tempfile::tempdir().unwrap();
    let image = write(dir.path(), &[pack(&vec![init()]), hidden].concat());
    let console = boot_of(&image);
    assert!(console.contains("\nat /evil 100644 0:0 unpacked\n"), "{console}");
    assert!(!console.contains("at /harmless"), "{console}");
    refused_everywhere(&image, "a gzip header with flags 0x04");
}

/// The kernel boots with what came before.
#[test]
fn stream_that_the_kernel_does_not_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let second = through("xz", &["-c", "--check=crc64"], &pack(&vec![plain(b"who", b"second")]));
    let image = write(dir.path(), &[pack(&vec![init(), plain(b"who", b"first")]), second].concat());
    let console = boot_of(&image);
    assert!(console.contains("\nat /who 100644 0:0 first\n"), "{console}");
    assert!(console.contains("Initramfs unpacking failed"), "{console}");
    refused_everywhere(&image, "an xz stream with a check of type 4");
}

/// Every command refuses an image that the kernel reads differently.
fn refused_everywhere(image: &Path, why: &str) {
    let image = image.to_str().unwrap();
    for command in [
        &["list", image][..],
        &["examine", image],
        &["inspect", image],
        &["verify", image],
        &["sbom", image],
        &["diff", image, image],
        &["cat", image, "/init"],
        &["extract", image, "--to", "never"],
    ] {
        let output = Command::new(program()).args(command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(why), "{command:?}: {text}");
    }
}
