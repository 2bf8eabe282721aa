//! The load order of every module: `depmod` indexes the kernel's modules and the GPU's, libkmod
//! reads the index, and the plan must have the modules and the order that libkmod would load.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use host_builder::artifacts::tree::Tree;
use host_builder::common::error::Error;
use host_builder::common::halt::Halt;
use host_builder::common::ui::Ui;
use host_builder::kernel_modules::make::{Built, build};
use host_builder::kernel_modules::{Index, Module};
use host_builder::pins::lock::{Lock, Set};
use host_builder::pins::profile::Profile;
use image::layout::GPU_MODULES_SUBDIR;
use rig::process::run;

/// A directory `lib/modules/<release>` with the indices of the real depmod, and our own index of
/// the same modules.
struct Ground {
    directory: PathBuf,
    ours: Index,
}

impl Ground {
    fn oracle(&self) -> kmod::Context {
        kmod::Context::new_with_dirname(&self.directory).unwrap()
    }

    /// A file that depmod wrote.
    fn depmods(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap()
    }
}

/// The GPU's modules of the image under test: they are in the cache, nothing is compiled here.
fn gpu_modules(lock: &Lock) -> Built {
    let (profile, _) = Profile::load(rig::build::GUESTS).unwrap();
    let never = || Err(Error::new("the image was built, and its modules are not in the cache"));
    build(&rig::build::cache().unwrap(), lock, &profile.modules, never, &Halt::default(), &Ui::new(true))
        .unwrap()
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let lock = Lock::read(&rig::build::initrd().lock).unwrap().unwrap();
        let release = &lock.kernel_release;
        let cache = rig::build::cache().unwrap();
        let package = lock.set(Set::Kernel)[0];
        let source = Tree::of(&cache, package).unwrap().root.join("usr/lib/modules").join(release);
        let built = gpu_modules(&lock);
        let key = format!("{:.16}-{:.16}", package.sha256, built.dir.file_name().unwrap().display());
        let base = cache.derived("rig/depmod", &key, |base| {
            depmod(base, release, &source, &built);
            Ok(())
        });
        let directory = base.unwrap().join("lib/modules").join(release);
        let mut ours = Index::read(&source, release).unwrap();
        // As the plan does it.
        for module in built.modules {
            ours.add(Module { path: format!("{GPU_MODULES_SUBDIR}/{}", module.path), ..module });
        }
        Ground { directory, ours }
    })
}

/// Copies all modules below `base` and runs the real depmod on them.
fn depmod(base: &Path, release: &str, source: &Path, built: &Built) {
    let directory = base.join("lib/modules").join(release);
    fs::create_dir_all(directory.parent().unwrap()).unwrap();
    run(Command::new("cp").args(["-r", "--reflink=auto"]).arg(source).arg(&directory)).unwrap();
    fs::create_dir_all(directory.join(GPU_MODULES_SUBDIR)).unwrap();
    for module in &built.modules {
        let copy = directory.join(GPU_MODULES_SUBDIR).join(&module.path);
        fs::copy(built.dir.join(&module.path), copy).unwrap();
    }
    let mut depmod = Command::new("depmod");
    depmod.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").arg("-b").arg(base).arg(release);
    let output = run(&mut depmod).unwrap();
    // It reports here what it cannot parse, and continues.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// Names in the order in which libkmod would load them.
fn theirs(context: &kmod::Context, name: &str) -> Vec<String> {
    let module = context.module_new_from_name(name).unwrap();
    module.dependencies().map(|module| module.name().to_str().unwrap().to_owned()).collect()
}

#[test]
fn dependencies_load_in_the_order_of_libkmod() {
    let ground = ground();
    let (context, order) = (ground.oracle(), ground.ours.load_order());
    let mut differ = BTreeMap::new();
    let mut longest = 0;
    for module in &ground.ours.modules {
        let ours = order.dependencies(&module.name).unwrap();
        let ours: Vec<_> = ours.iter().map(|module| module.name.clone()).collect();
        longest = longest.max(ours.len());
        let theirs = theirs(&context, &module.name);
        if ours != theirs {
            differ.insert(&module.name, (ours, theirs));
        }
    }
    for (name, (ours, theirs)) in &differ {
        println!("{name}\n  ours   {ours:?}\n  theirs {theirs:?}");
    }
    assert!(differ.is_empty(), "{} of {} modules differ", differ.len(), ground.ours.modules.len());
    // A kernel with hardly any module, or none that needs another, would prove nothing.
    assert!(ground.ours.modules.len() > 500 && longest > 5, "{} {longest}", ground.ours.modules.len());
}

/// `modules.dep` and our index name the same files.
#[test]
fn module_index_matches_depmod() {
    let ground = ground();
    let text = ground.depmods("modules.dep");
    let theirs: BTreeSet<_> = text.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    let ours: BTreeSet<_> = ground.ours.modules.iter().map(|module| module.path.as_str()).collect();
    assert_eq!(ours, theirs);
}

/// `modules.softdep` has the soft dependencies as kmod reads them: ours are the same, except for
/// the commas that kmod treats as letters.
#[test]
fn soft_dependencies_match_depmod() {
    let ground = ground();
    let mut theirs: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for line in ground.depmods("modules.softdep").lines().filter_map(|line| line.strip_prefix("softdep ")) {
        let mut words =
            line.split([' ', ',']).filter(|word| !word.is_empty()).map(|word| word.replace('-', "_"));
        let entry = theirs.entry(words.next().unwrap()).or_default();
        // As kmod does, which ignores everything before the first of the two (cifs says just
        // "aes").
        let mut list = &mut Vec::new();
        for word in words {
            match word.as_str() {
                "pre:" => list = &mut entry.0,
                "post:" => list = &mut entry.1,
                _ => list.push(word),
            }
        }
    }
    theirs.retain(|_, (before, after)| !before.is_empty() || !after.is_empty());
    let has_some = |module: &&Module| !module.soft_before.is_empty() || !module.soft_after.is_empty();
    let of = |module: &Module| (module.soft_before.clone(), module.soft_after.clone());
    let ours: BTreeMap<_, _> =
        ground.ours.modules.iter().filter(has_some).map(|module| (module.name.clone(), of(module))).collect();
    assert!(theirs.len() > 10, "{theirs:?}");
    assert_eq!(ours, theirs);
}

/// What modprobe would load for the modules of the image, one after the other, is what the image
/// loads, with two differences: NVIDIA's soft dependencies, which kmod cannot read, are loaded; and
/// a soft dependency on what is built in brings no second implementation of it (the kernel has
/// crc32c; modprobe adds crc32c-intel, which not every processor supports).
#[test]
fn initrd_modules_load_as_by_modprobe() {
    let ground = ground();
    let (profile, _) = Profile::load(rig::build::GUESTS).unwrap();
    let wanted = [profile.kernel.modules, profile.modules.load].concat();
    let order = ground.ours.load_order();
    let mut ours: Vec<_> = order.plan(&wanted).unwrap();
    let mut theirs = modprobe(ground, &wanted);
    assert!(theirs.len() > 10, "{theirs:?}");

    let built_in: BTreeSet<_> = ours.iter().flat_map(|module| &module.soft_before).collect();
    let built_in =
        built_in.intersection(&ground.ours.builtin_aliases.iter().collect()).copied().collect::<Vec<_>>();
    theirs.retain(|module| !module.aliases.iter().any(|alias| built_in.contains(&alias)));
    let nvidia = ground.ours.module("nvidia").unwrap();
    assert!(nvidia.soft_before.iter().any(|name| name == "ecdh_generic"), "{nvidia:?}");
    let extra = order.plan(&nvidia.soft_before[..1]).unwrap();
    ours.retain(|module| !extra.contains(module) || theirs.contains(module));
    let names = |list: &[&Module]| list.iter().map(|module| module.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
}

/// What `modprobe` would load for these, each once.
fn modprobe(ground: &'static Ground, wanted: &[String]) -> Vec<&'static Module> {
    let base = ground.directory.ancestors().nth(3).unwrap();
    let mut list: Vec<&Module> = Vec::new();
    for name in wanted {
        let mut modprobe = Command::new("modprobe");
        modprobe.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["--show-depends", "-C", "/dev/null"]);
        modprobe.arg("-d").arg(base).args(["-S", &ground.ours.release, name]);
        let output = run(&mut modprobe).unwrap();
        // `builtin NAME` or `insmod PATH`.
        for path in
            String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.strip_prefix("insmod "))
        {
            let path = Path::new(path.trim()).strip_prefix(&ground.directory).unwrap();
            let module = ground.ours.modules.iter().find(|module| Path::new(&module.path) == path).unwrap();
            if !list.contains(&module) {
                list.push(module);
            }
        }
    }
    list
}
