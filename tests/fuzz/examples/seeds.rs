//! Writes the seeds that are not text: `cargo run --example seeds`, in this directory.

use std::fs;
use std::process::Command;

use host_builder::initramfs::cpio;
use image::ldcache::{Extensions, Layout, Library, encode};

/// Numbers of one file, in its width and byte order.
struct Writer {
    wide: bool,
    big: bool,
    out: Vec<u8>,
}

impl Writer {
    fn number(&mut self, value: u64, len: usize) {
        let bytes = value.to_le_bytes();
        let bytes = bytes[..len].iter().copied();
        if self.big { self.out.extend(bytes.rev()) } else { self.out.extend(bytes) }
    }

    fn word(&mut self, value: u64) {
        self.number(value, if self.wide { 8 } else { 4 });
    }
}

/// A shared object with a dynamic section, an interpreter, an ABI note, and one section of this
/// name.
fn elf(wide: bool, big: bool, machine: u64, section: &str, content: &[u8]) -> Vec<u8> {
    let (header, segment, section_header) = if wide { (64, 56, 64) } else { (52, 32, 40) };
    let word = if wide { 8 } else { 4 };
    let strings = b"\0libseed.so.1\0libc.so.6\0$ORIGIN/lib\0/lib64/ld-linux-x86-64.so.2\0".to_vec();
    let dynamic = [(14, 1), (1, 14), (29, 24), (0x6fff_fffb, 8), (5, 0), (10, strings.len() as u64), (0, 0)];
    let note = header + 4 * segment;
    let dynamic_at = note + 32;
    let strings_at = dynamic_at + dynamic.len() as u64 * 2 * word;
    let content_at = strings_at + strings.len() as u64;
    let names = [b"\0", section.as_bytes(), b"\0"].concat();
    let names_at = content_at + content.len() as u64;
    let sections_at = names_at + names.len() as u64;
    let end = sections_at + 3 * section_header;

    let mut w = Writer { wide, big, out: b"\x7fELF".to_vec() };
    w.out.extend([if wide { 2 } else { 1 }, if big { 2 } else { 1 }, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (value, len) in [(3, 2), (machine, 2), (1, 4)] {
        w.number(value, len);
    }
    for value in [0, header, sections_at] {
        w.word(value);
    }
    w.number(0, 4);
    for value in [header, segment, 4, section_header, 3, 2] {
        w.number(value, 2);
    }
    let interp = strings_at + 36;
    let parts = [(1, 0, end), (2, dynamic_at, strings_at - dynamic_at), (3, interp, 28), (4, note, 32)];
    for (kind, at, len) in parts {
        w.number(kind, 4);
        if wide {
            w.number(4, 4);
        }
        for value in [at, at, at, len, len] {
            w.word(value);
        }
        if !wide {
            w.number(4, 4);
        }
        w.word(4);
    }
    for value in [4, 16, 1, 0x55_4e47, 0, 3, 2, 0] {
        w.number(value, 4);
    }
    for (tag, value) in dynamic {
        w.word(tag);
        w.word(if tag == 5 { strings_at } else { value });
    }
    w.out.extend(strings);
    w.out.extend(content);
    w.out.extend(&names);
    let sections = [(0, 0, 0), (1, content_at, content.len() as u64), (1, names_at, names.len() as u64)];
    for (name, at, len) in sections {
        w.number(name, 4);
        w.number(1, 4);
        for value in [0, 0, at, len] {
            w.word(value);
        }
        w.number(0, 4);
        w.number(0, 4);
        w.word(4);
        w.word(0);
    }
    assert_eq!(w.out.len() as u64, end);
    w.out
}

/// NVIDIA's note about forward compatibility.
fn compat_note() -> Vec<u8> {
    let json = br#"{"Format": 1, "CUDA Version": "13.1", "Driver": [535, 550]}"#;
    let mut note = [19_u32, u32::try_from(json.len()).unwrap_or_default(), 1].map(u32::to_le_bytes).concat();
    note.extend(b"NVIDIA Corporation\0\0");
    note.extend(json);
    note
}

fn libraries() -> Vec<Library> {
    let library = |key: &str, dir: &str, flags, hwcaps: Option<&str>| Library {
        key: key.into(),
        value: format!("{dir}/{key}").into(),
        flags,
        hwcaps: hwcaps.map(Into::into),
        isa_level: u32::from(hwcaps.is_some()),
        ..Library::default()
    };
    vec![
        library("libc.so.6", "/lib/x86_64-linux-gnu", 0x303, None),
        library("libcuda.so.1", "/usr/lib/x86_64-linux-gnu", 0x303, None),
        library("libcuda.so.1", "/usr/lib32", 3, None),
        library("libh.so.10", "/opt/a/glibc-hwcaps/x86-64-v3", 0x303, Some("x86-64-v3")),
        library("libh.so.9", "/opt/a", 0x303, None),
    ]
}

/// An archive of a directory, a file with two names, a link and a device, with or without
/// checksums.
fn archive(checksums: bool) -> std::io::Result<Vec<u8>> {
    let mut writer = cpio::Writer::new(Vec::new());
    let entries: [(&[u8], u32, u32, &[u8]); 5] = [
        (b"dev", 0o040_755, 1, b""),
        (b"dev/null", 0o020_666, 2, b""),
        (b"a", 0o100_644, 3, b""),
        (b"b", 0o100_644, 3, b"hello"),
        (b"link", 0o120_777, 4, b"a"),
    ];
    for (name, mode, inode, content) in entries {
        let sum = content.iter().map(|byte| u32::from(*byte)).sum();
        let size = u32::try_from(content.len()).map_err(std::io::Error::other)?;
        let checksum = checksums.then_some(sum);
        let links = if inode == 3 { 2 } else { 1 };
        let name = name.to_vec();
        let entry = cpio::Entry { name, inode, mode, links, size, checksum, ..cpio::Entry::default() };
        writer.entry(&entry, &mut &content[..])?;
    }
    writer.finish()
}

/// The archive in each kind of compression, and some after each other.
fn images() -> std::io::Result<()> {
    let plain = archive(false)?;
    fs::write("seeds/cpio/plain", &plain)?;
    fs::write("seeds/cpio/checksums", archive(true)?)?;
    fs::write("seeds/segments/plain", &plain)?;
    let mut all = plain;
    let programs = [
        ("gzip", "-c"),
        ("xz", "-c"),
        ("zstd", "-qc"),
        ("lz4", "-lqc"),
        ("bzip2", "-c"),
        ("lzma", "-c"),
        ("lzop", "-c"),
    ];
    for (program, options) in programs {
        let output = Command::new(program).args([options, "seeds/cpio/plain"]).output()?;
        fs::write(format!("seeds/segments/{program}"), &output.stdout)?;
        all.extend(output.stdout);
    }
    fs::write("seeds/segments/all", all)
}

fn main() -> std::io::Result<()> {
    images()?;
    let modinfo = b"license=Dual MIT/GPL\0vermagic=6.12.0 SMP\0depends=a,b\0firmware=x.bin\0";
    for (name, bytes) in [
        ("x86_64", elf(true, false, 62, ".note.cuda.fwd_compatibility", &compat_note())),
        ("i386", elf(false, false, 3, ".modinfo", modinfo)),
        ("aarch64", elf(true, false, 183, ".modinfo", modinfo)),
        ("big-endian", elf(true, true, 22, ".note.cuda.fwd_compatibility", &compat_note())),
    ] {
        fs::write(format!("seeds/elf/{name}"), bytes)?;
    }
    let extensions = Some(Extensions { generator: "seed", names: &[b"x86-64-v3", b"empty"] });
    for (name, layout) in [
        ("glibc-2.31", Layout { old_table: true, ..Layout::default() }),
        ("glibc-2.32", Layout::default()),
        ("glibc-2.36", Layout { byte_order: true, extensions, ..Layout::default() }),
    ] {
        let bytes = encode(libraries(), &layout).map_err(std::io::Error::other)?;
        fs::write(format!("seeds/ld_so_cache/{name}"), bytes)?;
    }
    Ok(())
}
