//! Unpacks the entries of an image in memory, with the kernel's rules for names, links, kinds and
//! hard links.
//!
//! Source: init/initramfs.c of Linux; comments name its functions. An entry that the kernel does
//! not unpack as stored gets a [`Remark`], because a list of the entries does not show the result.

use super::contents::{Contents, Item};
use super::cpio::kind;
use super::tree::{Left, Remark, Tree};
use super::walk::EntryPosition;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, HashMap};

/// Most links in the resolution of a path (the kernel's `MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Longest part of a path (`NAME_MAX`).
const MAX_PART: usize = 255;

impl Contents {
    /// The files after the kernel has unpacked everything.
    pub fn tree(&self) -> Tree<'_> {
        Tree::of(self)
    }
}

impl<'a> Tree<'a> {
    /// The result of unpacking all entries in order.
    pub fn of(contents: &'a Contents) -> Self {
        let mut unpacker = Unpacker::new(&contents.items);
        for at in 0..contents.items.len() {
            unpacker.entry(at);
        }
        unpacker.finish()
    }
}

type Id = usize;

/// The root directory's number.
const ROOT: Id = 0;

/// A file of any kind.
struct Inode {
    /// The entry with mode and owner; `None` if the kernel made the file itself.
    attributes: Option<usize>,
    /// The entry with kind, content, target and device.
    content: Option<usize>,
    kind: u32,
    /// Entries of a directory.
    children: BTreeMap<Vec<u8>, Id>,
    /// Parent of a directory.
    parent: Id,
    /// Number of its names.
    names: usize,
}

/// What all names of one file have in common; `find_link` searches for it. The kernel forgets it at
/// the end of an archive.
type Link = (EntryPosition, (u32, u32), u32, u32);

struct Unpacker<'a> {
    items: &'a [Item],
    inodes: Vec<Inode>,
    links: HashMap<Link, &'a [u8]>,
    remarks: Vec<Remark>,
}

impl<'a> Unpacker<'a> {
    fn new(items: &'a [Item]) -> Self {
        let mut new = Self { items, inodes: Vec::new(), links: HashMap::new(), remarks: Vec::new() };
        new.inode(kind::DIRECTORY, None, ROOT);
        // default_rootfs: the files before any initramfs, in kernels without a built-in one.
        for name in ["dev", "root"] {
            let id = new.inode(kind::DIRECTORY, None, ROOT);
            new.inodes[ROOT].children.insert(name.into(), id);
        }
        let (dev, console) =
            (new.inodes[ROOT].children[b"dev".as_slice()], new.inode(kind::CHARACTER, None, ROOT));
        new.inodes[dev].children.insert(b"console".to_vec(), console);
        new
    }

    fn inode(&mut self, kind: u32, item: Option<usize>, parent: Id) -> Id {
        self.inodes.push(Inode {
            attributes: item,
            content: item,
            kind,
            children: BTreeMap::new(),
            parent,
            names: 1,
        });
        self.inodes.len() - 1
    }

    fn remark(&mut self, item: usize, what: impl Into<String>) {
        self.remarks.push(Remark { item, what: what.into() });
    }

    /// `do_name` and `do_symlink`.
    fn entry(&mut self, at: usize) {
        let entry = &self.items[at].entry;
        let (parent, name) = match self.place(ROOT, &entry.name, &mut 0) {
            Ok(place) => place,
            Err(why) => {
                // The number is still recorded for entries that link to it.
                self.seen_before(at);
                return self.remark(at, format!("is left out: {why}"));
            }
        };
        if matches!(name, b"" | b"." | b"..") {
            return self.existing_directory(at, parent, name);
        }
        let slash = entry.name.ends_with(b"/");
        if slash && entry.kind() != kind::DIRECTORY {
            return self.remark(at, "is left out: its name ends with a slash, but it is not a directory");
        }
        match entry.kind() {
            kind::DIRECTORY => self.directory(at, parent, name),
            kind::FILE => self.file(at, parent, name),
            kind::LINK => self.link(at, parent, name),
            kind::CHARACTER | kind::BLOCK | kind::FIFO | kind::SOCKET => self.device(at, parent, name),
            other => {
                self.clean(parent, name, other);
                self.remark(at, format!("is left out: its mode {:o} has no valid kind", entry.mode));
            }
        }
    }

    /// The directory that contains a path's last part, and that part. `links` counts the followed
    /// links.
    fn place(&self, from: Id, path: &'a [u8], links: &mut usize) -> Result<(Id, &'a [u8]), &'static str> {
        let path = match path.iter().rposition(|byte| *byte != b'/') {
            Some(end) => &path[..=end],
            None if path.is_empty() => return Err("it has no name"),
            None => return Ok((ROOT, b"")),
        };
        // The slash is kept, to distinguish a path from the root.
        let (above, name) =
            path.split_at(path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1));
        if name.len() > MAX_PART {
            return Err("a part of its path is longer than 255 bytes");
        }
        Ok((self.walk(from, above, links)?, name))
    }

    /// The directory that a path leads to.
    fn walk(&self, from: Id, path: &[u8], links: &mut usize) -> Result<Id, &'static str> {
        let mut here = if path.starts_with(b"/") { ROOT } else { from };
        for part in path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
            if part == b".." {
                here = self.inodes[here].parent;
                continue;
            }
            let Some(&next) = self.inodes[here].children.get(part) else {
                return Err("its directory does not exist");
            };
            here = match self.inodes[next].kind {
                kind::DIRECTORY => next,
                kind::LINK => {
                    *links += 1;
                    if *links > MAX_LINKS {
                        return Err("its path has too many links");
                    }
                    self.walk(here, self.target(next), links)?
                }
                _ => return Err("its path leads through a file"),
            };
        }
        Ok(here)
    }

    fn target(&self, id: Id) -> &'a [u8] {
        self.inodes[id].content.map(|at| self.target_of(at)).unwrap_or_default()
    }

    fn target_of(&self, at: usize) -> &'a [u8] {
        self.items[at].target.as_deref().unwrap_or_default()
    }

    /// Removes a file to make room, except a directory with content (`clean_path`). Returns `false`
    /// if the file stays.
    fn clean(&mut self, parent: Id, name: &[u8], unless: u32) -> bool {
        let Some(&found) = self.inodes[parent].children.get(name) else { return true };
        let inode = &self.inodes[found];
        if inode.kind == unless {
            return true;
        }
        if inode.kind == kind::DIRECTORY && !inode.children.is_empty() {
            return false;
        }
        self.inodes[parent].children.remove(name);
        true
    }

    fn existing_directory(&mut self, at: usize, parent: Id, name: &[u8]) {
        if self.items[at].entry.kind() != kind::DIRECTORY {
            return self.remark(at, "is left out: it has the name of an existing directory");
        }
        let id = if name == b".." { self.inodes[parent].parent } else { parent };
        self.inodes[id].attributes = Some(at);
    }

    fn directory(&mut self, at: usize, parent: Id, name: &[u8]) {
        self.clean(parent, name, kind::DIRECTORY);
        if let Some(&found) = self.inodes[parent].children.get(name) {
            self.inodes[found].attributes = Some(at);
            self.inodes[found].content.get_or_insert(at);
        } else {
            let id = self.inode(kind::DIRECTORY, Some(at), parent);
            self.inodes[parent].children.insert(name.to_vec(), id);
        }
    }

    fn link(&mut self, at: usize, parent: Id, name: &[u8]) {
        if !self.clean(parent, name, 0) {
            return self.occupied(at);
        }
        let (target, stated) = (self.target_of(at).len(), self.items[at].entry.size as usize);
        if target == 0 {
            self.remark(at, "is a link with an empty target, which only the kernel can create");
        } else if target < stated {
            self.remark(at, "is a link whose target ends at its first zero byte");
        }
        let id = self.inode(kind::LINK, Some(at), parent);
        self.inodes[parent].children.insert(name.to_vec(), id);
    }

    fn occupied(&mut self, at: usize) {
        self.remark(at, "is left out: a directory with content has its name");
    }

    /// `find_link`: the name of an earlier entry of the same file. Without one, this entry is
    /// remembered.
    fn seen_before(&mut self, at: usize) -> Option<&'a [u8]> {
        let Item { place, entry, .. } = &self.items[at];
        if entry.links < 2 || matches!(entry.kind(), kind::DIRECTORY | kind::LINK) {
            return None;
        }
        let key = (*place, entry.origin, entry.inode, entry.kind());
        match self.links.entry(key) {
            Occupied(before) => Some(before.get()),
            Vacant(place) => {
                place.insert(&entry.name);
                None
            }
        }
    }

    /// `maybe_link`: makes the entry another name of an earlier one. Returns `Ok(false)` if there
    /// is no earlier one.
    fn another_name(&mut self, at: usize, parent: Id, name: &[u8]) -> Result<bool, ()> {
        let Some(old) = self.seen_before(at) else { return Ok(false) };
        if !self.clean(parent, name, 0) {
            self.occupied(at);
            return Err(());
        }
        let place = self.place(ROOT, old, &mut 0).ok();
        let found = place.and_then(|(above, last)| self.inodes[above].children.get(last).copied());
        let Some(found) = found.filter(|id| self.inodes[*id].kind != kind::DIRECTORY) else {
            self.remark(at, "is left out: it is another name of a file that does not exist");
            return Err(());
        };
        self.inodes[parent].children.insert(name.to_vec(), found);
        self.inodes[found].names += 1;
        Ok(true)
    }

    fn file(&mut self, at: usize, parent: Id, name: &'a [u8]) {
        let free = self.clean(parent, name, kind::FILE);
        let Ok(linked) = self.another_name(at, parent, name) else { return };
        if !linked && !free {
            return self.occupied(at);
        }
        let (parent, name) = match self.through_links(parent, name) {
            Ok(place) => {
                if place != (parent, name) {
                    self.remark(at, "is another name of a link, and its content is written to the target");
                }
                place
            }
            Err(why) => {
                return self.remark(at, format!("is another name of a link, and nothing is written: {why}"));
            }
        };
        let Some(&id) = self.inodes[parent].children.get(name) else {
            let id = self.inode(kind::FILE, Some(at), parent);
            self.inodes[parent].children.insert(name.to_vec(), id);
            return;
        };
        if self.inodes[id].kind != kind::FILE {
            return self.remark(at, "is another name of something that is not a regular file");
        }
        self.inodes[id].attributes = Some(at);
        let new = &self.items[at];
        // Another name without content changes nothing.
        if linked && new.entry.size == 0 {
            return;
        }
        let others = linked || self.inodes[id].names > 1;
        let Some(before) = self.inodes[id].content.replace(at) else { return };
        let old = &self.items[before];
        let same = old.sha256.is_some() && old.sha256 == new.sha256;
        if others && old.entry.size > 0 && !same {
            let text = new.entry.text().into_owned();
            self.remark(before, format!("gets the content of {text:?}: both are one file by their numbers"));
        }
    }

    /// The destination of opening a name for writing. A link can only be there as another name of
    /// an earlier file.
    fn through_links(&mut self, mut parent: Id, mut name: &'a [u8]) -> Result<(Id, &'a [u8]), &'static str> {
        let mut links = 0;
        while let Some(&found) = self.inodes[parent].children.get(name) {
            if self.inodes[found].kind != kind::LINK {
                break;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err("its path has too many links");
            }
            (parent, name) = self.place(parent, self.target(found), &mut links)?;
            if matches!(name, b"" | b"." | b"..") {
                return Err("it leads to a directory");
            }
        }
        Ok((parent, name))
    }

    fn device(&mut self, at: usize, parent: Id, name: &[u8]) {
        let wanted = self.items[at].entry.kind();
        let free = self.clean(parent, name, wanted);
        if self.another_name(at, parent, name) != Ok(false) {
            return;
        }
        if !free {
            return self.occupied(at);
        }
        let Some(&found) = self.inodes[parent].children.get(name) else {
            let id = self.inode(wanted, Some(at), parent);
            self.inodes[parent].children.insert(name.to_vec(), id);
            return;
        };
        // mknod finds an existing file: only mode and owner are set.
        self.inodes[found].attributes = Some(at);
        let before = *self.inodes[found].content.get_or_insert(at);
        if self.items[before].entry.device != self.items[at].entry.device {
            self.remark(at, "keeps the device numbers of an earlier entry");
        }
    }

    fn finish(mut self) -> Tree<'a> {
        let mut paths = BTreeMap::new();
        let mut open = vec![(Vec::new(), ROOT)];
        while let Some((path, id)) = open.pop() {
            let inode = &self.inodes[id];
            if let (Some(attributes), Some(content)) =
                (inode.attributes.or(inode.content), inode.content.or(inode.attributes))
            {
                let left = Left {
                    entry: &self.items[attributes].entry,
                    item: &self.items[content],
                    number: content,
                    file: id,
                };
                paths.insert(if path.is_empty() { b"/".to_vec() } else { path.clone() }, left);
            }
            for (name, child) in &inode.children {
                open.push(([&path[..], b"/", name].concat(), *child));
            }
        }
        self.remarks.sort_by_key(|remark| remark.item);
        Tree { paths, remarks: self.remarks }
    }
}
