//! Plans an injection: the destinations of driver files, links, and what must be hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::config::DriverFiles;
use image::layout::DRIVER_LIB_DIR;

use super::destination::{Places, libc_at};
use super::error::InjectError;
use super::inventory::{DriverFile, Inventory, Placement};
use super::libc_fit::TooNew;
use super::report::{InjectReport, Item, ItemKind, text};
use super::request::ContainerRequest;
use super::{bundled, icd, notice};
use crate::confined_fs::{EntryType, RootDir};
use crate::ldcache::{Machine, compare_names};

/// The development links that NVIDIA's installer creates. Programs open them too.
const DEVELOPMENT_LINKS: [&str; 4] =
    ["libcuda.so", "libnvidia-ml.so", "libnvcuvid.so", "libnvidia-encode.so"];
/// Module directories of X servers: that of Debian and the driver, then those of other distributions.
const XORG_MODULES: [&str; 3] =
    ["/usr/lib/xorg/modules", "/usr/lib64/xorg/modules", "/usr/lib/x86_64-linux-gnu/xorg/modules"];
/// Permission bits of libraries and data.
const PLAIN: u32 = 0o644;
/// Permission bits of programs, without set-user-id: in a guest the nodes exist before the container does.
const EXECUTABLE: u32 = 0o755;

/// A file to add to the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Path in the driver directory.
    pub from: PathBuf,
    /// Path in the container.
    pub to: PathBuf,
    /// Permission bits, used for copies.
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
}

/// Everything to add to the container, and what must be hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Files.
    pub files: Vec<PlannedFile>,
    /// Links: path in the container, and target.
    pub links: Vec<(PathBuf, OsString)>,
    /// Driver files of the container to hide.
    pub masks: Vec<PathBuf>,
    /// The beginning of the report.
    pub report: InjectReport,
}

/// A library of the driver that one of the container's loaders can open.
struct Library<'a> {
    file: &'a DriverFile,
    /// Path below the directory of libraries.
    rest: &'a Path,
    soname: &'a OsStr,
}

/// Plans the injection of `inventory`, the files of `driver`, into the container `root`. `earlier` are paths in it that an
/// earlier injection created and that do not belong to the image.
///
/// # Errors
/// [`InjectError::NoGlibc`], [`InjectError::NoLibraries`], [`InjectError::Refused`], or [`InjectError::Root`].
pub fn plan(
    root: &RootDir,
    driver: &RootDir,
    inventory: &Inventory,
    request: &ContainerRequest,
    earlier: &BTreeSet<PathBuf>,
) -> Result<Plan, InjectError> {
    let places = Places::of(root).ok_or(InjectError::NoGlibc { triplet: Machine::NATIVE.triplet() })?;
    let report = InjectReport {
        version: inventory.version.clone(),
        libc: libc_at(root, Some(&places)),
        lib_dir: places.libraries.first().map(|dir| text(dir)).unwrap_or_default(),
        store: places.store,
        ..InjectReport::default()
    };
    let mut plan = Plan { files: Vec::new(), links: Vec::new(), masks: Vec::new(), report };
    let mut chosen: Vec<&DriverFile> = inventory.chosen(&request.capabilities).collect();
    if let Some(glibc) = places.glibc() {
        let too_new = TooNew::among(&chosen, glibc);
        chosen.retain(|file| !too_new.is_left_out(file, request));
        plan.report.notices.extend(notice::libc_too_old(&too_new, glibc, request));
    }
    let wanted = |is_32: bool| {
        let chosen = chosen.iter().copied();
        chosen.filter_map(move |file| match &file.place {
            Placement::Library(rest) if !is_32 => Some((file, rest.as_path())),
            Placement::Library32(rest) if is_32 => Some((file, rest.as_path())),
            _ => None,
        })
    };
    let native = libraries(wanted(false), &mut plan.report);
    let asked = wanted(false).count();
    if native.is_empty() && asked > 0 {
        return Err(InjectError::NoLibraries { dir: DRIVER_LIB_DIR, found: asked });
    }
    for dir in &places.libraries {
        plan.add_libraries(dir, &native, wanted(false));
    }
    if let Some(dir) = &places.libraries32 {
        let libraries = libraries(wanted(true), &mut plan.report);
        plan.add_libraries(dir, &libraries, wanted(true));
    }
    let scripts = plan.add_the_rest(root, &chosen, &places);
    plan.add_icd_links(root, driver, request, earlier);
    plan.report.notices.extend(notice::programs(inventory, request, &scripts));
    plan.report.notices.extend(notice::capabilities(inventory, request));
    plan.hide(root, driver, &places, inventory, request, earlier)?;
    Ok(plan)
}

impl Plan {
    /// Adds libraries with their SONAME and development links, and the links of the table.
    fn add_libraries<'a>(
        &mut self,
        dir: &Path,
        libraries: &[Library],
        chosen: impl Iterator<Item = (&'a DriverFile, &'a Path)>,
    ) {
        for library in libraries {
            self.add_file(library.file, dir.join(library.rest), PLAIN, Some(library.soname));
        }
        let tabled = chosen.filter_map(|(file, rest)| Some((dir.join(rest), file.link.clone()?)));
        let links: BTreeMap<PathBuf, OsString> = links(libraries)
            .into_iter()
            .map(|(name, target)| (dir.join(name), target))
            .chain(tabled)
            .collect();
        for (path, target) in links {
            self.add_link(path, target);
        }
    }

    /// Adds programs and data. Returns scripts with a name of a driver program: what they start is not in the container.
    fn add_the_rest<'a>(
        &mut self,
        root: &RootDir,
        chosen: &[&'a DriverFile],
        places: &Places,
    ) -> Vec<&'a DriverFile> {
        let mut scripts = Vec::new();
        for file in chosen {
            let (to, mode) = match &file.place {
                Placement::Program(_) if file.is_script => {
                    scripts.push(*file);
                    continue;
                }
                Placement::Program(name) => (places.programs.join(name), EXECUTABLE),
                Placement::Data(path) => (data_path(root, path), PLAIN),
                Placement::Library(_) | Placement::Library32(_) => continue,
            };
            match &file.link {
                Some(target) => self.add_link(to, target.clone()),
                None => self.add_file(file, to, mode, None),
            }
        }
        scripts
    }

    /// Adds links for the loaders of Vulkan, EGL and OpenCL: where the driver's ICD files name a library by a path of another
    /// system (as RPM packages do), and where the container's environment names a missing ICD file.
    fn add_icd_links(
        &mut self,
        root: &RootDir,
        driver: &RootDir,
        request: &ContainerRequest,
        earlier: &BTreeSet<PathBuf>,
    ) {
        let paths = self.paths();
        let named = |name: Option<&OsStr>| paths.iter().find(|path| path.file_name() == name);
        let mut links: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        let files: Vec<(&'static str, &PlannedFile)> =
            self.files.iter().filter_map(|file| Some((icd::kind_of(&file.to)?, file))).collect();
        for (_, file) in &files {
            for library in icd::libraries(driver, &file.from) {
                let path = data_path(root, Path::new(&library));
                if let Some(ours) = named(path.file_name()).filter(|_| library.starts_with('/')) {
                    links.insert(path, ours.clone());
                }
            }
        }
        let wanted = request.named_files.iter().map(|path| data_path(root, path));
        for wanted in wanted.filter(|path| earlier.contains(path) || !root.exists(path)) {
            let is_it = |(kind, file): &&(&'static str, &PlannedFile)| {
                icd::kind_of(&wanted) == Some(kind) && file.to.file_name() == wanted.file_name()
            };
            if let Some((_, file)) = files.iter().find(is_it) {
                links.insert(wanted, file.to.clone());
            }
        }
        for (path, target) in links.into_iter().filter(|(path, _)| !paths.contains(path)) {
            self.add_link(path, target.into_os_string());
        }
    }

    fn add_file(&mut self, file: &DriverFile, to: PathBuf, mode: u32, soname: Option<&OsStr>) {
        self.report.items.push(Item {
            path: text(&to),
            kind: ItemKind::File,
            target: text(&file.from),
            soname: soname.map(|soname| soname.to_string_lossy().into_owned()),
        });
        self.files.push(PlannedFile { from: file.from.clone(), to, mode, size: file.size });
    }

    fn add_link(&mut self, path: PathBuf, target: OsString) {
        let item = Item {
            path: text(&path),
            kind: ItemKind::Link,
            target: target.to_string_lossy().into_owned(),
            soname: None,
        };
        self.report.items.push(item);
        self.links.push((path, target));
    }

    /// Returns every path added to the container.
    pub fn paths(&self) -> BTreeSet<PathBuf> {
        self.files
            .iter()
            .map(|file| &file.to)
            .chain(self.links.iter().map(|(path, _)| path))
            .cloned()
            .collect()
    }

    /// Decides about driver files in the container image.
    fn hide(
        &mut self,
        root: &RootDir,
        driver: &RootDir,
        places: &Places,
        inventory: &Inventory,
        request: &ContainerRequest,
        earlier: &BTreeSet<PathBuf>,
    ) -> Result<(), InjectError> {
        let ours = self.paths();
        let icds = icd::Ours::of(self.files.iter().map(|file| (&*file.to, driver, &*file.from)));
        let warnings = &mut self.report.warnings;
        let decided = bundled::decide(root, places, inventory, request, (earlier, &ours), &icds, warnings)?;
        self.masks = decided.masks;
        self.report.compat_dir = decided.compat_dir.as_deref().map(text);
        self.report.notices.extend(decided.notices);
        if request.driver_files == DriverFiles::Keep {
            self.leave(root, earlier);
        }
        Ok(())
    }

    /// Omits what would replace a file of the image.
    fn leave(&mut self, root: &RootDir, earlier: &BTreeSet<PathBuf>) {
        let is_free = |path: &Path| earlier.contains(path) || root.lstat(path).is_err();
        self.files.retain(|file| is_free(&file.to));
        self.links.retain(|(path, _)| is_free(path));
        let kept: BTreeSet<String> = self.paths().iter().map(|path| text(path)).collect();
        self.report.items.retain(|item| kept.contains(&item.path));
    }
}

/// Returns the chosen libraries that the container's loader opens.
fn libraries<'a>(
    chosen: impl Iterator<Item = (&'a DriverFile, &'a Path)>,
    report: &mut InjectReport,
) -> Vec<Library<'a>> {
    let mut libraries = Vec::new();
    for (file, rest) in chosen.filter(|(file, _)| file.link.is_none()) {
        match &file.soname {
            Some(soname) => libraries.push(Library { file, rest, soname }),
            None => report
                .warnings
                .push(format!("{}: not a library for the container's machine", file.from.display())),
        }
    }
    libraries
}

/// Returns the links for `libraries`: SONAMEs, read from the files, then development links.
fn links(libraries: &[Library]) -> BTreeMap<PathBuf, OsString> {
    let names: BTreeSet<&Path> = libraries.iter().map(|library| library.rest).collect();
    let mut links: BTreeMap<PathBuf, OsString> = BTreeMap::new();
    for library in libraries {
        let link = library.rest.with_file_name(library.soname);
        let name = library.rest.file_name().unwrap_or_default();
        if names.contains(link.as_path()) {
            continue;
        }
        let newest = links.entry(link).or_insert_with(|| name.to_owned());
        if compare_names(newest.as_bytes(), name.as_bytes()).is_lt() {
            name.clone_into(newest);
        }
    }
    let is_of = |soname: &OsStr, link: &str| {
        soname.as_bytes().strip_prefix(link.as_bytes()).is_some_and(|rest| rest.starts_with(b"."))
    };
    for link in DEVELOPMENT_LINKS {
        let target = libraries.iter().map(|library| library.soname).find(|soname| is_of(soname, link));
        if let Some(soname) = target {
            links.entry(link.into()).or_insert_with(|| soname.to_owned());
        }
    }
    links
}

/// Resolves the parent directories of a data file's path. Modules of the X server go to the image's module directory.
fn data_path(root: &RootDir, path: &Path) -> PathBuf {
    if let Some((dir, rest)) = xorg_modules(root, path) {
        return root.canonical_as_far(&dir).join(rest);
    }
    let parent = root.canonical_as_far(path.parent().unwrap_or(Path::new("/")));
    parent.join(path.file_name().unwrap_or_default())
}

/// Returns the image's module directory of the X server, if it differs from Debian's, and the rest of the path.
fn xorg_modules<'a>(root: &RootDir, path: &'a Path) -> Option<(PathBuf, &'a Path)> {
    let (usual, others) = XORG_MODULES.split_first()?;
    let rest = path.strip_prefix(usual).ok()?;
    let is_there =
        |dir: &&&str| root.stat(Path::new(dir)).is_ok_and(|stat| stat.kind == EntryType::Directory);
    if is_there(&usual) {
        return None;
    }
    others.iter().find(is_there).map(|dir| (PathBuf::from(dir), rest))
}
