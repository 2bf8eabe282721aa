//! The plan of one image: the manifest, and the source of each file's content. Every check that can
//! fail a build is made here, before any output is written.

use super::select::{Link, Need, Selected, Selection};
use crate::artifacts::tree::Tree;
use crate::common::digest::sha256;
use crate::common::error::{Doing, Error, Result};
use crate::kernel_modules::Index;
use crate::kernel_modules::check::{check_built, check_release};
use crate::kernel_modules::firmware;
use crate::kernel_modules::gpus::{Chosen, is_firmware_of};
use crate::kernel_modules::make::Built;
use crate::kernel_modules::module::{Module, not_a_module, uncompress, uncompressed, underscored};
use crate::pins::lock::Lock;
use crate::pins::profile::{Firmware, NoFirmware, Profile};
use image::capability::Capability;
use image::config::Control;
use image::elf::modinfo;
use image::layout;
use image::manifest::{ASKED_FOR, Driver, File, Kind, Manifest, Module as PlanModule, Payload, Purpose};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Source of a file's content.
pub enum Content {
    /// A file on this machine.
    File(PathBuf),
    /// Bytes in memory.
    Bytes(Vec<u8>),
}

/// Beginnings of aliases with a colon that are not those of devices.
const NOT_DEVICES: [&str; 2] = ["devname:", "symbol:"];
/// Reason of a directory that is only there for its content.
const PARENT: &str = "parent directory";

/// A manifest with the content of its files.
pub struct Plan {
    /// The manifest for the guest.
    pub manifest: Manifest,
    /// Content by path.
    pub contents: BTreeMap<String, Content>,
    /// Libraries that a container must bring.
    pub needs: Vec<Need>,
    /// Notes on what was skipped.
    pub notes: Vec<String>,
}

impl Plan {
    /// Opens the content of a file of the manifest.
    pub fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        match self.contents.get(path) {
            Some(Content::Bytes(bytes)) => Ok(Box::new(&bytes[..])),
            Some(Content::File(source)) => {
                Ok(Box::new(crate::common::plain::open(source).doing("opening", source)?))
            }
            None => Err(Error::new(format!("{path} is in the manifest, but has no content"))),
        }
    }

    /// Replaces the plain files of the payload with `image`, its EROFS image.
    fn carry(&mut self, payload: Payload, image: &Path) {
        if let Payload::Image { path, erofs } = &payload {
            let kind = Kind::File { size: erofs.size, sha256: erofs.sha256.clone() };
            self.contents.insert(path.clone(), Content::File(image.to_owned()));
            self.manifest.files.push(File {
                path: path.clone(),
                kind,
                mode: 0o644,
                origin: crate::NAME.into(),
                reason: "the driver's files".into(),
                capabilities: Vec::new(),
                soname: None,
                glibc: None,
                payload: false,
            });
            self.manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
        }
        self.manifest.payload = payload;
        let needed: BTreeSet<PathBuf> = self
            .manifest
            .archived()
            .filter(|file| file.kind != Kind::Directory || file.reason != PARENT)
            .flat_map(|file| Path::new(&file.path).ancestors().map(Path::to_owned))
            .collect();
        self.manifest
            .files
            .retain(|file| file.kind != Kind::Directory || needed.contains(Path::new(&file.path)));
    }
}

/// A plan in which all driver files are still plain files.
pub struct Draft(Plan);

impl Draft {
    /// The files so far.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Opens the content of a file.
    pub fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        self.0.open(path)
    }

    /// Completes the plan with the driver's files as plain files of the initrd.
    pub fn with_files(self) -> Plan {
        self.0
    }

    /// Completes the plan with the driver's files in an EROFS image, in the initrd or on a disk.
    pub fn with_image(mut self, payload: Payload, image: &Path) -> Plan {
        self.0.carry(payload, image);
        self.0
    }
}

/// The inputs of a plan.
pub struct Inputs<'a> {
    /// The profile.
    pub profile: &'a Profile,
    /// The lock.
    pub lock: &'a Lock,
    /// Selected capabilities.
    pub capabilities: &'a BTreeSet<Capability>,
    /// The kernel's artifacts.
    pub kernel: &'a [Tree],
    /// Its modules.
    pub index: &'a Index,
    /// The GPU's modules.
    pub built: &'a Built,
    /// Artifacts that may contain firmware.
    pub firmware: &'a [Tree],
    /// Driver files.
    pub selected: &'a Selection,
    /// Modules that every boot needs in addition to the profile's.
    pub more_modules: &'a [&'static str],
    /// The GPUs of the image; `None`: all GPUs that the driver supports.
    pub gpus: Option<&'a Chosen>,
    /// The guest-init program.
    pub guest_init: &'a [u8],
    /// The highest level of requests that guests accept.
    pub control: Option<Control>,
}

/// The guest's mount points.
const MOUNT_POINTS: &[&str] = &["/dev", "/proc", "/run", "/sys", "/tmp"];

/// Makes and checks the plan, except for the way in which the driver's files are carried.
pub fn draft(inputs: &Inputs) -> Result<Draft> {
    let mut builder = Builder::default();
    builder.bytes(layout::INIT, inputs.guest_init.to_vec(), 0o755, crate::NAME, "PID 1");
    for directory in MOUNT_POINTS {
        builder.directory(directory, "mount point");
    }
    let manifest_dir =
        Path::new(layout::MANIFEST).parent().and_then(Path::to_str).expect("the path is constant");
    builder.directory(manifest_dir, "the manifest");
    let modules = add_modules(&mut builder, inputs)?;
    let firmware = add_firmware(&mut builder, inputs)?;
    for selected in &inputs.selected.files {
        let mode = if selected.file.executable { 0o755 } else { 0o644 };
        builder.file(selected, mode);
    }
    inputs.selected.links.iter().for_each(|link| builder.link(link));
    let manifest = Manifest {
        format: image::manifest::FORMAT,
        builder: crate::NAME.into(),
        profile: inputs.profile.name.clone(),
        arch: inputs.profile.arch.clone(),
        kernel_release: inputs.lock.kernel_release.clone(),
        driver: Some(Driver {
            version: inputs.lock.driver.clone(),
            cuda: inputs.selected.cuda.clone(),
            firmware,
            gpus: inputs.gpus.map(|chosen| chosen.gpus.clone()).unwrap_or_default(),
        }),
        capabilities: inputs.capabilities.iter().map(ToString::to_string).collect(),
        control: inputs.control,
        payload: Payload::Files,
        modules,
        files: builder.files.into_values().collect(),
    };
    let Selection { needs, notes, .. } = inputs.selected;
    Ok(Draft(Plan { manifest, contents: builder.contents, needs: needs.clone(), notes: notes.clone() }))
}

fn add_modules(builder: &mut Builder, inputs: &Inputs) -> Result<Vec<PlanModule>> {
    let (release, driver) = (&inputs.lock.kernel_release, &inputs.lock.driver);
    let mut index = inputs.index.clone();
    for module in &inputs.built.modules {
        check_built(module, release, driver)?;
        index.add(Module {
            path: format!("{}/{}", layout::GPU_MODULES_SUBDIR, module.path),
            ..module.clone()
        });
    }
    let order = index.load_order();
    let wanted = inputs.profile.kernel.modules.iter().map(String::as_str);
    let wanted: Vec<_> = wanted.chain(inputs.more_modules.iter().copied()).collect();
    let boot = order.plan(&wanted)?;
    let gpu = order.plan(&inputs.profile.modules.load)?;
    let mut modules: Vec<PlanModule> = Vec::new();
    let mut after = Vec::new();
    for (purpose, list) in [(Purpose::Boot, boot), (Purpose::Gpu, gpu)] {
        for module in list {
            if modules.iter().any(|planned| planned.name == module.name) {
                continue;
            }
            check_release(module, release)?;
            let path = format!("{}/{}", layout::module_dir(release), uncompressed(&module.path));
            let reason = if purpose == Purpose::Boot { "disks, file systems, vsock" } else { "GPU driver" };
            let built = inputs.built.modules.iter().position(|built| built.name == module.name);
            let mut planned = planned(module, &path, purpose, &inputs.profile.modules.parameters);
            let (before, next) = order.soft_dependencies(module);
            let is_new = |name: &&str| !module.depends.iter().any(|depends| depends == name);
            planned.depends.extend(before.into_iter().filter(is_new).map(str::to_owned));
            after.extend(next.into_iter().map(|next| (module.name.clone(), next)));
            let entry = if let Some(at) = built {
                builder.built(&path, inputs.built, at, reason)
            } else {
                let (bytes, origin) = of_kernel(inputs.kernel, release, module)?;
                if purpose == Purpose::Boot {
                    let is_wanted = wanted.iter().any(|name| underscored(name) == module.name);
                    planned.on = asked_for(&module.name, &bytes, is_wanted, &path)?;
                }
                builder.bytes(&path, bytes, 0o644, &origin, reason)
            };
            entry.payload = purpose == Purpose::Gpu;
            modules.push(planned);
        }
    }
    for (module, next) in after {
        load_with(&mut modules, &module, next);
    }
    Ok(modules)
}

/// What makes a guest load a module of the kernel: devices, and what guest-init asks for. A module that is wanted for neither is loaded
/// at every boot; one that only others depend on, never for itself.
fn asked_for(name: &str, bytes: &[u8], is_wanted: bool, path: &str) -> Result<Option<Vec<String>>> {
    let info = modinfo(bytes).map_err(|error| not_a_module(Path::new(path), error))?;
    let is_asked =
        |alias: &&str| alias.contains(':') && !NOT_DEVICES.iter().any(|kind| alias.starts_with(kind));
    let devices = info.all("alias").filter(is_asked);
    let requests = info.all("alias").chain([name]).filter(|asked| ASKED_FOR.contains(asked));
    let mut on: Vec<String> = devices.chain(requests).map(str::to_owned).collect();
    on.sort();
    on.dedup();
    Ok(if on.is_empty() && is_wanted { None } else { Some(on) })
}

/// Makes a guest load `next` whenever it loads `module`: a soft dependency that follows.
fn load_with(modules: &mut [PlanModule], module: &str, next: &str) {
    let Some(on) = modules.iter().find(|planned| planned.name == module).map(|planned| planned.on.clone())
    else {
        return;
    };
    if let Some(next) = modules.iter_mut().find(|planned| planned.name == next) {
        next.on = match (next.on.take(), on) {
            (Some(own), Some(on)) => Some([own, on].concat()),
            _ => None,
        };
    }
}

fn planned(
    module: &Module,
    path: &str,
    purpose: Purpose,
    parameters: &BTreeMap<String, String>,
) -> PlanModule {
    PlanModule {
        name: module.name.clone(),
        path: path.into(),
        purpose,
        parameters: parameters.get(&module.name).cloned().unwrap_or_default(),
        depends: module.depends.clone(),
        vermagic: module.vermagic.clone(),
        version: module.version.clone(),
        on: None,
    }
}

/// Reads a module of the kernel, uncompressed, and returns the origin of its artifact.
fn of_kernel(kernel: &[Tree], release: &str, module: &Module) -> Result<(Vec<u8>, String)> {
    let path = format!("usr/lib/modules/{release}/{}", module.path);
    let tree = kernel.iter().find(|tree| tree.file(&path).is_ok()).or(kernel.first());
    let tree = tree.ok_or_else(|| Error::new(format!("the kernel has no artifact with {path}")))?;
    Ok((uncompress(&tree.read(tree.file(&path)?)?, Path::new(&path))?, tree.origin.clone()))
}

fn add_firmware(builder: &mut Builder, inputs: &Inputs) -> Result<Vec<String>> {
    let mut wanted: Vec<String> =
        inputs.built.modules.iter().flat_map(|module| module.firmware.clone()).collect();
    wanted.sort();
    wanted.dedup();
    if let Some(chosen) = inputs.gpus {
        wanted = chosen_firmware(chosen, &wanted)?;
    }
    let directory = layout::firmware_dir(&inputs.lock.driver);
    let prefix = format!("{}/", directory.trim_start_matches(layout::FIRMWARE_DIR).trim_start_matches('/'));
    for name in &wanted {
        if !name.starts_with(&prefix) {
            return Err(Error::new(format!(
                "the modules request firmware {name}, but the driver's directory is {prefix}"
            ))
            .hint("modules and firmware must have the same driver version; correct the profile's `driver`"));
        }
        let Some((tree, file)) = firmware::find(inputs.firmware, name) else {
            if inputs.profile.firmware == Some(Firmware::Word(NoFirmware::None)) {
                continue;
            }
            return Err(firmware::missing(inputs.firmware, name));
        };
        let selected = Selected {
            source: tree.path(file),
            path: format!("{}/{name}", layout::FIRMWARE_DIR),
            file: file.clone(),
            origin: tree.origin.clone(),
            reason: "GSP firmware, asked for when a GPU is first opened".into(),
            capabilities: Vec::new(),
            soname: None,
            glibc: None,
        };
        builder.file(&selected, 0o644);
    }
    Ok(wanted)
}

/// Selects the firmware of some GPUs from the files that the modules request.
fn chosen_firmware(chosen: &Chosen, asked: &[String]) -> Result<Vec<String>> {
    let of =
        |family: &str| asked.iter().filter(|path| is_firmware_of(path, family)).cloned().collect::<Vec<_>>();
    let mut files = Vec::new();
    for family in &chosen.families {
        let found = of(family);
        if found.is_empty() {
            return Err(Error::new(format!(
                "the GPUs {} need firmware of {family}, but the driver's modules request {}",
                chosen.gpus.join(", "),
                asked.join(", ")
            ))
            .hint("this driver has other firmware files: build without --gpu, which packs all of them"));
        }
        files.extend(found);
    }
    Ok(files)
}

#[derive(Default)]
struct Builder {
    files: BTreeMap<String, File>,
    contents: BTreeMap<String, Content>,
}

impl Builder {
    fn bytes(&mut self, path: &str, bytes: Vec<u8>, mode: u32, origin: &str, reason: &str) -> &mut File {
        let kind = Kind::File { size: bytes.len() as u64, sha256: sha256(&bytes) };
        self.contents.insert(path.into(), Content::Bytes(bytes));
        self.insert(path, kind, mode, origin, reason)
    }

    fn built(&mut self, path: &str, built: &Built, at: usize, reason: &str) -> &mut File {
        let (size, sha256) = built.contents[at].clone();
        let source = built.dir.join(&built.modules[at].path);
        self.contents.insert(path.into(), Content::File(source));
        self.insert(path, Kind::File { size, sha256 }, 0o644, &built.origin, reason)
    }

    fn file(&mut self, selected: &Selected, mode: u32) {
        let kind = Kind::File { size: selected.file.size, sha256: selected.file.sha256.clone() };
        let entry = self.insert(&selected.path, kind, mode, &selected.origin, &selected.reason);
        entry.capabilities.clone_from(&selected.capabilities);
        entry.soname.clone_from(&selected.soname);
        entry.glibc = selected.glibc;
        entry.payload = true;
        self.contents.insert(selected.path.clone(), Content::File(selected.source.clone()));
    }

    fn link(&mut self, link: &Link) {
        let kind = Kind::Link { target: link.target.clone() };
        let entry = self.insert(&link.path, kind, 0o777, &link.origin, &link.reason);
        entry.capabilities.clone_from(&link.capabilities);
        entry.payload = true;
    }

    fn directory(&mut self, path: &str, reason: &str) {
        self.insert(path, Kind::Directory, 0o755, crate::NAME, reason);
    }

    fn insert(&mut self, path: &str, kind: Kind, mode: u32, origin: &str, reason: &str) -> &mut File {
        let parent = Path::new(path).parent().and_then(Path::to_str).filter(|parent| *parent != "/");
        if let Some(parent) = parent.filter(|parent| !self.files.contains_key(*parent)) {
            self.directory(parent, PARENT);
        }
        let file = File {
            path: path.into(),
            kind,
            mode,
            origin: origin.into(),
            reason: reason.into(),
            capabilities: Vec::new(),
            soname: None,
            glibc: None,
            payload: false,
        };
        self.files.entry(path.into()).insert_entry(file).into_mut()
    }
}

/// The error for content that does not match the manifest.
pub(crate) fn altered(path: &str, expected: &str, found: &str) -> Error {
    Error::new(format!("{path}: expected sha256 {expected}, found {found}")).hint(
        "the cache was changed after the package was unpacked: remove the cache directory and run again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_children() {
        let mut builder = Builder::default();
        builder.bytes("/a/b/c", vec![1], 0o644, "o", "r");
        assert_eq!(builder.files.keys().collect::<Vec<_>>(), ["/a", "/a/b", "/a/b/c"]);
    }
}
