//! Images that are wrong on purpose: a real initrd is read, changed, and written again.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use host_builder::initramfs::cpio::{Entry, Writer, kind};
use host_builder::initramfs::{Archive, Item, Want};
use image::{layout, manifest::Manifest};

use crate::RigError;

/// A whole initrd in memory.
#[derive(Clone)]
pub struct Variant {
    entries: Vec<(Entry, Vec<u8>)>,
}

impl Variant {
    /// Reads an initrd. An entry that is in several segments (a directory) is kept once.
    pub fn of(initrd: &Path) -> Result<Self, RigError> {
        let all = Archive::open(initrd)?.read(&Want { digests: false, keep: &|_| true })?;
        let mut seen = BTreeSet::new();
        let entries = all.items.into_iter().filter(|item| seen.insert(item.entry.name.clone()));
        let content = |item: Item| (item.entry, item.content.or(item.target).unwrap_or_default());
        Ok(Self { entries: entries.map(content).collect() })
    }

    /// Everything in it, each name once.
    pub fn entries(&self) -> &[(Entry, Vec<u8>)] {
        &self.entries
    }

    /// The content of the file at an absolute path. Panics when there is none.
    pub fn file(&mut self, path: &str) -> &mut Vec<u8> {
        let found = self.entries.iter_mut().find(|(entry, _)| entry.text() == path.trim_start_matches('/'));
        &mut found.unwrap_or_else(|| panic!("the initrd has no {path}")).1
    }

    /// Adds a file, or replaces it, with these permission bits.
    pub fn add(&mut self, path: &str, permissions: u32, content: Vec<u8>) {
        let name = path.trim_start_matches('/');
        self.entries.retain(|(entry, _)| entry.text() != name);
        let entry = Entry { name: name.into(), mode: kind::FILE | permissions, ..Entry::default() };
        self.entries.push((entry, content));
    }

    /// Removes everything whose absolute path begins with `prefix`. Panics when there is nothing.
    pub fn remove(&mut self, prefix: &str) {
        let before = self.entries.len();
        self.entries.retain(|(entry, _)| !entry.text().starts_with(prefix.trim_start_matches('/')));
        assert!(self.entries.len() < before, "the initrd has nothing at {prefix}");
    }

    /// Changes the manifest.
    pub fn edit_manifest(&mut self, edit: impl FnOnce(&mut Manifest)) {
        let bytes = self.file(layout::MANIFEST);
        let mut manifest = Manifest::from_json(bytes).expect("host-builder writes valid manifests");
        edit(&mut manifest);
        *bytes = manifest.to_json();
    }

    /// Writes it, uncompressed: an emulated kernel needs longer to decompress than to read.
    pub fn write(&self, path: &Path) -> Result<(), RigError> {
        let failed = |e| RigError::io("write", path, e);
        let mut writer = Writer::new(BufWriter::new(File::create(path).map_err(failed)?));
        for (entry, content) in &self.entries {
            let permissions = entry.mode & 0o7777;
            match entry.mode & kind::MASK {
                kind::DIRECTORY => writer.directory(&entry.text(), permissions),
                kind::LINK => writer.link(&entry.text(), &String::from_utf8_lossy(content)),
                _ => writer.file(&entry.text(), permissions, content.len() as u64, &mut &content[..]),
            }
            .map_err(failed)?;
        }
        writer.finish().and_then(|mut out| out.flush()).map_err(failed)
    }
}

/// Replaces the one occurrence of `from` by `to`, of the same length. Panics otherwise.
pub fn patch(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len(), "a patch keeps every offset");
    let found: Vec<_> =
        bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from).map(|(at, _)| at).collect();
    assert_eq!(found.len(), 1, "expected {:?} once", String::from_utf8_lossy(from));
    bytes[found[0]..found[0] + to.len()].copy_from_slice(to);
}

/// The manifest in an initrd.
pub fn manifest(initrd: &Path) -> Result<Manifest, RigError> {
    let mut variant = Variant::of(initrd)?;
    Ok(Manifest::from_json(variant.file(layout::MANIFEST)).expect("host-builder writes valid manifests"))
}
