//! RPM packages: a lead, two headers, and a cpio archive in some compression.
//!
//! Source: <https://rpm-software-management.github.io/rpm/manual/format_v4.html>. The headers are
//! skipped: the lock's digest identifies the package, and the archive lists the files.

use super::error::{damaged, refused};
use super::stream::inflate;
use super::unpacker::{MAX_STREAM, Unpacker, open, take_exactly};
use crate::common::error::{Error, Result};
use crate::initramfs::cpio::{Entry, Reader, kind};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const LEAD: usize = 96;
const HEADER_MAGIC: [u8; 3] = [0x8e, 0xad, 0xe8];
/// Maximum size of a header (rpm's own limit for the data of a header is 256 MiB).
const MAX_HEADER: u64 = 256 << 20;
/// Maximum length of a link target.
const MAX_LINK: u32 = 4096;

impl Unpacker<'_> {
    /// Unpacks the files of an RPM package.
    pub fn rpm(&mut self, package: &Path) -> Result<()> {
        let mut input = open(package)?;
        take_exactly(&mut input, LEAD, package)?;
        // The header with the signature is padded to eight bytes, the other one is not.
        let signature = header(&mut input, package)?;
        skip(&mut input, signature.next_multiple_of(8) - signature, package)?;
        header(&mut input, package)?;
        self.cpio(inflate(input, package)?, package)
    }

    fn cpio(&mut self, stream: impl Read, origin: &Path) -> Result<()> {
        let mut reader = Reader::new(stream.take(MAX_STREAM));
        let mut links = HardLinks::default();
        while let Some(entry) = reader.next_entry().map_err(|error| damaged(origin, error))? {
            let raw = Path::new(OsStr::from_bytes(&entry.name));
            let Some(relative) = self.place(raw, origin)? else { continue };
            match entry.mode & kind::MASK {
                kind::DIRECTORY => self.writer.directory(&relative, origin)?,
                kind::FILE if links.waits(&entry, &relative) => {}
                kind::FILE => {
                    self.writer.file(&relative, &mut reader, entry.mode, None, origin)?;
                    for name in links.of(&entry) {
                        self.writer.hard_link(&name, &relative, origin)?;
                    }
                }
                kind::LINK if entry.size <= MAX_LINK => {
                    let mut link = String::new();
                    reader.read_to_string(&mut link).map_err(|error| damaged(origin, error))?;
                    self.writer.symlink(&relative, Path::new(&link), origin)?;
                }
                _ => return Err(refused(origin, raw, "it is not a file, directory or link")),
            }
        }
        // Names of an empty file.
        for (mode, mut names) in links.empty() {
            let first = names.remove(0);
            self.writer.file(&first, &mut io::empty(), mode, None, origin)?;
            for name in names {
                self.writer.hard_link(&name, &first, origin)?;
            }
        }
        Ok(())
    }
}

/// Names of files with several names: the content comes with the last one.
#[derive(Default)]
struct HardLinks(BTreeMap<Number, (u32, Vec<PathBuf>)>);

/// Device and inode, which all names of a file share.
type Number = ((u32, u32), u32);

impl HardLinks {
    /// Whether the content of an entry comes later.
    fn waits(&mut self, entry: &Entry, name: &Path) -> bool {
        let waits = entry.links > 1 && entry.size == 0;
        if waits {
            let (_, names) = self.0.entry((entry.origin, entry.inode)).or_insert((entry.mode, Vec::new()));
            names.push(name.to_owned());
        }
        waits
    }

    /// Takes the names whose content this entry has.
    fn of(&mut self, entry: &Entry) -> Vec<PathBuf> {
        if entry.links < 2 {
            return Vec::new();
        }
        self.0.remove(&(entry.origin, entry.inode)).map(|(_, names)| names).unwrap_or_default()
    }

    /// Takes the names whose content never came, each with its mode.
    fn empty(self) -> impl Iterator<Item = (u32, Vec<PathBuf>)> {
        self.0.into_values()
    }
}

/// Skips one header: magic, version, four reserved bytes, number of index entries, size of the
/// data. Returns its size.
fn header(input: &mut impl Read, package: &Path) -> Result<u64> {
    let intro = take_exactly(input, 16, package)?;
    if intro[..3] != HEADER_MAGIC {
        return Err(Error::new(format!(
            "{}: expected an RPM header, found {:02x?}",
            package.display(),
            &intro[..3]
        ))
        .hint("use an RPM 4 or 6 package; this one is damaged or has another format"));
    }
    let number =
        |at: usize| u64::from(u32::from_be_bytes([intro[at], intro[at + 1], intro[at + 2], intro[at + 3]]));
    let size = number(8) * 16 + number(12);
    if size > MAX_HEADER {
        return Err(Error::new(format!(
            "{}: a header of {size} bytes, expected at most {MAX_HEADER}",
            package.display()
        )));
    }
    skip(input, size, package)?;
    Ok(16 + size)
}

fn skip(input: &mut impl Read, bytes: u64, package: &Path) -> Result<()> {
    let skipped =
        io::copy(&mut input.take(bytes), &mut io::sink()).map_err(|error| damaged(package, error))?;
    if skipped == bytes { Ok(()) } else { Err(damaged(package, "it ends inside a header")) }
}
