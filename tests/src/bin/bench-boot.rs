//! How soon a program runs (tests/bench/boot): our initrd against one made by hand, from the same files, in turn. Times are those of the
//! guest's clock, from the kernel's start of PID 1 to the program.

use clap::Parser;
use rig::RigError;
use rig::build::{Built, initrd_with};
use rig::disk::FileSystem;
use rig::guest::Setup;
use rig::phantom::Model;
use rig::roots::{Recipe, Suite};
use rig::scene::{boot, guest_of, root_disk, with_driver};
use rig::variant::Variant;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What a guest's memory must hold: the driver twice, which the peer copies.
const MEMORY_MIB: u32 = 1536;
/// Longest wait for the end of a guest.
const PATIENCE: Duration = Duration::from_mins(15);
/// The program: prints the guest's clock.
const PROGRAM: &str = "/usr/bin/cat /proc/uptime";
/// Modules that the peer loads for its root, in order, where they are modules.
const FOR_ROOT: [&str; 4] = ["virtio_blk", "libcrc32c", "erofs", "overlay"];

/// Arguments.
#[derive(Parser)]
struct Arguments {
    /// Count instructions instead of time: the figures are the same in every round. One CPU, no GPU: the phantom keeps real time.
    #[arg(long)]
    icount: bool,
    /// Boots of each kind; the middle one counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The guest-init that is measured.
    #[arg(long)]
    guest_init: PathBuf,
    /// Boots of this kind alone: `no-gpu` or `gpu`.
    #[arg(long)]
    only: Option<String>,
    /// Keep the console of the last boot of each kind, with a log of level debug, in this directory.
    #[arg(long)]
    consoles: Option<PathBuf>,
}

/// The initrds that are compared.
struct Images {
    peer: PathBuf,
    image: Built,
    disk: Built,
}

/// One kind of boot.
#[derive(Clone, Copy)]
struct Kind {
    gpu: bool,
    cpus: u32,
    icount: bool,
}

/// One boot: seconds from PID 1 to the program, and the phases of ours in milliseconds.
struct Measured {
    seconds: f64,
    before: f64,
    phases: Vec<(String, u32)>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), RigError> {
    let work =
        tempfile::tempdir().map_err(|e| RigError::io("make a directory in", std::env::temp_dir(), e))?;
    if let Some(dir) = &arguments.consoles {
        std::fs::create_dir_all(dir).map_err(|e| RigError::io("make the directory", dir, e))?;
    }
    let init = arguments.guest_init.to_string_lossy();
    let ours = |payload| {
        initrd_with(&["--payload", payload, "--capabilities", "compute,utility", "--guest-init", &init])
    };
    let peer = work.path().join("peer.img");
    make_peer(&ours("files"), &peer)?;
    let images = Images { peer, image: ours("image"), disk: ours("disk") };
    let all = [(false, 1), (false, 2), (true, 1), (true, 2)];
    for (gpu, cpus) in all {
        let is_wanted = arguments.only.as_deref().is_none_or(|only| (only == "gpu") == gpu);
        if is_wanted && !(arguments.icount && (gpu || cpus > 1)) {
            compare(&images, Kind { gpu, cpus, icount: arguments.icount }, arguments)?;
        }
    }
    Ok(())
}

/// Boots the three in turn, and prints their ratios and our phases.
fn compare(images: &Images, kind: Kind, arguments: &Arguments) -> Result<(), RigError> {
    let gpu = if kind.gpu { "GPU" } else { "no GPU" };
    println!("\n{gpu}, {} CPU{}", kind.cpus, if kind.icount { ", instructions as nanoseconds" } else { "" });
    let mut found: [Vec<Measured>; 3] = [const { Vec::new() }; 3];
    let keep = |name: &str| {
        let dir = arguments.consoles.as_ref()?;
        let gpu = if kind.gpu { "gpu" } else { "no-gpu" };
        Some(dir.join(format!("{name}-{gpu}-{}", kind.cpus)))
    };
    for _ in 0..arguments.rounds {
        found[0].push(measure(guest_of(&images.peer), kind, keep("peer"))?);
        found[1].push(measure(guest_of(&images.image.initrd), kind, keep("image"))?);
        found[2].push(measure(with_driver(&images.disk.initrd, &images.disk), kind, keep("disk"))?);
    }
    let [peer, image, disk] = found.map(middle);
    for (name, ours) in [("peer", &peer), ("image", &image), ("disk", &disk)] {
        println!(
            "{name:6} kernel to PID 1 {:7.3} s   PID 1 to program {:7.3} s   ratio {:.2}",
            ours.before,
            ours.seconds,
            ours.seconds / peer.seconds
        );
        let phases: Vec<_> = ours.phases.iter().map(|(name, ms)| format!("{name} {ms}")).collect();
        if !phases.is_empty() {
            println!("       phases in ms: {}", phases.join(", "));
        }
    }
    Ok(())
}

fn middle(mut all: Vec<Measured>) -> Measured {
    all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    all.swap_remove(all.len() / 2)
}

fn measure(setup: Setup, kind: Kind, keep: Option<PathBuf>) -> Result<Measured, RigError> {
    let mut setup = setup
        .disk(&root_disk(Suite::Trixie, FileSystem::Erofs), "root")
        .memory_mib(MEMORY_MIB)
        .cpus(kind.cpus);
    if kind.gpu {
        setup = setup.gpu(Model::H100);
    }
    if kind.icount {
        setup = setup.counting_instructions();
    }
    let options = if kind.gpu { "HAS_GPU=1 gpu_initrd.gpu=optional" } else { "" };
    let log = if keep.is_some() { "debug" } else { "info" };
    let more = format!("gpu_initrd.log={log} gpu_initrd.linger=0s");
    let mut guest = boot(setup.cmdline(&format!("{options} {more} -- {PROGRAM}")));
    let (_, console) = guest.wait_for_end(PATIENCE)?;
    if let Some(path) = keep {
        fs::write(&path, &console).map_err(|e| RigError::io("write", &path, e))?;
    }
    parse(&console).ok_or_else(|| RigError::Missing {
        what: format!("the program's line on the console:\n{console}"),
        remedy: "see why the guest did not start it".into(),
    })
}

fn parse(console: &str) -> Option<Measured> {
    let stamp = |line: &str| line.strip_prefix('[')?.split(']').next()?.trim().parse::<f64>().ok();
    let before = console.lines().find(|line| line.contains("Run /init as init process")).and_then(stamp)?;
    // `cat /proc/uptime` prints two numbers.
    let numbers =
        |line: &str| -> Option<Vec<f64>> { line.split(' ').map(|word| word.parse().ok()).collect() };
    let program = console.lines().filter_map(numbers).find(|numbers| numbers.len() == 2)?[0];
    let phase = |line: &str| {
        let (name, time) = line.split_once("gpu-initrd: ")?.1.split_once(" done after ")?;
        Some((name.to_owned(), time.split(' ').next()?.parse().ok()?))
    };
    Some(Measured { seconds: program - before, before, phases: console.lines().filter_map(phase).collect() })
}

/// An initrd as made by hand: busybox, the modules in order, nodes by number, the driver copied into an overlay, the image's ldconfig.
fn make_peer(ours: &Built, to: &Path) -> Result<(), RigError> {
    let mut variant = Variant::of(&ours.initrd)?;
    let root = Recipe::minbase(Suite::Trixie).with(&["busybox-static"]).directory()?;
    let busybox = root.join("usr/bin/busybox");
    let program = fs::read(&busybox).map_err(|e| RigError::io("read", &busybox, e))?;
    variant.add("/busybox", 0o755, program);
    let manifest = rig::variant::manifest(&ours.initrd)?;
    let insmod = |name: &str| {
        let module = manifest.modules.iter().find(|module| module.name == name);
        module.map_or_else(String::new, |module| format!("insmod {}\n", module.path))
    };
    let for_root: String = FOR_ROOT.iter().map(|name| insmod(name)).collect();
    let gpu = manifest.modules_for(image::manifest::Purpose::Gpu);
    let for_gpu: String = gpu.map(|module| insmod(&module.name)).collect();
    let script = format!(
        "#!/busybox sh
/busybox mkdir -p /sbin /m/lower /m/upper /m/root
/busybox --install -s /sbin
export PATH=/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
{for_root}mount -t erofs -o ro /dev/vda /m/lower
mount -t tmpfs tmpfs /m/upper; mkdir /m/upper/u /m/upper/w
mount -t overlay -o lowerdir=/m/lower,upperdir=/m/upper/u,workdir=/m/upper/w overlay /m/root
mount -t proc proc /m/root/proc; mount -t sysfs sys /m/root/sys; mount --bind /dev /m/root/dev
if grep -q HAS_GPU=1 /proc/cmdline; then
{for_gpu}mknod -m 666 /dev/nvidiactl c 195 255; mknod -m 666 /dev/nvidia0 c 195 0; mknod -m 666 /dev/nvidia-modeset c 195 254
uvm=$(grep ' nvidia-uvm$' /proc/devices | cut -d' ' -f1)
mknod -m 666 /dev/nvidia-uvm c $uvm 0; mknod -m 666 /dev/nvidia-uvm-tools c $uvm 1
cp -a /usr/lib/nvidia/. /m/root/usr/lib/x86_64-linux-gnu/; cp -a /usr/bin/nvidia-* /m/root/usr/bin/
chroot /m/root /usr/sbin/ldconfig
(exec 3<>/dev/nvidia0) 2>/dev/null
fi
chroot /m/root {PROGRAM}
poweroff -f
"
    );
    variant.add("/init", 0o755, script.into_bytes());
    variant.write(to)
}
