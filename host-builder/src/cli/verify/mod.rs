//! `verify`: checks every file of an image against its manifest, and the manifest against a lock.

mod difference;
mod disk;
mod packages;
mod payload;
#[cfg(test)]
mod tests;

use self::difference::Difference;
use self::packages::Compared;
use super::list::kind_name;
use crate::artifacts::cache::Cache;
use crate::cli::arguments::DEFAULT_LOCK;
use crate::common::clean::clean;
use crate::common::digest::sha256_file;
use crate::common::error::{Error, Result};
use crate::common::files::Scratch;
use crate::common::ui::{Ui, megabytes, print_as_json, print_wrapped};
use crate::doctor::ImageFileSystem;
use crate::doctor::file_systems::Programs;
use crate::initramfs::cpio::kind;
use crate::initramfs::manifest::{is_manifest, required};
use crate::initramfs::{Archive, BootConfig, Contents, Item, Tree, Want, absolute, take_one};
use crate::pins::lock::Lock;
use crate::resolve::sources::Access;
use clap::Args;
use image::layout;
use image::manifest::{File, Kind, Manifest, Payload};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) const VERIFY_HELP: &str = "\
Examples:
  host-builder verify out/initrd.img
  host-builder verify out/initrd.img --lock initrd.lock
  host-builder verify out/initrd.img --payload out/driver.img
  host-builder verify out/initrd.img --sha256 $(cat initrd.sha256)

Exit codes: 0 everything matches, 1 something differs, 2 the file is not an initramfs, or has no manifest of this tool.";

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The initrd.
    pub image: PathBuf,
    /// Lock that the initrd must have been built from: every package, the kernel, the driver and
    /// the profile are compared. Files are compared with those of cached packages; files of other
    /// packages are reported as unchecked.
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// Directory written by `pins vendor`, for packages that are not in the cache.
    #[arg(long, value_name = "DIR", requires = "lock")]
    pub mirror: Option<PathBuf>,
    /// Payload disk of the initrd. Its size, its file system with every file in it, and its hash
    /// tree are checked.
    #[arg(long, value_name = "DISK")]
    pub payload: Option<PathBuf>,
    /// Expected SHA-256 of the initrd, from a place that an attacker cannot change. Without it,
    /// only damage is detected: an attacker who can write the initrd can also write its manifest.
    #[arg(long, value_name = "DIGEST")]
    pub sha256: Option<String>,
    /// Expected PID 1 [default: the guest-init built into this program].
    #[arg(long, value_name = "FILE")]
    pub guest_init: Option<PathBuf>,
    /// Print the differences as JSON to standard output.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &Verify) -> Result<ExitCode> {
    let lock = args.lock.as_deref().map(read_lock).transpose()?;
    let archive = Archive::open(&args.image)?;
    let contents = archive.read(&Want { digests: true, keep: &is_manifest })?;
    let tree = contents.tree();
    let (manifest, _) = required(&tree, &args.image)?;
    let sha256 = sha256_file(&args.image)?;
    let mut differences = against_manifest(&contents, &tree, &manifest);
    let guest_init = match &args.guest_init {
        Some(program) => sha256_file(program)?,
        None => crate::common::digest::sha256(crate::GUEST_INIT),
    };
    differences.extend(against_tool(&manifest, &guest_init));
    if let Some(wanted) = args.sha256.as_ref().filter(|wanted| !wanted.eq_ignore_ascii_case(&sha256)) {
        differences.push(Difference::new("the image", "its sha256", wanted, &sha256));
    }
    if let Some(disk) = &args.payload {
        differences.extend(disk::against(&manifest, disk)?);
    }
    let mut checked = Checked::default();
    if let Some(lock) = &lock {
        differences.extend(against_lock(&manifest, lock));
        let (cache, ui) = (Cache::open()?, Ui::new(args.json));
        let access = Access { offline: true, mirror: args.mirror.as_deref(), ..Access::new(&cache, &ui) };
        let (found, compared) = packages::against(&manifest, lock, access)?;
        differences.extend(found);
        checked.packages = Some(compared);
    }
    checked.payload = match against_payload(args, &archive, &tree, &manifest)? {
        None => None,
        Some(Ok(found)) => {
            differences.extend(found);
            Some(Ok(manifest.files.iter().filter(|file| file.payload).count()))
        }
        Some(Err(why)) => Some(Err(why.chain())),
    };
    if args.json {
        let report = serde_json::json!({
            "image": args.image, "sha256": sha256, "lock": args.lock, "payload": args.payload,
            "good": differences.is_empty(), "entries": contents.items.len(), "files": manifest.archived().count(),
            "bytes": manifest.unpacked_bytes(), "differences": differences,
            "files_of_packages": checked.packages.as_ref().map(|compared| compared.same),
            "files_unchecked": checked.packages.as_ref().map(|compared| &compared.unchecked),
            "files_of_payload": checked.payload.as_ref().and_then(|read| read.as_ref().ok()),
            "payload_unchecked": checked.payload.as_ref().and_then(|read| read.as_ref().err()),
        });
        print_as_json(&report);
    } else {
        let entries = contents.items.len();
        print_wrapped(&text(&manifest, args, (entries, &sha256), &differences, &checked));
    }
    Ok(ExitCode::from(u8::from(!differences.is_empty())))
}

/// Checks against sources other than the image itself.
#[derive(Default)]
struct Checked {
    /// With a lock: the comparison of files with those of their packages.
    packages: Option<Compared>,
    /// If the driver is in an EROFS image: the number of files that were read from it, or why none
    /// were.
    payload: Option<std::result::Result<usize, String>>,
}

/// Reads the files from the driver's image, if there is one and it is available. `Some(Err)`: no
/// program can read it, or it is damaged, which its digest shows.
fn against_payload(
    args: &Verify,
    archive: &Archive,
    tree: &Tree,
    manifest: &Manifest,
) -> Result<Option<Result<Vec<Difference>>>> {
    let work = Scratch::new(&std::env::temp_dir())?;
    let image = match (&manifest.payload, &args.payload) {
        (Payload::Disk { .. }, Some(disk)) => disk.clone(),
        (Payload::Image { path, .. }, _) => {
            let place = work.path().join("payload");
            // One that is not there is a difference already.
            if !take_one(archive, tree, path, &place)? {
                return Ok(None);
            }
            place
        }
        _ => return Ok(None),
    };
    let lock = args.lock.as_deref().unwrap_or(Path::new(DEFAULT_LOCK));
    let look = || {
        let kind = ImageFileSystem::of(&image)?;
        let (cache, ui) = (Cache::open()?, Ui::new(args.json));
        let access = Access { offline: true, mirror: args.mirror.as_deref(), ..Access::new(&cache, &ui) };
        let tools = Programs { lock, profile: None, access }.of(kind, &image)?;
        payload::against(manifest, &image, work.path(), (kind, &tools))
    };
    Ok(Some(look()))
}

fn read_lock(path: &Path) -> Result<Lock> {
    Lock::read(path)?.ok_or_else(|| {
        Error::new(format!("{}: expected a lock, found no file", path.display()))
            .hint("pass the lock that the initrd was built from: --lock FILE")
    })
}

fn text(
    manifest: &Manifest,
    args: &Verify,
    (entries, sha256): (usize, &str),
    differences: &[Difference],
    checked: &Checked,
) -> String {
    let mut text = String::new();
    for Difference { of, what, expected, found } in differences {
        let line = format!("{of}: {what}: expected {expected}, found {found}");
        text.push_str(&format!("{}\n", clean(&line, 2048)));
    }
    let size = megabytes(manifest.unpacked_bytes());
    let with = args.lock.as_ref().map(|lock| format!(" and of {}", lock.display())).unwrap_or_default();
    let disk = match (&manifest.payload, &args.payload) {
        (_, Some(disk)) => format!("; {} is its payload disk", disk.display()),
        (Payload::Disk { .. }, None) => "; its payload disk was NOT checked (--payload DISK)".to_owned(),
        _ => String::new(),
    };
    let result = match differences.len() {
        0 => format!("good: {entries} entries with {size} match the manifest{with}{disk}\n"),
        1 => "1 difference\n".to_owned(),
        count => format!("{count} differences\n"),
    };
    let proof = match &args.sha256 {
        Some(_) => "",
        None => {
            "this check detects damage, but not an attacker: pass the expected sha256 from a trusted place (--sha256)\n"
        }
    };
    format!("{text}{result}{}sha256 {sha256}\n{proof}", checked.text())
}

impl Checked {
    fn text(&self) -> String {
        let mut text = String::new();
        if let Some(Compared { same, unchecked }) = &self.packages {
            text.push_str(&format!("{same} files match those of their packages\n"));
            for (origin, count) in unchecked {
                let line = format!(
                    "{origin} (files: {count}) is UNCHECKED: it is neither in the cache nor in a mirror (--mirror DIR)"
                );
                text.push_str(&format!("{}\n", clean(&line, 2048)));
            }
        }
        match &self.payload {
            Some(Ok(count)) => text.push_str(&format!("{count} files of the payload were checked\n")),
            Some(Err(why)) => {
                text.push_str(&format!(
                    "the single files of the payload are UNCHECKED: {}\n",
                    clean(why, 2048)
                ));
            }
            None => {}
        }
        text
    }
}

/// Files whose origin is the tool itself: only PID 1, directories and the image of the payload may
/// have it, because the image itself states the origin.
pub fn against_tool(manifest: &Manifest, guest_init: &str) -> Vec<Difference> {
    let mut differences = Vec::new();
    for file in manifest.files.iter().filter(|file| file.origin == manifest.builder) {
        match &file.kind {
            Kind::File { sha256, .. } if file.path == layout::INIT && sha256 != guest_init => {
                let what = "the sha256 of PID 1";
                differences.push(Difference::new(&file.path, what, guest_init, sha256));
            }
            Kind::File { .. } if file.path == layout::INIT => {}
            Kind::File { .. } | Kind::Link { .. } if !is_payload_image(manifest, &file.path) => {
                let found = format!("{}, whose only file is PID 1", file.origin);
                differences.push(Difference::new(&file.path, "its origin", "an artifact", &found));
            }
            _ => {}
        }
    }
    let init = manifest.files.iter().find(|file| file.path == layout::INIT);
    if init.is_none_or(|init| init.origin != manifest.builder) {
        let found = init.map_or("none", |init| &init.origin);
        differences.push(Difference::new(layout::INIT, "its origin", &manifest.builder, found));
    }
    differences
}

fn is_payload_image(manifest: &Manifest, path: &str) -> bool {
    matches!(&manifest.payload, Payload::Image { path: image, .. } if image == path)
}

/// Compares every entry with the manifest, in both directions.
pub fn against_manifest(contents: &Contents, tree: &Tree, manifest: &Manifest) -> Vec<Difference> {
    let mut found: BTreeMap<String, Vec<&Item>> = BTreeMap::new();
    let mut differences = Vec::new();
    for item in &contents.items {
        let path = String::from_utf8_lossy(&absolute(&item.entry.name)).into_owned();
        found.entry(path).or_default().push(item);
    }
    for file in manifest.archived() {
        match found.remove(&file.path) {
            Some(items) => {
                // Each segment brings the directories that its files are in.
                if items.len() > 1 && file.kind != Kind::Directory {
                    differences.push(Difference::new(&file.path, "entries of this path", "one", "several"));
                }
                for item in items {
                    entry(file, item, &mut differences);
                }
            }
            None => differences.push(Difference::new(&file.path, "the entry", "one", "none")),
        }
    }
    found.remove(layout::MANIFEST);
    for remark in &tree.remarks {
        let name = contents.items[remark.item].entry.text();
        let found = format!("it {}", remark.what);
        differences.push(Difference::new(&name, "what the kernel unpacks", "the entry as stored", &found));
    }
    if let Some(BootConfig { offset, size }) = contents.boot_config {
        let found = format!("{size} bytes at offset {offset}, which kernels strip or try to unpack");
        differences.push(Difference::new("the image", "boot configuration at its end", "none", &found));
    }
    for (path, items) in found {
        let what = kind_name(items[0].entry.kind());
        differences.push(Difference::new(&path, "an entry that is not in the manifest", "none", what));
    }
    differences.extend(modules(manifest));
    differences
}

fn entry(file: &File, item: &Item, differences: &mut Vec<Difference>) {
    let (expected, entry) = (expected_kind(&file.kind), &item.entry);
    let mut hold = |what, expected: String, found: String| {
        if expected != found {
            differences.push(Difference { of: file.path.clone(), what, expected, found });
        }
    };
    hold("its kind", kind_name(expected).into(), kind_name(entry.kind()).into());
    hold("its mode", format!("{:04o}", file.mode), format!("{:04o}", entry.mode & 0o7777));
    hold("its owner and group", "0:0".into(), format!("{}:{}", entry.uid, entry.gid));
    match &file.kind {
        Kind::Directory => {}
        Kind::Link { target } => {
            let found = item.target.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            hold("its target", target.clone(), found.into_owned());
        }
        Kind::File { size, sha256 } => {
            hold("its size", size.to_string(), entry.size.to_string());
            hold("its sha256", sha256.clone(), item.sha256.clone().unwrap_or_default());
        }
    }
}

fn expected_kind(of: &Kind) -> u32 {
    match of {
        Kind::Directory => kind::DIRECTORY,
        Kind::File { .. } => kind::FILE,
        Kind::Link { .. } => kind::LINK,
    }
}

/// Compares the modules that the guest will load with the files in the image.
fn modules(manifest: &Manifest) -> Vec<Difference> {
    let files: BTreeSet<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let absent = manifest.modules.iter().filter(|module| !files.contains(module.path.as_str()));
    absent.map(|module| Difference::new(&module.path, "the file of a module", "one", "none")).collect()
}

/// Compares the sources in the manifest with the lock.
pub fn against_lock(manifest: &Manifest, lock: &Lock) -> Vec<Difference> {
    let driver = manifest.driver.as_ref().map_or("none", |driver| driver.version.as_str());
    let pairs = [
        ("the profile", lock.profile.as_str(), manifest.profile.as_str()),
        ("the kernel's release", &lock.kernel_release, &manifest.kernel_release),
        ("the driver's version", &lock.driver, driver),
    ];
    let mut differences: Vec<_> = pairs
        .into_iter()
        .filter(|(_, locked, stated)| locked != stated)
        .map(|(what, locked, stated)| Difference::new("the manifest", what, locked, stated))
        .collect();
    let origins: BTreeSet<_> = manifest.files.iter().map(|file| file.origin.as_str()).collect();
    // What several artifacts bring together names them all.
    let origins: BTreeSet<_> = origins.into_iter().flat_map(|origin| origin.split(", ")).collect();
    for origin in origins.into_iter().filter(|origin| {
        *origin != manifest.builder && !lock.artifact.iter().any(|artifact| artifact.is_origin(origin))
    }) {
        let found = match versions(origin, lock) {
            versions if versions.is_empty() => "no package of that name".to_owned(),
            versions => format!("version {}", versions.join(", ")),
        };
        differences.push(Difference::new("the lock", "an artifact of the image", origin, &found));
    }
    differences
}

/// Versions of an origin's package in the lock.
fn versions(origin: &str, lock: &Lock) -> Vec<String> {
    let name = origin.split([' ', ':']).next().unwrap_or(origin);
    lock.artifact
        .iter()
        .filter(|artifact| artifact.name == name)
        .map(|artifact| artifact.origin()[name.len()..].trim_start().to_owned())
        .collect()
}
