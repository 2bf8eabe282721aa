//! Loads the kernel modules of the manifest: those that a device of this guest, a file system or a driver of ours asks for, each after
//! those that it depends on, independent ones at the same time.

mod devices;
mod load;
mod signature;

pub use load::{LoadError, is_loaded};

use crate::locks::Lock;
use devices::Devices;
use image::manifest::{Manifest, Module, Purpose};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// Writing 1 here disables module loading until the next boot.
const LOCK: &str = "/proc/sys/kernel/modules_disabled";
/// The module that the rest of the driver requires.
const DRIVER: &str = "nvidia";

/// The modules that can be loaded. Only PID 1 has them: its child processes start with all modules that they need.
static TABLE: OnceLock<Table> = OnceLock::new();

type Report = Box<dyn Fn(LoadError) + Send + Sync>;

struct Table {
    entries: Vec<Entry>,
    parameters: BTreeMap<String, Vec<String>>,
    release: String,
    /// Device aliases that were answered.
    known: Lock<BTreeSet<String>>,
    report: Report,
}

struct Entry {
    module: Module,
    path: String,
    /// Whether it was tried. Held meanwhile: who needs the module, too, waits.
    tried: Lock<bool>,
}

/// Makes the modules of a manifest available to this process, and loads those that every boot has: without a condition, and with
/// parameters on the kernel command line. `report` receives the errors of all modules but the driver's, now and later.
pub fn provide(
    manifest: &Manifest,
    parameters: &BTreeMap<String, Vec<String>>,
    report: impl Fn(LoadError) + Send + Sync + 'static,
) {
    let entry = |module: &Module| Entry {
        module: module.clone(),
        path: manifest.module_path(module),
        tried: Lock::new(false),
    };
    let table = Table {
        entries: manifest.modules_for(Purpose::Boot).map(entry).collect(),
        parameters: parameters.clone(),
        release: manifest.kernel_release.clone(),
        known: Lock::default(),
        report: Box::new(report),
    };
    let table = TABLE.get_or_init(|| table);
    table.load(|module| module.on.is_none() || parameters.contains_key(&module.name));
}

/// Loads the modules of the devices that are there now, until no new device appears; those of [`for_host_link`] are left to it.
pub fn for_devices() {
    load_for(Devices::Others);
}

/// Loads the modules of the devices that connect the guest with its host: vsock and the power button.
pub fn for_host_link() {
    load_for(Devices::HostLink);
}

fn load_for(which: Devices) {
    let Some(table) = TABLE.get() else { return };
    loop {
        let new: Vec<_> = {
            let mut known = table.known.lock();
            let aliases = devices::aliases().into_iter().filter(|alias| which.have(alias));
            aliases.filter(|alias| known.insert(alias.clone())).collect()
        };
        if new.is_empty() {
            return;
        }
        table.load(|module| new.iter().any(|alias| module.is_for(alias)));
    }
}

/// Loads the modules of a file system (`fs-erofs`) or of a driver without a device, one of [`image::manifest::ASKED_FOR`].
pub fn request(asked: &str) {
    debug_assert!(image::manifest::ASKED_FOR.contains(&asked), "{asked} is not in ASKED_FOR");
    if let Some(table) = TABLE.get() {
        table.load(|module| module.is_for(asked));
    }
}

/// Loads every module, for devices and file systems that come later.
pub fn all() {
    if let Some(table) = TABLE.get() {
        table.load(|_| true);
    }
}

impl Table {
    /// Loads what is wanted and was not tried before, after its dependencies.
    fn load(&self, wanted: impl Fn(&Module) -> bool) {
        let names =
            self.entries.iter().filter(|entry| wanted(&entry.module)).map(|entry| &*entry.module.name);
        for wave in self.waves(names.collect()) {
            let (one, others) = wave.split_first().expect("no wave is empty");
            thread::scope(|scope| {
                for entry in others {
                    let started = thread::Builder::new().spawn_scoped(scope, || self.load_one(entry));
                    if started.is_err() {
                        self.load_one(entry);
                    }
                }
                self.load_one(one);
            });
        }
    }

    /// The modules of these names and what they depend on: the first wave depends on nothing, each other one on the waves before it.
    fn waves<'a>(&'a self, names: Vec<&'a str>) -> Vec<Vec<&'a Entry>> {
        let needed = with_dependencies(names, self.entries.iter().map(|entry| &entry.module));
        let mut levels: BTreeMap<&str, usize> = BTreeMap::new();
        let mut waves: Vec<Vec<&Entry>> = Vec::new();
        for entry in self.entries.iter().filter(|entry| needed.contains(&*entry.module.name)) {
            let below = entry.module.depends.iter().filter_map(|name| levels.get(name.as_str()));
            let level = below.max().map_or(0, |level| level + 1);
            levels.insert(&entry.module.name, level);
            if waves.len() == level {
                waves.push(Vec::new());
            }
            waves[level].push(entry);
        }
        waves
    }

    fn load_one(&self, entry: &Entry) {
        let mut tried = entry.tried.lock();
        if *tried {
            return;
        }
        *tried = true;
        let loaded = load::load(&entry.module, &entry.path, &self.parameters, &self.release, Duration::ZERO);
        drop(tried);
        if let Err(error) = loaded {
            (self.report)(error);
        }
    }
}

/// The driver's modules in load order, in two parts.
pub struct DriverModules<'a> {
    /// The driver itself, after what it depends on.
    first: Vec<&'a Module>,
    /// The others, which may fail.
    rest: Vec<&'a Module>,
    manifest: &'a Manifest,
    parameters: &'a BTreeMap<String, Vec<String>>,
}

impl<'a> DriverModules<'a> {
    /// The modules that a boot needs: the driver, those with parameters on the kernel command line, those that satisfy `is_needed`, and
    /// what these depend on.
    pub fn of(
        manifest: &'a Manifest,
        parameters: &'a BTreeMap<String, Vec<String>>,
        is_needed: impl Fn(&str) -> bool,
    ) -> Self {
        let all: Vec<_> = manifest.modules_for(Purpose::Gpu).collect();
        let mut first = needed(&all, |name| parameters.contains_key(name), is_needed);
        let driver = first.iter().position(|module| module.name == DRIVER);
        let rest = first.split_off(driver.map_or(first.len(), |at| at + 1));
        Self { first, rest, manifest, parameters }
    }

    /// Loads the driver itself, which may take `longer` than other modules: it can initialise the adapters meanwhile. `progress` receives
    /// the number of loaded modules and of all modules.
    ///
    /// # Errors
    /// Why it was not loaded.
    pub fn load_driver(
        &self,
        longer: Duration,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<(), LoadError> {
        let all = self.first.len() + self.rest.len();
        self.first.iter().enumerate().try_for_each(|(done, module)| {
            progress(done, all);
            let is_driver = module.name == DRIVER;
            self.load_one(module, if is_driver { longer } else { Duration::ZERO })
        })
    }

    /// Loads the others. Returns the errors.
    pub fn load_rest(&self) -> Vec<LoadError> {
        self.rest.iter().filter_map(|module| self.load_one(module, Duration::ZERO).err()).collect()
    }

    fn load_one(&self, module: &Module, longer: Duration) -> Result<(), LoadError> {
        if let Some(table) = TABLE.get() {
            table.load(|other| module.depends.contains(&other.name));
        }
        let path = self.manifest.module_path(module);
        load::load(module, &path, self.parameters, &self.manifest.kernel_release, longer)
    }
}

/// These names and what they depend on, directly or not. The modules are in load order: from the end on, each comes before what it depends
/// on.
fn with_dependencies<'a>(
    names: impl IntoIterator<Item = &'a str>,
    modules: impl DoubleEndedIterator<Item = &'a Module>,
) -> BTreeSet<&'a str> {
    let mut needed: BTreeSet<&str> = names.into_iter().collect();
    for module in modules.rev() {
        if needed.contains(module.name.as_str()) {
            needed.extend(module.depends.iter().map(String::as_str));
        }
    }
    needed
}

/// Of the driver's modules in load order: the driver, those that are `asked` for, those that `is_needed` accepts and that are not only
/// there for others, and what these depend on.
fn needed<'a>(
    all: &[&'a Module],
    asked: impl Fn(&str) -> bool,
    is_needed: impl Fn(&str) -> bool,
) -> Vec<&'a Module> {
    let is_for_others = |name: &String| all.iter().any(|other| other.depends.contains(name));
    let for_itself = |name: &&String| asked(name) || is_needed(name) && !is_for_others(name);
    let names = all.iter().map(|module| &module.name).filter(for_itself).map(String::as_str);
    let needed = with_dependencies(names.chain([DRIVER]), all.iter().copied());
    all.iter().copied().filter(|module| needed.contains(module.name.as_str())).collect()
}

/// Checks first of all whether the modules in the manifest are for the running kernel.
///
/// # Errors
/// [`LoadError::OtherKernel`] with both releases.
pub fn fit(manifest: &Manifest, running: &str) -> Result<(), LoadError> {
    if manifest.modules.is_empty() || manifest.kernel_release == running {
        return Ok(());
    }
    let what =
        format!("this kernel is {running}, but the initrd has modules for {}", manifest.kernel_release);
    Err(LoadError::OtherKernel { what, log: Vec::new() })
}

/// Disables module loading, reads the setting back, and frees the memory of the modules that were not loaded.
///
/// # Errors
/// Why module loading is still enabled.
pub fn lock() -> Result<(), String> {
    fs::write(LOCK, "1").map_err(|error| format!("{LOCK}: {error}"))?;
    match fs::read_to_string(LOCK) {
        Ok(text) if text.trim() == "1" => {}
        Ok(text) => return Err(format!("{LOCK}: wrote 1, read back {:?}", text.trim())),
        Err(error) => return Err(format!("{LOCK}: {error}")),
    }
    for entry in TABLE.get().iter().flat_map(|table| &table.entries) {
        // The initramfs is memory. A module that was loaded has no file any more.
        let _ = fs::remove_file(&entry.path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(modules: &[(&str, &[&str])]) -> Table {
        let entry = |(name, depends): &(&str, &[&str])| Entry {
            module: Module {
                name: (*name).into(),
                path: format!("/x/{name}.ko"),
                purpose: Purpose::Boot,
                parameters: String::new(),
                depends: depends.iter().map(|name| (*name).to_owned()).collect(),
                vermagic: String::new(),
                version: None,
                on: Some(Vec::new()),
            },
            path: format!("/x/{name}.ko"),
            tried: Lock::new(false),
        };
        Table {
            entries: modules.iter().map(entry).collect(),
            parameters: BTreeMap::new(),
            release: "1".into(),
            known: Lock::default(),
            report: Box::new(|_| {}),
        }
    }

    #[test]
    fn each_wave_depends_on_those_before_it() {
        let table = table(&[
            ("blk", &[]),
            ("crc", &[]),
            ("erofs", &["crc"]),
            ("vsock", &[]),
            ("common", &["vsock"]),
            ("transport", &["common", "vsock"]),
        ]);
        let names = |wanted: &[&str]| -> Vec<Vec<String>> {
            let waves = table.waves(wanted.to_vec());
            waves.iter().map(|wave| wave.iter().map(|entry| entry.module.name.clone()).collect()).collect()
        };
        assert_eq!(names(&["erofs"]), [["crc"], ["erofs"]]);
        assert_eq!(
            names(&["transport", "blk", "erofs"]),
            [vec!["blk", "crc", "vsock"], vec!["erofs", "common"], vec!["transport"]]
        );
        assert!(names(&[]).is_empty() && names(&["other"]).is_empty());
    }

    #[test]
    fn only_the_modules_that_are_needed_are_loaded_with_the_driver() {
        let modules = [
            ("nvidia", &[][..]),
            ("nvidia_uvm", &["nvidia"]),
            ("drm", &[]),
            ("nvidia_modeset", &["nvidia"]),
            ("nvidia_drm", &["nvidia", "nvidia_modeset", "drm"]),
        ];
        let table = table(&modules);
        let all: Vec<_> = table.entries.iter().map(|entry| &entry.module).collect();
        let names = |asked: &[&str], not: &[&str]| {
            let needed = needed(&all, |name| asked.contains(&name), |name| !not.contains(&name));
            needed.iter().map(|module| module.name.as_str()).collect::<Vec<_>>().join(" ")
        };
        let drawing = ["nvidia_modeset", "nvidia_drm"];
        assert_eq!(names(&[], &[]), "nvidia nvidia_uvm drm nvidia_modeset nvidia_drm");
        assert_eq!(names(&[], &drawing), "nvidia nvidia_uvm");
        assert_eq!(names(&["nvidia_modeset"], &drawing), "nvidia nvidia_uvm nvidia_modeset");
        assert_eq!(names(&["nvidia_drm"], &drawing), "nvidia nvidia_uvm drm nvidia_modeset nvidia_drm");
        assert_eq!(names(&[], &["nvidia", "nvidia_uvm", "nvidia_drm"]), "nvidia");
    }

    #[test]
    fn a_module_is_tried_once() {
        let mut table = table(&[("no_such_crc", &[]), ("no_such_fs", &["no_such_crc"])]);
        let (sender, receiver) = std::sync::mpsc::channel();
        table.report = Box::new(move |error| sender.send(error.to_string()).unwrap());
        table.load(|module| module.name == "no_such_fs");
        table.load(|_| true);
        let said: Vec<_> = receiver.try_iter().collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("module no_such_crc ") && said[1].contains("/x/no_such_fs.ko"), "{said:?}");
    }
}
