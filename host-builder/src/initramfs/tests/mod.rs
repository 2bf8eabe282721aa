//! Tests with archives of real tools, and with hostile ones.

mod extraction;
mod hostile;
mod kernel;
mod segments;

use super::cpio::{Entry, Writer, kind};
use super::*;
use crate::common::error::Result;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// An archive with a file of each kind that does not require root, and one large file.
fn sample(name: &str) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.directory(name, 0o755).unwrap();
    let ballast: Vec<u8> = (0..300_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
    let path = format!("{name}/large");
    writer.file(&path, 0o644, ballast.len() as u64, &mut &ballast[..]).unwrap();
    writer.link(&format!("{name}/link"), "large").unwrap();
    writer.finish().unwrap()
}

fn file(name: &[u8], mode: u32, content: &[u8]) -> (Entry, Vec<u8>) {
    let size = u32::try_from(content.len()).unwrap();
    let entry = Entry { name: name.to_vec(), mode, links: 1, size, ..Entry::default() };
    (entry, content.to_vec())
}

fn pack(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in entries {
        writer.entry(entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// The output of a program for an input. The programs come from Debian packages that tests/run
/// installs.
fn through(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    output.stdout
}

/// Each compression, with a program that makes it.
const PROGRAMS: [(Compression, &str, &[&str]); 8] = [
    (Compression::Gzip, "gzip", &["-c"]),
    (Compression::Xz, "xz", &["-c", "--check=crc32"]),
    (Compression::Zstd, "zstd", &["-c", "-q"]),
    (Compression::Lz4, "lz4", &["-c", "-l", "-q"]),
    (Compression::Bzip2, "bzip2", &["-c"]),
    (Compression::Lzma, "xz", &["-c", "--format=lzma"]),
    (Compression::Lzop, "lzop", &["-c"]),
    (Compression::None, "cat", &[]),
];

fn compressed(with: Compression, bytes: &[u8]) -> Vec<u8> {
    let (_, program, args) = PROGRAMS.into_iter().find(|(compression, ..)| *compression == with).unwrap();
    through(program, args, bytes)
}

fn read(bytes: &[u8]) -> Result<Contents> {
    Archive::of_bytes("image", bytes.to_vec()).read(&Want { digests: true, keep: &|_| false })
}

fn names(bytes: &[u8]) -> Vec<String> {
    read(bytes).unwrap().items.iter().map(|item| item.entry.text().into_owned()).collect()
}

fn fault(bytes: &[u8]) -> String {
    let error = read(bytes).err().expect("it is refused");
    assert!(error.remedy().is_some(), "{error} has no remedy");
    error.chain()
}
