//! Loads the kernel modules of the manifest: those that a device of this guest, a file system or a driver of ours asks for, each after
//! those that it depends on, independent ones at the same time.

mod devices;
mod load;

pub use load::{LoadError, is_loaded};

use crate::locks::Lock;
use image::manifest::{Manifest, Module, Purpose};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::OnceLock;
use std::thread;

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

/// Loads the modules of the devices that are there now, until no new device appears.
pub fn for_devices() {
    let Some(table) = TABLE.get() else { return };
    loop {
        let new: Vec<_> = {
            let mut known = table.known.lock();
            devices::aliases().into_iter().filter(|alias| known.insert(alias.clone())).collect()
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
    fn waves(&self, names: Vec<&str>) -> Vec<Vec<&Entry>> {
        let mut needed: BTreeSet<&str> = names.into_iter().collect();
        // The manifest's order is that of loading: from its end on, each module comes before what it depends on.
        for entry in self.entries.iter().rev() {
            if needed.contains(&*entry.module.name) {
                needed.extend(entry.module.depends.iter().map(String::as_str));
            }
        }
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
        let loaded = load::load(&entry.module, &entry.path, &self.parameters, &self.release);
        drop(tried);
        if let Err(error) = loaded {
            (self.report)(error);
        }
    }
}

/// Loads the driver's modules. `progress` receives the number of loaded modules and of all modules. Modules after the driver
/// itself may fail; their errors are returned.
///
/// # Errors
/// Why the driver itself was not loaded.
pub fn load_driver(
    manifest: &Manifest,
    parameters: &BTreeMap<String, Vec<String>>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<LoadError>, LoadError> {
    let (mut has_driver, mut failed) = (false, Vec::new());
    let modules: Vec<_> = manifest.modules_for(Purpose::Gpu).collect();
    for (done, module) in modules.iter().enumerate() {
        progress(done, modules.len());
        if let Some(table) = TABLE.get() {
            table.load(|other| module.depends.contains(&other.name));
        }
        match load::load(module, &manifest.module_path(module), parameters, &manifest.kernel_release) {
            Ok(()) => has_driver |= module.name == DRIVER,
            Err(error) if has_driver => failed.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(failed)
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
