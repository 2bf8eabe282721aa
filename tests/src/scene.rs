//! Shared by the tests with guests: the tools of the lock, container disks, the stub driver, and
//! requests to a guest.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use host_builder::common::digest::sha256;
use host_builder::common::error::Error;
use host_builder::common::ui::Ui;
use host_builder::guest_client::Target;
use host_builder::pins::lock::{Lock, Set};
use host_builder::pins::profile::Profile;
use host_builder::programs::toolroot;
use host_builder::resolve::sources::Access;
use host_builder::{guest_client, resolve};
use image::{
    layout,
    manifest::Payload,
    status::{Code, Finding, Severity, Status},
    wire::{self, DEFAULT_PORT, MAX_REPLY, MAX_REQUEST, Reply, Request, Until, WireError},
};

use crate::{
    RigError,
    build::{Built, Cached, GUESTS, borrow, build, cache, initrd_for_disk},
    disk::{self, FileSystem},
    guest::{Guest, Setup},
    record,
    roots::{Recipe, Suite},
    stub,
    tools::Toolroot,
    variant::Variant,
};

/// Longest wait for anything a guest does. A boot takes 15 s under TCG on an idle machine; CI
/// machines are not idle.
pub const PATIENCE: Duration = Duration::from_mins(4);
/// Longest wait for one answer of the status server.
const ANSWER: Duration = Duration::from_secs(20);

fn lock() -> Result<Lock, RigError> {
    Lock::read(&initrd_for_disk().lock)?.ok_or_else(|| RigError::Missing {
        what: initrd_for_disk().lock.display().to_string(),
        remedy: "build-initrd writes it".into(),
    })
}

fn locked_toolroot(set: Set, links: bool) -> Result<Toolroot, RigError> {
    let ui = Ui::new(false);
    let cache = cache()?;
    let lock = lock()?;
    let (profile, _) = Profile::load(GUESTS)?;
    resolve::fetch(&profile, &lock, &[set], Access::new(&cache, &ui))?;
    let links = profile.toolroot.filter(|_| links).map(|toolroot| toolroot.links).unwrap_or_default();
    Ok(Toolroot::at(toolroot::Toolroot::of(&cache, &lock, set, &links, &ui)?.path())?)
}

/// QEMU and what makes disks, as locked.
pub fn vm_tools() -> &'static Toolroot {
    static TOOLS: OnceLock<Toolroot> = OnceLock::new();
    TOOLS.get_or_init(|| locked_toolroot(Set::Vm, false).unwrap_or_else(|e| panic!("no QEMU: {e:?}")))
}

/// The compiler and the kernel's headers, as locked.
fn build_tools() -> &'static Toolroot {
    static TOOLS: OnceLock<Toolroot> = OnceLock::new();
    TOOLS
        .get_or_init(|| locked_toolroot(Set::Toolroot, true).unwrap_or_else(|e| panic!("no compiler: {e:?}")))
}

/// A container root of a Debian release with the rig's probes, on a disk. Shared: read only.
pub fn root_disk(suite: Suite, kind: FileSystem) -> PathBuf {
    let make = || -> Result<PathBuf, RigError> {
        let root = Recipe::minbase(suite).directory()?;
        let room = cache()?.room("rig/disks")?;
        let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let image = room.join(format!("{name}.{kind:?}").to_lowercase());
        let _one_at_a_time = cache()?.lock("rig-disks")?;
        if !image.exists() {
            disk::make(vm_tools(), kind, &root, &image)?;
        }
        Ok(image)
    };
    make().unwrap_or_else(|error| panic!("no {kind:?} disk with {suite:?}: {error:?}"))
}

/// A disk that holds one file.
pub fn file_disk(directory: &Path, name: &str, file: &str, text: &str) -> PathBuf {
    let source = directory.join(format!("{name}.d"));
    fs::create_dir_all(&source)
        .and_then(|()| fs::write(source.join(file), text))
        .expect("the directory is ours");
    let image = directory.join(name);
    disk::make(vm_tools(), FileSystem::Ext4, &source, &image).unwrap_or_else(|e| panic!("no disk: {e:?}"));
    image
}

/// A guest with a config disk, which is made in `directory`.
pub fn with_config(setup: Setup, directory: &Path, config: &serde_json::Value) -> Setup {
    setup.disk(&file_disk(directory, "config", layout::CONFIG_FILE, &config.to_string()), "config")
}

/// A guest that has no driver, with a Debian 12 root on EROFS: for tests that need no GPU.
pub fn guest() -> Setup {
    bare_guest().disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root")
}

/// A guest that has no driver and no root.
pub fn bare_guest() -> Setup {
    guest_of(bare_initrd()).memory_mib(512)
}

/// A guest of the image whose driver is on a disk, with that disk and a Debian 12 root on EROFS.
pub fn guest_with_driver() -> Setup {
    with_driver(&initrd_for_disk().initrd, initrd_for_disk())
        .disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root")
}

/// A guest of the stub driver, without a root.
pub fn guest_with_stub() -> Setup {
    with_driver(&stub_build().initrd, stub_build())
}

/// A guest of an image and the driver's disk of the build that it is a variant of, without a root.
pub fn with_driver(initrd_file: &Path, build: &Built) -> Setup {
    guest_of(initrd_file).driver_disk(build.disk.as_deref().expect("the build has a disk"))
}

/// A guest of the stub driver whose guest-init says every second what it uses: for the soak test.
pub fn guest_that_counts() -> Setup {
    let make = || -> Result<PathBuf, RigError> {
        let mut variant = Variant::of(&stub_build().initrd)?;
        let program = crate::build::faulty_guest_init();
        *variant.file(layout::INIT) = fs::read(program).map_err(|e| RigError::io("read", program, e))?;
        let file = cache()?.room("rig/variants")?.join(format!("counts-{}.img", std::process::id()));
        variant.write(&file)?;
        Ok(file)
    };
    let file = make().unwrap_or_else(|error| panic!("no image that counts: {error:?}"));
    with_driver(&file, stub_build()).cmdline("gpu_initrd_fault=count")
}

/// A guest whose guest-init has a fault: a build for tests alone, and its key on the command line.
pub fn guest_with_fault(fault: &str) -> Setup {
    let program = crate::build::faulty_guest_init().to_string_lossy();
    let built = crate::build::initrd_with(&["--payload", "disk", "--guest-init", &program]);
    guest_of(&built.initrd).cmdline(&format!("gpu_initrd_fault={fault}"))
}

/// A guest of another initrd, without a root.
pub fn guest_of(initrd_file: &Path) -> Setup {
    let setup =
        Setup::new(&initrd_for_disk().kernel, initrd_file).unwrap_or_else(|e| panic!("no guest: {e:?}"));
    setup.memory_mib(1024).cmdline("rootfstype=ramfs")
}

/// Boots it.
pub fn boot(setup: Setup) -> Guest {
    setup.boot(vm_tools()).unwrap_or_else(|error| panic!("the guest did not start: {error:?}"))
}

/// The image with the stub driver in place of NVIDIA's modules, on a disk too. Its parameters come
/// from the command line. The real builder packs it: in a cache of its own, the modules that it has
/// built are these.
pub fn stub_build() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let make = || -> Result<Built, RigError> {
            let modules = stub_modules()?;
            let place = tempfile::tempdir()
                .map_err(|e| RigError::io("make a directory in", std::env::temp_dir(), e))?;
            borrow(place.path())?;
            let room = place.path().join("modules");
            for entry in
                fs::read_dir(&room).map_err(|e| RigError::io("list", &room, e))?.filter_map(Result::ok)
            {
                let replaced = fs::remove_file(entry.path()).and_then(|()| symlink(&modules, entry.path()));
                replaced.map_err(|e| RigError::io("replace", entry.path(), e))?;
            }
            build(GUESTS, &["--payload", "disk"], Some(Cached { place: place.path(), key: &stub::digest() }))
        };
        make().unwrap_or_else(|error| panic!("no image with the stub driver: {error:?}"))
    })
}

/// The modules of the stub driver, compiled once for a state of their sources, of the lock and of
/// the driver's version.
fn stub_modules() -> Result<PathBuf, RigError> {
    let (release, version) = (initrd_for_disk().release(), initrd_for_disk().driver());
    let headers_and_compiler = lock()?.digest(&[Set::Toolroot]);
    let key = sha256(format!("{} {release} {version} {headers_and_compiler}", stub::digest()).as_bytes());
    let make = |out: &Path| {
        let work = tempfile::tempdir().map_err(|e| Error::new(format!("making a directory: {e}")))?;
        let built = stub::Headers::of_debian(release)
            .and_then(|headers| stub::build(build_tools(), &headers, version, work.path()))
            .map_err(|error| Error::new(format!("the stub driver does not build: {error:?}")))?;
        for file in built {
            let to = out.join(file.file_name().unwrap_or_default());
            fs::copy(&file, &to).map_err(|e| Error::new(format!("{}: {e}", to.display())))?;
        }
        Ok(())
    };
    Ok(cache()?.derived("rig/stub", &key[..16], make)?)
}

/// The image without the driver, which an emulated kernel unpacks quickly.
fn bare_initrd() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let gpu = layout::gpu_module(initrd_for_disk().release(), "");
        shared_variant("bare", |variant| {
            variant.edit_manifest(|manifest| {
                manifest.modules.retain(|module| !module.path.starts_with(&gpu));
                (manifest.driver, manifest.payload) = (None, Payload::Files);
            });
        })
    })
}

/// A changed copy of the image whose driver is on a disk, for all tests of this process.
fn shared_variant(name: &str, change: impl FnOnce(&mut Variant)) -> PathBuf {
    let make = || -> Result<PathBuf, RigError> {
        let mut variant = Variant::of(&initrd_for_disk().initrd)?;
        change(&mut variant);
        let room = cache()?.room("rig/variants")?;
        forget_old(&room).map_err(|e| RigError::io("tidy", &room, e))?;
        let file = room.join(format!("{name}-{}.img", std::process::id()));
        variant.write(&file)?;
        Ok(file)
    };
    make().unwrap_or_else(|error| panic!("no variant {name} of the image: {error:?}"))
}

/// Removes the files of a directory that no test process uses any longer.
fn forget_old(room: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(room)? {
        let entry = entry?;
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age > Duration::from_hours(24))) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The target of a guest.
pub fn target(guest: &Guest) -> Target {
    let address = guest.address(DEFAULT_PORT).expect("the guest has a vsock device");
    address.parse().unwrap_or_else(|error| panic!("{address}: {error:?}"))
}

/// The status now.
pub fn ask(guest: &Guest) -> Status {
    guest_client::status(&target(guest), ANSWER)
        .unwrap_or_else(|e| panic!("no status: {e:?}\n{}", guest.last_words()))
}

/// The status once `until` is reached, or known to be unreachable.
pub fn wait(guest: &Guest, until: Until) -> Status {
    guest_client::wait(&target(guest), until, PATIENCE)
        .unwrap_or_else(|e| panic!("no {until:?}: {e:?}\n{}", guest.last_words()))
}

/// One request, on a connection of its own, past the host tool's own code.
pub fn request(guest: &Guest, request: &Request) -> Reply {
    let mut stream =
        guest.connect(DEFAULT_PORT, ANSWER).unwrap_or_else(|e| panic!("{e:?}\n{}", guest.last_words()));
    let asked = stream.set_read_timeout(Some(PATIENCE)).map_err(WireError::Io);
    let asked = asked.and_then(|()| wire::write(&mut stream, request, MAX_REQUEST));
    let reply = asked.and_then(|()| wire::read(&mut stream, MAX_REPLY));
    reply.unwrap_or_else(|e| panic!("no reply to {request:?}: {e}\n{}", guest.last_words()))
}

/// Requests the status again and again, and returns it once `reached` holds.
pub fn wait_for(guest: &Guest, what: &str, reached: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(status) = guest_client::status(&target(guest), ANSWER)
            && reached(&status)
        {
            return status;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}\n{}", guest.last_words());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The one finding of a code. Panics with all findings when there is none.
pub fn finding(status: &Status, code: Code) -> &Finding {
    let found = status.findings.iter().find(|finding| finding.code == code);
    let found = found.unwrap_or_else(|| panic!("no finding {code:?} among {:#?}", status.findings));
    record::seen(code);
    found
}

/// The one finding of a code, checked for everything that a finding must have: this severity, a
/// hint, a link, and this text in its evidence (`""`: no evidence). Panics with all findings when
/// there is none.
pub fn told<'a>(status: &'a Status, code: Code, severity: Severity, evidence: &str) -> &'a Finding {
    let found = finding(status, code);
    assert_eq!(found.severity, severity, "{found:?}");
    complete(found, evidence);
    found
}

/// Checks a finding as [`told`] does, where others have its code.
pub fn complete(found: &Finding, evidence: &str) {
    assert!(!found.hint.is_empty() && !found.message.is_empty() && found.at_ms > 0, "{found:?}");
    assert_eq!(found.link, format!("docs/findings.md#{}", found.code.name()));
    match evidence {
        "" => assert!(found.evidence.is_empty(), "{found:?}"),
        text => assert!(found.evidence.iter().any(|line| line.contains(text)), "no {text:?} in {found:?}"),
    }
}

/// A finding on the console of a guest without a status server: its code, and the beginning of its
/// message.
pub fn told_on_console(console: &str, code: Code, message: &str) {
    let line = format!("gpu-initrd: {}: {message}", code.name());
    assert!(console.contains(&line), "no {line:?} in {console}");
    record::seen(code);
}

/// What the container printed between `begin` and `end` lines of its own.
pub fn between(console: &str, begin: &str, end: &str) -> Vec<String> {
    let lines = console.lines().skip_while(|line| *line != begin).skip(1).take_while(|line| *line != end);
    // The kernel's lines are in between.
    lines.filter(|line| !line.starts_with('[')).map(str::to_owned).collect()
}
