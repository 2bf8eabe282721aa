//! Finds the driver's files in its unpacked packages.

use super::selected::{Destination, Selected, reason};
use super::wanted::WantedFile;
use crate::artifacts::tree::Tree;
use crate::artifacts::unpack::Unpacked;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::base_name;
use crate::common::plain;
use image::capability::Capability;
use image::elf::{self, Class, Elf};
use image::layout;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of a script's first line that are shown.
const MAX_LINE: usize = 80;

/// The width of a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// The width of the kernel.
    Native,
    /// 32 bits, in addition to 64.
    Compat32,
}

impl Width {
    /// The directory for libraries of this width.
    pub fn library_dir(self) -> &'static str {
        match self {
            Self::Native => layout::DRIVER_LIB_DIR,
            Self::Compat32 => layout::DRIVER_LIB32_DIR,
        }
    }

    /// The capabilities of a file with this width, for given capabilities of its 64-bit form.
    pub fn capabilities(self, capabilities: &[Capability]) -> Vec<Capability> {
        match self {
            Self::Native => capabilities.to_vec(),
            // The list stays sorted, because compat32 sorts first.
            Self::Compat32 => [&[Capability::Compat32], capabilities].concat(),
        }
    }

    fn class(self) -> Class {
        match self {
            Self::Native => Class::Elf64,
            Self::Compat32 => Class::Elf32,
        }
    }
}

/// A file that was found.
#[derive(Debug)]
pub struct FoundFile {
    /// The file to pack.
    pub file: Selected,
    /// Its width.
    pub width: Width,
    /// Its ELF headers, if it is a library or a program.
    pub elf: Option<Elf>,
}

impl FoundFile {
    /// Whether a loader or a link finds this file by the name.
    pub fn answers_to(&self, name: &str) -> bool {
        base_name(&self.file.path) == name
            || self.elf.as_ref().and_then(|elf| elf.soname.as_deref()).is_some_and(|s| s == name.as_bytes())
    }
}

/// Finds the file in the packages.
pub fn find(trees: &[Tree], wanted: &WantedFile, width: Width, driver: &str) -> Result<Option<FoundFile>> {
    let mut other = None;
    for (tree, file) in candidates(trees, wanted, driver) {
        match found(tree, file, wanted, width)? {
            Ok(found) => return Ok(Some(found)),
            Err(error) => other = other.or(Some(error)),
        }
    }
    match other {
        // Artifacts with the whole driver have libraries of both widths, or of one.
        Some(error) if width == Width::Native => Err(error),
        _ => Ok(None),
    }
}

/// Returns the file, or an error if it has another width.
fn found(
    tree: &Tree,
    file: &Unpacked,
    wanted: &WantedFile,
    width: Width,
) -> Result<std::result::Result<FoundFile, Error>> {
    let name = base_name(&file.path);
    let path = match &wanted.place {
        Destination::Library("") => format!("{}/{name}", width.library_dir()),
        Destination::Library(dir) => format!("{}/{dir}/{name}", width.library_dir()),
        Destination::Program => format!("{}/{name}", layout::DRIVER_BIN_DIR),
        Destination::Data(path) => format!("{}{path}", layout::DRIVER_DATA_DIR),
    };
    let capabilities = width.capabilities(&wanted.capabilities);
    let file = Selected {
        source: tree.path(file),
        path,
        file: file.clone(),
        origin: tree.origin.clone(),
        reason: reason(&capabilities),
        capabilities,
        soname: None,
        glibc: None,
    };
    let is_elf = !matches!(wanted.place, Destination::Data(_)) || file.path.contains(".so");
    if !is_elf {
        return Ok(Ok(FoundFile { file, width, elf: None }));
    }
    let is_library = matches!(wanted.place, Destination::Library(_));
    Ok(read(&file, width)?.map(|(elf, glibc)| {
        let soname = elf.soname.as_deref().filter(|_| is_library);
        let soname = soname.map(|name| String::from_utf8_lossy(name).into_owned());
        FoundFile { file: Selected { soname, glibc, ..file }, width, elf: Some(elf) }
    }))
}

/// Candidates for a file. A data file at its own path comes first, because names such as
/// `nvidia_icd.json` occur twice.
fn candidates<'a>(trees: &'a [Tree], wanted: &WantedFile, driver: &str) -> Vec<(&'a Tree, &'a Unpacked)> {
    let files = || trees.iter().flat_map(|tree| tree.files.iter().map(move |file| (tree, file)));
    // A service has a script with the name of its program in /etc/init.d.
    let program = |file: &Unpacked| file.executable && !file.path.starts_with("etc/");
    let named = |file: &Unpacked| {
        wanted.is(base_name(&file.path), driver) && (wanted.place != Destination::Program || program(file))
    };
    let at_its_path =
        |file: &Unpacked| matches!(&wanted.place, Destination::Data(path) if path[1..] == file.path);
    let (first, rest): (Vec<_>, Vec<_>) =
        files().filter(|(_, file)| at_its_path(file) || named(file)).partition(|(_, file)| at_its_path(file));
    [first, rest].concat()
}

/// What a loader needs to know of an ELF file: its headers, and the newest glibc that it requires.
type Facts = (Elf, Option<(u32, u32)>);

fn read(file: &Selected, width: Width) -> Result<std::result::Result<Facts, Error>> {
    let source = plain::open(&file.source).doing("opening", &file.source)?;
    if let Some(line) = script(&source).doing("reading", &file.source)? {
        let message = format!(
            "{}: expected a program or library of the driver, found a script ({line})",
            file.source.display()
        );
        return Ok(Err(Error::new(message).hint(
            "this package only has a wrapper: add the package with the driver's own program, or leave the capability out",
        )));
    }
    let elf = elf::read(&source).map_err(|error| {
        Error::new(format!("{}: expected an ELF file", file.source.display()))
            .source(error)
            .hint("its package is damaged: remove the cache's trees directory and run again")
    })?;
    if elf.class == width.class() {
        let glibc = elf::glibc_needed(&source).map_err(|error| {
            Error::new(format!("{}: cannot read its symbol versions", file.source.display())).source(error)
        })?;
        return Ok(Ok((elf, glibc)));
    }
    let message = format!("{}: expected {:?}, found {:?}", file.source.display(), width.class(), elf.class);
    Ok(Err(Error::new(message)
        .hint("32-bit packages belong in a list `compat32` of the profile, others in `packages`")))
}

/// Returns the first line of a script.
fn script(file: &File) -> std::io::Result<Option<String>> {
    let mut start = [0; MAX_LINE];
    let got = file.read_at(&mut start, 0)?;
    let line = start[..got].split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line.starts_with(b"#!").then(|| String::from_utf8_lossy(line).trim().to_owned()))
}
