//! `boot`: starts a guest on this machine, for trying an image.

use super::manifest_of::{is_manifest, manifest};
use crate::archive::{Archive, Want};
use crate::cache::Cache;
use crate::cli::{Boot, DEFAULT_PAYLOAD_OUTPUT};
use crate::error::{Doing, Error, Result};
use crate::interrupt::{Action, Guard};
use crate::lock::{Lock, Set};
use crate::profile::Profile;
use crate::query::Target;
use crate::resolve;
use crate::source::Access;
use crate::toolroot;
use crate::ui::{Ui, megabytes};
use crate::vm::backend::{self, VsockBackend};
use crate::vm::disk::{self, FileSystem, Owners};
use crate::vm::qemu::{Console, Drive, Gpu, Machine, Vm, Vsock};
use crate::vm::terminal::Terminal;
use crate::vm::tools::Toolroot;
use crate::vm::{accel, cmdline, vfio};
use image::manifest::Payload;
use image::wire::DEFAULT_PORT;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const VHOST_VSOCK: &str = "/dev/vhost-vsock";
const DEFAULT_UDS: &str = "out/vsock.sock";
/// So long QEMU has for ending by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);
/// How often QEMU's end is looked for.
const POLL: Duration = Duration::from_millis(20);

/// Runs the command: until the guest has ended.
pub fn run(args: &Boot) -> Result<()> {
    let ui = Ui::new(args.quiet);
    // Everything that can be wrong with the arguments is said before anything is fetched or made.
    let cmdline = cmdline::build(!gpus_asked(args).is_empty(), args.append.as_deref(), &args.command)?;
    let mut machine = Machine::new(
        &file("--kernel", &args.kernel, "make it first: host-builder build-initrd")?,
        &file("--initrd", &args.initrd, "make it first: host-builder build-initrd")?,
        Console::Stdio,
    );
    machine.cmdline = cmdline;
    machine.memory_mib = args.memory;
    machine.cpus = args.cpus;
    machine.gpus = gpus(args)?;
    let root = canonical("--root", &args.root, "name a disk image or a directory")?;
    let upper = args.upper.as_deref().map(|disk| file("--upper", disk, "name a disk image")).transpose()?;
    let payload = payload_disk(args, &machine.initrd)?;
    let config =
        args.config.as_deref().map(|disk| file("--config", disk, "name a disk image")).transpose()?;

    let cache = Cache::open()?;
    let tools = toolroot(args, &cache, &ui)?;
    let scratch = Scratch::new()?;
    let (accel, why) = accel::choose(args.accel, &tools, scratch.path())?;
    ui.line(format!("accelerator  {}: {why}", accel.name()));
    machine.accel = accel;
    let work = cache.scratch()?;
    let root = root_disk(&tools, root, work.path(), &ui)?;
    machine.drives.push(Drive { image: root, read_only: true, serial: "root".into() });
    machine.drives.extend(upper.map(|image| Drive { image, read_only: false, serial: "upper".into() }));
    machine.drives.extend(config.map(|image| Drive { image, read_only: true, serial: "config".into() }));
    machine.drives.extend(payload.map(|image| Drive { image, read_only: true, serial: "driver".into() }));
    let _backend = vsock(args, &mut machine, &cache, scratch.path(), &ui)?;
    run_machine(&machine, &tools)
}

/// The driver's disk: the named one, or the one beside an initrd that wants one.
fn payload_disk(args: &Boot, initrd: &Path) -> Result<Option<PathBuf>> {
    let hint =
        "name the file that build-initrd wrote beside the initrd (its --payload-output): --payload-disk FILE";
    if let Some(disk) = &args.payload_disk {
        return file("--payload-disk", disk, hint).map(Some);
    }
    let contents = Archive::open(initrd)?.read(&Want { digests: false, keep: &is_manifest })?;
    let Some((manifest, _)) = manifest(&contents.tree(), initrd)? else { return Ok(None) };
    let Payload::Disk { erofs, .. } = &manifest.payload else { return Ok(None) };
    let usual = Path::new(DEFAULT_PAYLOAD_OUTPUT);
    if usual.is_file() {
        return file("--payload-disk", usual, hint).map(Some);
    }
    if gpus_asked(args).is_empty() {
        return Ok(None);
    }
    Err(Error::new(format!(
        "{} has its driver on a disk (EROFS with UUID {}), and {} is not there",
        args.initrd.display(),
        erofs.uuid,
        usual.display()
    ))
    .hint(hint))
}

fn gpus_asked(args: &Boot) -> Vec<&Path> {
    let own = args.vfio.iter().map(Path::new);
    own.chain(args.vfio_user.iter().map(PathBuf::as_path)).collect()
}

fn gpus(args: &Boot) -> Result<Vec<Gpu>> {
    let own = args.vfio.iter().map(|address| vfio::check(address).map(Gpu::Vfio));
    let served = args.vfio_user.iter().map(|path| {
        let hint = "start its server first; it makes the socket";
        let path = canonical("--vfio-user", path, hint)?;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            return Ok(Gpu::VfioUser(path));
        }
        Err(Error::new(format!("--vfio-user {}: expected a socket, found another file", path.display()))
            .hint(hint))
    });
    own.chain(served).collect()
}

/// The path that QEMU sees: absolute, without links.
fn canonical(option: &str, path: &Path, hint: &str) -> Result<PathBuf> {
    path.canonicalize()
        .map_err(|error| Error::new(format!("{option} {}", path.display())).source(error).hint(hint))
}

/// A file or a block device.
fn file(option: &str, path: &Path, hint: &str) -> Result<PathBuf> {
    let found = canonical(option, path, hint)?;
    if found.is_dir() {
        return Err(
            Error::new(format!("{option} {}: expected a file, found a directory", path.display())).hint(hint)
        );
    }
    Ok(found)
}

fn toolroot(args: &Boot, cache: &Cache, ui: &Ui) -> Result<Toolroot> {
    let (profile, text) = Profile::load(&args.profile)?;
    let lock = Lock::read(&args.lock)?.ok_or_else(|| {
        Error::new(format!("{}: there is no lock", args.lock.display()))
            .hint("make it first: host-builder build-initrd; or name it: --lock FILE")
    })?;
    lock.check_profile(&profile.name, &text, &args.lock)?;
    if profile.vm.is_none() {
        return Err(Error::new(format!("profile {} names no packages that run a guest", profile.name)).hint(
            "take QEMU from another profile, and everything else as it is: `host-builder pins resolve --profile debian-13 --lock qemu.lock`, then boot with --profile debian-13 --lock qemu.lock; or add [vm] to the profile",
        ));
    }
    resolve::fetch(&profile, &lock, &[Set::Vm], Access::new(cache, ui))?;
    Toolroot::at(toolroot::Toolroot::of(cache, &lock, Set::Vm, &BTreeMap::new(), ui)?.path())
}

/// A disk as it is; of a directory an image.
fn root_disk(tools: &Toolroot, root: PathBuf, work: &Path, ui: &Ui) -> Result<PathBuf> {
    if !root.is_dir() {
        return Ok(root);
    }
    ui.line(format!("root         making an EROFS image of {} …", root.display()));
    let image = work.join("root.erofs");
    // A directory that root unpacked has the container's owners; anybody else's has only theirs.
    let owners = if nix::unistd::geteuid().is_root() { Owners::Kept } else { Owners::Root };
    disk::make_owned(tools, FileSystem::Erofs, owners, &root, &image)?;
    let size = fs::metadata(&image).doing("reading", &image)?.len();
    ui.line(format!("root         {} of EROFS", megabytes(size)));
    Ok(image)
}

/// The guest's vsock device, and the daemon behind it where the kernel has no vhost-vsock. Says how to ask the guest.
fn vsock(
    args: &Boot,
    machine: &mut Machine,
    cache: &Cache,
    scratch: &Path,
    ui: &Ui,
) -> Result<Option<VsockBackend>> {
    // Process ids are unique on a machine, and far below the reserved end of the context ids.
    let cid = args.cid.unwrap_or_else(|| 0x1_0000 + std::process::id());
    let kernel = args.uds.is_none() && fs::File::options().read(true).write(true).open(VHOST_VSOCK).is_ok();
    let (target, backend) = if kernel {
        machine.vsock = Some(Vsock::Kernel(cid));
        (Target::Vsock { cid, port: DEFAULT_PORT }, None)
    } else {
        let uds = args.uds.as_deref().unwrap_or(Path::new(DEFAULT_UDS));
        let daemon = backend::daemon(cache, ui)?;
        let backend = VsockBackend::start(&daemon, scratch, uds, cid)?;
        machine.vsock = Some(Vsock::User(backend.vhost().to_owned()));
        (Target::Unix { path: uds.to_owned(), port: DEFAULT_PORT }, Some(backend))
    };
    ui.line(format!("ask it       host-builder status {target}"));
    Ok(backend)
}

fn run_machine(machine: &Machine, tools: &Toolroot) -> Result<()> {
    let terminal = Terminal::save();
    let mut vm = machine.start_attached(tools)?;
    let _on_interrupt = end_on_interrupt(&vm, terminal.clone());
    let status = loop {
        if let Some(status) = vm.ended()? {
            break status;
        }
        thread::sleep(POLL);
    };
    if status.success() {
        return Ok(());
    }
    Err(Error::new(format!("QEMU ended with {status}; its own messages are above"))
        .hint("compare --memory, the disks and the GPUs with what it says"))
}

/// SIGTERM, a little patience, SIGKILL; then the terminal as it was.
fn end_on_interrupt(vm: &Vm, terminal: Terminal) -> Action {
    let id = Pid::from_raw(i32::try_from(vm.id()).expect("Linux process ids are positive"));
    Action::new(move || {
        let end = Instant::now() + GRACE;
        let _ = kill(id, Signal::SIGTERM);
        // The main thread reaps it, and then waits for this one.
        while kill(id, None).is_ok() {
            if Instant::now() >= end {
                let _ = kill(id, Signal::SIGKILL);
                break;
            }
            thread::sleep(POLL);
        }
        terminal.restore();
    })
}

/// A directory with a short path, for sockets; gone when dropped, and on an interrupt.
struct Scratch {
    dir: tempfile::TempDir,
    _guard: Guard,
}

impl Scratch {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("gpu-initrd-").tempdir();
        let dir = dir.doing("creating a temporary directory in", &std::env::temp_dir())?;
        let guard = Guard::new(dir.path());
        Ok(Self { dir, _guard: guard })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}
