use super::*;
use crate::common::error::Result;
use crate::initramfs::cpio;
use crate::pins::artifact::MAX_UNPACKED;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

/// An entry of a hostile archive, in any format.
#[derive(Clone, Copy)]
enum Entry {
    File(&'static str, &'static [u8]),
    Link(&'static str, &'static str),
    Hard(&'static str, &'static str),
    Device(&'static str),
}
use self::Entry::{Device, File as Regular, Hard, Link};

type Make = fn(&[Entry]) -> Vec<u8>;

/// Every format that contains files, and how it is made here.
const FORMATS: [(&str, Make); 8] = [
    ("tar", tar_of),
    ("tar.gz", gzip_of),
    ("tar.xz", xz_of),
    ("tar.zst", zstd_of),
    ("deb", deb_of),
    ("rpm", rpm_of),
    ("zip", zip_of),
    ("run", runfile_of),
];

/// Names are written without the checks of the tar crate's writer.
fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for entry in entries {
        let (name, kind, link, content) = match *entry {
            Regular(name, content) => (name, ::tar::EntryType::Regular, "", content),
            Link(name, link) => (name, ::tar::EntryType::Symlink, link, &b""[..]),
            Hard(name, link) => (name, ::tar::EntryType::Link, link, &b""[..]),
            Device(name) => (name, ::tar::EntryType::Char, "", &b""[..]),
        };
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzip_of(entries: &[Entry]) -> Vec<u8> {
    gzip(&tar_of(entries))
}

fn xz_of(entries: &[Entry]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(&tar_of(entries)).unwrap();
    encoder.finish().unwrap()
}

fn zstd_of(entries: &[Entry]) -> Vec<u8> {
    zstd::encode_all(&tar_of(entries)[..], 1).unwrap()
}

fn deb_of(entries: &[Entry]) -> Vec<u8> {
    let data = gzip_of(entries);
    let mut builder = ar::Builder::new(Vec::new());
    for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("data.tar.gz", &data)] {
        let header = ar::Header::new(name.into(), content.len() as u64);
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn rpm_of(entries: &[Entry]) -> Vec<u8> {
    let mut writer = cpio::Writer::new(Vec::new());
    for entry in entries {
        match *entry {
            Regular(name, content) => writer.file(name, 0o755, content.len() as u64, &mut &content[..]),
            Link(name, link) => writer.link(name, link),
            Device(name) => writer.character(name, 0o644, 1, 3),
            // In newc, hard links are repeated files.
            Hard(name, _) => writer.file(name, 0o755, 0, &mut &b""[..]),
        }
        .unwrap();
    }
    rpm_around(&writer.finish().unwrap())
}

fn rpm_around(archive: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xed, 0xab, 0xee, 0xdb];
    bytes.resize(96, 0);
    // One index entry and five bytes of data, so that the signature needs padding.
    let header = [&[0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5][..], &[0; 21]].concat();
    bytes.extend(&header);
    bytes.extend([0; 3]);
    bytes.extend(&header);
    bytes.extend(gzip(archive));
    bytes
}

fn zip_of(entries: &[Entry]) -> Vec<u8> {
    let mut writer = ::zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = ::zip::write::SimpleFileOptions::default();
    let mut devices = Vec::new();
    for entry in entries {
        match *entry {
            Regular(name, content) => {
                writer.start_file(name, options.unix_permissions(0o755)).unwrap();
                writer.write_all(content).unwrap();
            }
            Link(name, link) => writer.add_symlink(name, link, options).unwrap(),
            Device(name) | Hard(name, _) => {
                writer.start_file(name, options).unwrap();
                devices.push(name);
            }
        }
    }
    let mut bytes = writer.finish().unwrap().into_inner();
    // The writer cannot make devices: the mode is in the upper half of the external attributes,
    // eight bytes before the name.
    for name in devices {
        let at = bytes.windows(name.len()).rposition(|window| window == name.as_bytes()).unwrap();
        bytes[at - 8..at - 4].copy_from_slice(&(0o020_644_u32 << 16).to_le_bytes());
    }
    bytes
}

fn runfile_of(entries: &[Entry]) -> Vec<u8> {
    [&b"#!/bin/sh\nskip=\"3\"\nexit 1\n"[..], &gzip_of(entries)].concat()
}

/// The directory with the root, and the result.
fn unpack(bytes: &[u8], bound: u64, only: &[String]) -> (tempfile::TempDir, Result<Vec<Unpacked>>) {
    let dir = tempfile::tempdir().unwrap();
    let (archive, root) = (dir.path().join("archive"), dir.path().join("root"));
    fs::write(&archive, bytes).unwrap();
    fs::create_dir(&root).unwrap();
    let mut unpacker = Unpacker::new(&root).bound(bound).only(only);
    let result = unpacker.file(&archive, "archive").map(|()| unpacker.finish());
    (dir, result)
}

fn each(entries: &[Entry], check: impl Fn(&str, &Path, Result<Vec<Unpacked>>)) {
    for (format, make) in FORMATS {
        let (dir, result) = unpack(&make(entries), MAX_UNPACKED, &[]);
        check(format, dir.path(), result);
    }
}

#[test]
fn every_format_is_detected_and_its_files_are_hashed() {
    each(&[Regular("./lib/x", b"hello"), Link("usr/lib/y", "x")], |format, dir, files| {
        let files = files.unwrap();
        assert_eq!(fs::read(dir.join("root/usr/lib/x")).unwrap(), b"hello", "{format}");
        assert_eq!(fs::read_link(dir.join("root/usr/lib/y")).unwrap(), Path::new("x"), "{format}");
        assert_eq!(files.len(), 1, "{format}");
        assert!(files[0].sha256.starts_with("2cf24dba") && files[0].executable, "{format}");
    });
}

#[test]
fn no_entry_leaves_the_root() {
    for name in ["../evil", "a/../../evil"] {
        let entries = [Entry::File(name, b"x")];
        each(&entries, |format, dir, result| {
            let error = result.expect_err(format);
            assert!(error.to_string().contains("leaves the root"), "{format}: {error}");
            assert!(!dir.join("evil").exists(), "{format}");
        });
    }
    each(&[Regular("/evil", b"x")], |format, dir, result| {
        result.unwrap();
        assert!(dir.join("root/evil").exists(), "{format}");
    });
}

#[test]
fn no_entry_is_written_through_a_link() {
    each(&[Link("out", ".."), Regular("out/evil", b"x")], |format, dir, result| {
        let error = result.expect_err(format);
        assert!(error.to_string().contains("is a link"), "{format}: {error}");
        assert!(!dir.join("evil").exists(), "{format}");
    });
    // A file with the link's name replaces it, and does not follow it.
    let (dir, result) = unpack(&tar_of(&[Link("out", "../evil"), Regular("out", b"x")]), MAX_UNPACKED, &[]);
    result.unwrap();
    assert!(!dir.path().join("evil").exists() && dir.path().join("root/out").is_file());
}

#[test]
fn hard_links_point_only_to_files_of_the_archive() {
    let of = |entries: &[Entry]| unpack(&tar_of(entries), MAX_UNPACKED, &[]);
    let (dir, files) = of(&[Regular("./lib/x", b"hello"), Hard("usr/y", "./lib/x")]);
    assert_eq!(files.unwrap().len(), 2);
    assert_eq!(fs::read(dir.path().join("root/usr/y")).unwrap(), b"hello");
    for link in ["../../etc/passwd", "/etc/passwd", "../archive"] {
        let (_dir, result) = of(&[Hard("hard", link)]);
        assert!(result.unwrap_err().remedy().unwrap().contains("where the archive came from"), "{link}");
    }
    let (_dir, result) = of(&[Link("out", ".."), Hard("hard", "out/archive")]);
    assert!(result.unwrap_err().to_string().contains("is a link"));
    let (dir, result) = of(&[Link("out", "../archive"), Hard("hard", "out")]);
    result.unwrap();
    assert!(fs::symlink_metadata(dir.path().join("root/hard")).unwrap().is_symlink());
}

/// As the formats' own tools do.
#[test]
fn last_entry_of_a_name_wins() {
    for (format, make) in FORMATS.into_iter().filter(|(format, _)| *format != "zip") {
        let (dir, files) = unpack(&make(&[Regular("x", b"one"), Regular("x", b"three")]), MAX_UNPACKED, &[]);
        let files = files.unwrap();
        assert_eq!((files.len(), files[0].size), (1, 5), "{format}");
        assert_eq!(files[0].sha256, crate::common::digest::sha256(b"three"), "{format}");
        assert_eq!(fs::read(dir.path().join("root/x")).unwrap(), b"three", "{format}");
        // A link in its place is not a file of the package.
        let (_dir, files) = unpack(&make(&[Regular("x", b"one"), Link("x", "/dev/zero")]), MAX_UNPACKED, &[]);
        assert_eq!(files.unwrap(), [], "{format}");
    }
}

#[test]
fn hard_links_of_an_rpm_share_the_last_content() {
    let entry = |name: &str, inode, content: &[u8]| cpio::Entry {
        name: name.into(),
        mode: cpio::kind::FILE | 0o755,
        inode,
        links: 2,
        size: u32::try_from(content.len()).unwrap(),
        ..cpio::Entry::default()
    };
    let mut writer = cpio::Writer::new(Vec::new());
    for (name, inode, content) in [("a", 7, &b""[..]), ("e", 8, b""), ("b", 7, b"hello"), ("f", 8, b"")] {
        writer.entry(&entry(name, inode, content), &mut &content[..]).unwrap();
    }
    let (dir, files) = unpack(&rpm_around(&writer.finish().unwrap()), MAX_UNPACKED, &[]);
    let found: Vec<_> = files.unwrap().into_iter().map(|file| (file.path, file.size)).collect();
    assert_eq!(found, [("a", 5), ("b", 5), ("e", 0), ("f", 0)].map(|(path, size)| (path.to_owned(), size)));
    assert_eq!(fs::read(dir.path().join("root/a")).unwrap(), b"hello");
}

#[test]
fn header_for_all_entries_may_only_have_a_comment() {
    let with = |record: &[u8]| {
        let mut builder = ::tar::Builder::new(Vec::new());
        let mut header = ::tar::Header::new_ustar();
        header.set_path("pax_global_header").unwrap();
        header.set_entry_type(::tar::EntryType::XGlobalHeader);
        header.set_size(record.len() as u64);
        header.set_cksum();
        builder.append(&header, record).unwrap();
        [&builder.into_inner().unwrap()[..1024], &tar_of(&[Regular("x", b"x")])].concat()
    };
    let (_dir, files) = unpack(&with(b"18 comment=abcdef\n"), MAX_UNPACKED, &[]);
    assert_eq!(files.unwrap().len(), 1);
    let (_dir, files) = unpack(&with(b"13 path=evil\n"), MAX_UNPACKED, &[]);
    assert!(files.unwrap_err().to_string().contains("for all entries"));
}

#[test]
fn device_nodes_are_refused() {
    each(&[Device("null")], |format, dir, result| {
        let error = result.expect_err(format);
        assert!(error.to_string().contains("is refused"), "{format}: {error}");
        assert!(!dir.join("root/null").exists(), "{format}");
    });
}

#[test]
fn unpacked_size_is_limited() {
    static ZEROS: [u8; 300_000] = [0; 300_000];
    for (format, make) in FORMATS {
        let bytes = make(&[Regular("a", &ZEROS), Regular("b", &ZEROS)]);
        assert!(format == "tar" || format == "zip" || bytes.len() < 10_000, "{format} is not compressed");
        let (dir, result) = unpack(&bytes, 400_000, &[]);
        let error = result.expect_err(format);
        assert!(error.to_string().contains("unpacks to more than 400000 bytes"), "{format}: {error}");
        assert!(fs::metadata(dir.path().join("root/b")).unwrap().len() <= 100_000, "{format}");
        unpack(&bytes, 600_000, &[]).1.unwrap();
    }
}

#[test]
fn only_wanted_paths_are_unpacked() {
    let entries =
        [Regular("./firmware/gsp.bin", b"1"), Regular("firmware-x", b"2"), Regular("libx.so", b"3")];
    for (format, make) in FORMATS {
        let (dir, files) = unpack(&make(&entries), 1, &["firmware".to_owned()]);
        let files = files.unwrap();
        assert_eq!(
            files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
            ["firmware/gsp.bin"],
            "{format}"
        );
        assert!(!dir.path().join("root/libx.so").exists(), "{format}");
    }
}

#[test]
fn truncated_archive_is_an_error_without_a_panic() {
    static CONTENT: [u8; 4000] = [7; 4000];
    for (format, make) in FORMATS {
        let bytes = make(&[Regular("x", &CONTENT), Regular("y", &CONTENT)]);
        for part in 1..20 {
            let cut = bytes.len() * part / 20;
            let (_dir, result) = unpack(&bytes[..cut], MAX_UNPACKED, &[]);
            // A file that is too short to be an archive is a plain file; an archive that only lacks
            // its end is complete.
            if let Ok(files) = result {
                let whole = files.iter().all(|file| file.size == 4000);
                assert!(whole || files[0].path == "archive", "{format} cut at {cut}: {files:?}");
            }
        }
    }
    let (_dir, result) = unpack(&tar_of(&[Regular("x", &CONTENT)])[..2000], MAX_UNPACKED, &[]);
    assert!(result.unwrap_err().to_string().contains("truncated"));
}

#[test]
fn file_that_is_not_an_archive_is_one_file() {
    let (dir, files) = unpack(b"\x7fELF and so on", MAX_UNPACKED, &[]);
    assert_eq!(files.unwrap()[0].path, "archive");
    assert!(dir.path().join("root/archive").is_file());
}
