//! `boot`: starts a guest on this machine to try an initrd, and exits with the exit code of its
//! program.

mod before;
mod config;
mod console;
mod ending;
pub(crate) mod options;
mod run;
mod stop;

use self::config::Given;
pub use self::ending::NOT_STARTED;
use self::options::Boot;
use self::stop::Stop;
use crate::artifacts::cache::Cache;
use crate::cli::arguments::profile_or_locks;
use crate::common::error::{Doing, Error, Result};
use crate::common::interrupt::Guard;
use crate::common::ui::{Ui, megabytes, say};
use crate::guest_client::Target;
use crate::pins::lock::{Lock, Set};
use crate::programs::process::poll;
use crate::programs::toolroot;
use crate::programs::tools::Toolroot;
use crate::resolve;
use crate::resolve::sources::Access;
use crate::vm::disk::{self, FileSystem, Owners};
use crate::vm::qemu::{Console, Drive, Gpu, Machine, Vsock};
use crate::vm::vsock_backend;
use crate::vm::vsock_backend::VsockBackend;
use crate::vm::{accel, cmdline, vfio};
use image::layout;
use image::wire::DEFAULT_PORT;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const VHOST_VSOCK: &str = "/dev/vhost-vsock";
const DEFAULT_UDS: &str = "out/vsock.sock";
/// Longest time for a GPU server to create its socket.
const SERVER: Duration = Duration::from_secs(10);

/// Runs the command until the guest has ended. Returns the program's exit code, or one that says
/// why there is none.
pub fn run(args: &Boot) -> ExitCode {
    match start(args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("error: {}", error.chain()));
            if let Some(remedy) = error.remedy() {
                say(&format!("  what to do: {remedy}"));
            }
            ExitCode::from(NOT_STARTED)
        }
    }
}

fn start(args: &Boot) -> Result<u8> {
    let ui = Ui::new(args.quiet);
    let gpus_asked = !args.gpus().is_empty();
    // Arguments are checked before anything is fetched or created.
    let append = [size(), args.append.clone()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let cmdline = cmdline::build(gpus_asked, Some(&append), &args.command)?;
    let kernel = before::kernel(&args.kernel)?;
    let initrd = before::file("--initrd", &args.initrd, "build it first: host-builder build-initrd")?;
    let mut machine = Machine::new(&kernel, &initrd, Console::Stdio);
    machine.cmdline = cmdline;
    machine.memory_mib = args.memory;
    machine.cpus = args.cpus;
    let plan = before::plan(&initrd)?;
    if let Some(plan) = &plan {
        before::check(args, &initrd, &kernel, plan)?;
    }
    let payload = before::payload_disk(args, plan.as_ref())?;
    let root = before::root(&args.root)?;
    let upper = args
        .upper
        .as_deref()
        .map(|disk| before::disk("--upper", disk, "name a disk image with ext4"))
        .transpose()?;
    let given = Given::of(args)?;
    if !gpus_asked && before::is_drivers(&args.command) {
        ui.line(format!(
            "note         {} belongs to the driver, and a guest without a GPU gets no driver files: --vfio BDF",
            args.command[0]
        ));
    }
    machine.gpus = gpus(args)?;

    let cache = Cache::open()?;
    let tools = toolroot(args, &cache, &ui)?;
    let scratch = Scratch::new()?;
    let (accel, why) = accel::choose(args.accel, &tools, scratch.path())?;
    ui.line(format!("accelerator  {}: {why}", accel.name()));
    machine.accel = accel;
    let work = cache.scratch()?;
    let root = root_disk(&tools, root, work.path(), &ui)?;
    machine.drives.push(Drive { image: root, read_only: true, serial: layout::ROOT_SERIAL.into() });
    machine.drives.extend(upper.map(|image| Drive {
        image,
        read_only: false,
        serial: layout::UPPER_SERIAL.into(),
    }));
    machine.drives.extend(given.drives(&tools, work.path(), &ui)?);
    machine.drives.extend(payload.map(|image| Drive { image, read_only: true, serial: "driver".into() }));
    let (target, _backend) = vsock(args, &mut machine, &cache, scratch.path(), &ui)?;
    let power = scratch.path().join("power.sock");
    machine.monitors.push(power.clone());
    let stop = Stop::new(target, power, &machine.cmdline);
    run::to_the_end(args, &machine, &stop, &tools, &ui)
}

/// The size of the terminal that shows the console, for the guest.
fn size() -> Option<String> {
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let (width, height) = is_terminal.then(terminal_size::terminal_size)??;
    Some(format!("gpu_initrd.terminal={}x{}", height.0, width.0))
}

fn gpus(args: &Boot) -> Result<Vec<Gpu>> {
    let own = args.vfio.iter().map(|address| vfio::check(address).map(Gpu::Vfio));
    let served = args.vfio_user.iter().map(|path| {
        let hint = "start its server first; the server creates the socket";
        let there = || Ok::<_, Infallible>(path.exists().then_some(()));
        let Ok(_) = poll(SERVER, there);
        let path = before::canonical("--vfio-user", path, hint)?;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            return Ok(Gpu::VfioUser(path));
        }
        Err(Error::new(format!(
            "--vfio-user {}: expected a socket, found a file of another type",
            path.display()
        ))
        .hint(hint))
    });
    own.chain(served).collect()
}

fn toolroot(args: &Boot, cache: &Cache, ui: &Ui) -> Result<Toolroot> {
    let (profile, text) = profile_or_locks(args.profile.as_deref(), &args.lock)?;
    let lock = Lock::read(&args.lock)?.ok_or_else(|| {
        Error::new(format!("{}: no such lock", args.lock.display()))
            .hint("create it: host-builder build-initrd; or pass an existing one: --lock FILE")
    })?;
    lock.check_profile(&profile.name, &text, &args.lock)?;
    if profile.vm.is_none() {
        return Err(Error::new(format!("profile {} has no packages that run a guest", profile.name)).hint(
            "use QEMU of another profile: run `host-builder pins resolve --profile debian-13 --lock qemu.lock`, then boot with --profile debian-13 --lock qemu.lock; nothing else changes; or add [vm] to the profile",
        ));
    }
    resolve::fetch(&profile, &lock, &[Set::Vm], Access::new(cache, ui))?;
    Toolroot::at(toolroot::Toolroot::of(cache, &lock, Set::Vm, &BTreeMap::new(), ui)?.path())
}

/// Returns a disk unchanged; packs a directory into an image.
fn root_disk(tools: &Toolroot, root: PathBuf, work: &Path, ui: &Ui) -> Result<PathBuf> {
    if !root.is_dir() {
        return Ok(root);
    }
    ui.line(format!("root         packing {} into an EROFS image …", root.display()));
    let image = work.join("root.erofs");
    // A directory that root unpacked has the container's owners; one that another user unpacked has
    // only that user.
    let owners = if nix::unistd::geteuid().is_root() { Owners::Kept } else { Owners::Root };
    disk::make_owned(tools, FileSystem::Erofs, owners, &root, &image)?;
    let size = fs::metadata(&image).doing("reading", &image)?.len();
    ui.line(format!("root         {} as EROFS", megabytes(size)));
    Ok(image)
}

/// The guest's vsock device, and its daemon where the kernel has no vhost-vsock. Prints the status
/// command.
fn vsock(
    args: &Boot,
    machine: &mut Machine,
    cache: &Cache,
    scratch: &Path,
    ui: &Ui,
) -> Result<(Target, Option<VsockBackend>)> {
    // Process ids are unique on a machine, and far below the reserved end of the context ids.
    let cid = args.cid.unwrap_or_else(|| 0x1_0000 + std::process::id());
    let kernel = args.uds.is_none() && fs::File::options().read(true).write(true).open(VHOST_VSOCK).is_ok();
    let (target, backend) = if kernel {
        machine.vsock = Some(Vsock::Kernel(cid));
        (Target::Vsock { cid, port: DEFAULT_PORT }, None)
    } else {
        let uds = args.uds.as_deref().unwrap_or(Path::new(DEFAULT_UDS));
        let daemon = vsock_backend::daemon(cache, ui)?;
        let monitor = scratch.join("monitor.sock");
        let backend = VsockBackend::start(&daemon, scratch, uds, cid, &monitor)?;
        machine.monitors.push(monitor);
        machine.vsock = Some(Vsock::User(backend.vhost().to_owned()));
        (Target::Unix { path: uds.to_owned(), port: DEFAULT_PORT }, Some(backend))
    };
    ui.line(format!("status       host-builder status {target}"));
    Ok((target, backend))
}

/// A directory with a short path, for sockets. It is removed on drop and on an interrupt.
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
