//! A container root, a driver, and what lies outside of both and must stay untouched; and guest-init let loose on
//! them, with bounds on its time and memory.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use guest_init::confined_fs::RootDir;
use guest_init::ldcache::Machine;
use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;

use crate::elf::library;

/// A version that no machine has.
pub const VERSION: &str = "599.99.07";
/// Longest that any root may keep guest-init busy; without optimisation it is given twice the time.
pub const DEADLINE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 40 } else { 20 });
/// Most memory that it may take, address space included.
pub const MEMORY: u64 = 256 << 20;
/// The content of everything outside.
pub const CANARY: &str = "CANARY of the host";

/// The library directory of the root.
pub fn lib(name: &str) -> String {
    format!("usr/lib/{}/{name}", Machine::NATIVE.triplet())
}

/// How guest-init ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// What the report says at this place.
    pub fn json(&self, pointer: &str) -> serde_json::Value {
        let report: serde_json::Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", self.stdout, self.stderr));
        report.pointer(pointer).cloned().unwrap_or_default()
    }
}

pub struct Scene {
    pub dir: tempfile::TempDir,
    /// A descriptor of what is outside, which every child has: a root may name it by /proc/self/fd.
    pub leak: OwnedFd,
    /// Run guest-init as nobody.
    pub unprivileged: bool,
    /// Show /proc in the root.
    pub proc: bool,
}

impl Scene {
    /// A merged-/usr root with a glibc, and a driver. In memory, where there is some: everything here is synced.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        Self::at(if tempfile::tempfile_in(memory).is_ok() { memory } else { Path::new("/tmp") })
    }

    /// The same in this directory.
    pub fn at(parent: &Path) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        for sub in ["root", "layer", "outside"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let leak = nix::fcntl::open(&dir.path().join("outside"), flags, Mode::empty()).unwrap();
        let scene = Self { dir, leak, unprivileged: false, proc: false };
        for dir in [&*lib(""), "etc/ld.so.conf.d", "var/lib", "usr/bin", "proc"] {
            fs::create_dir_all(scene.root(dir)).unwrap();
        }
        symlink("usr/lib", scene.root("lib")).unwrap();
        scene.file(&lib("libc.so.6"), &library("libc.so.6"));
        scene.file("etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n");
        for stem in ["libcuda", "libnvidia-ml"] {
            scene.write(
                &format!("driver/usr/lib/nvidia/{stem}.so.{VERSION}"),
                &library(&format!("{stem}.so.1")),
            );
        }
        scene.write("driver/usr/bin/nvidia-smi", b"program");
        scene
    }

    /// A path in the container root, from outside.
    pub fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    /// A path beside it.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.dir.path().join("outside").join(path)
    }

    /// Puts a file into the root, in place of what is there.
    pub fn file(&self, path: &str, bytes: &[u8]) {
        self.clear(path);
        self.write(&format!("root/{path}"), bytes);
    }

    /// Puts a file anywhere in the scene.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Removes what is there in the root, and makes the directories on the way.
    pub fn clear(&self, path: &str) {
        let path = self.root(path);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path).unwrap(),
            Ok(_) => fs::remove_file(&path).unwrap(),
            Err(_) => fs::create_dir_all(path.parent().unwrap()).unwrap(),
        }
    }

    /// `guest-init ld-cache`.
    pub fn ld_cache(&self, case: &str) -> Outcome {
        self.run(case, &["ld-cache", "--root", "ROOT"])
    }

    /// `guest-init inject --layer`.
    pub fn layer(&self, case: &str) -> Outcome {
        self.run(case, &["inject", "--root", "ROOT", "--driver", "DRIVER", "--layer", "LAYER"])
    }

    /// `guest-init inject`: copies, cache and what the loader finds.
    pub fn copy(&self, case: &str) -> Outcome {
        self.run(case, &["inject", "--root", "ROOT", "--driver", "DRIVER"])
    }

    /// All three, on what the one before left.
    pub fn all(&self, case: &str) -> [Outcome; 3] {
        [self.ld_cache(case), self.layer(case), self.copy(case)]
    }

    /// Runs guest-init, and checks that it kept within all bounds.
    pub fn run(&self, case: &str, args: &[&str]) -> Outcome {
        let case = format!("{case}: guest-init {}", args.join(" "));
        let watch = Watch::new(&self.outside(""));
        let outcome = self.bounded(&case, &mut self.command(args));
        watch.assert_quiet(&case);
        self.assert_contained(&case, &outcome);
        outcome
    }

    fn command(&self, args: &[&str]) -> Command {
        let program = if self.unprivileged { self.dir.path().join("guest-init") } else { guest_init() };
        let mut command = if self.proc {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
            command.args(["mount --rbind /proc \"$0/proc\" && exec \"$@\""]).arg(self.root("")).arg(program);
            command
        } else {
            Command::new(program)
        };
        for arg in args {
            match *arg {
                "ROOT" => command.arg(self.root("")),
                "DRIVER" => command.arg(self.dir.path().join("driver")),
                "LAYER" => command.arg(self.dir.path().join("layer")),
                other => command.arg(other),
            };
        }
        if self.unprivileged && nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        command
    }

    fn bounded(&self, case: &str, command: &mut Command) -> Outcome {
        let output = |name: &str| self.dir.path().join(name);
        command.stdin(Stdio::null());
        command
            .stdout(File::create(output("stdout")).unwrap())
            .stderr(File::create(output("stderr")).unwrap());
        // SAFETY: setrlimit is a bare system call.
        unsafe {
            command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY)?));
        }
        let mut child = loop {
            match command.spawn() {
                // A process that another test just started may still hold our copy of it for writing.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => break other.unwrap(),
            }
        };
        let begin = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if begin.elapsed() > DEADLINE => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    panic!("{case}: waited {DEADLINE:?} for its end");
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let text = |name: &str| String::from_utf8_lossy(&fs::read(output(name)).unwrap()).into_owned();
        if std::env::var_os("HOSTILE_TIMES").is_some() {
            eprintln!("{:6} ms  {case}", begin.elapsed().as_millis());
        }
        Outcome { status, stdout: text("stdout"), stderr: text("stderr") }
    }

    /// It ended by itself, without a panic; it shows nothing from outside, and left nothing in `/`.
    fn assert_contained(&self, case: &str, outcome: &Outcome) {
        let Outcome { status, stdout, stderr } = outcome;
        assert_eq!(status.signal(), None, "{case}: {status}\n{stderr}");
        assert!(
            matches!(status.code(), Some(0..=2)) && !stderr.contains("panicked"),
            "{case}: {status}\n{stderr}"
        );
        assert!(!stdout.contains(CANARY) && !stderr.contains(CANARY), "{case}: {stdout}\n{stderr}");
        for tree in ["root", "layer"] {
            assert_no_canary(case, &self.dir.path().join(tree));
        }
        for path in ["usr/bin/.gpu-initrd-nvidia-smi", &lib(&format!("libcuda.so.{VERSION}"))] {
            assert!(!Path::new("/").join(path).exists(), "{case}: /{path}");
        }
        for path in ["/etc/ld.so.cache", "/etc/ld.so.conf", "/var/lib/gpu-initrd/record.json"] {
            let bytes = fs::read(path).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&bytes).contains(VERSION), "{case}: {path}");
        }
    }

    /// Lets nobody own everything, and run guest-init.
    pub fn for_nobody(&mut self) {
        fs::copy(guest_init(), self.dir.path().join("guest-init")).unwrap();
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if nix::unistd::geteuid().is_root() {
            let all = walkdir::WalkDir::new(self.dir.path()).contents_first(true);
            for entry in all.into_iter().map(Result::unwrap) {
                std::os::unix::fs::lchown(entry.path(), Some(65534), Some(65534)).unwrap();
            }
        }
        self.unprivileged = true;
    }
}

fn guest_init() -> PathBuf {
    env!("CARGO_BIN_EXE_guest-init").into()
}

fn assert_no_canary(case: &str, tree: &Path) {
    // Large trees are made by tests that have nothing outside.
    for entry in walkdir::WalkDir::new(tree).into_iter().filter_map(Result::ok).take(5000) {
        let small = entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() < 1 << 20);
        if let Some(bytes) = small.then(|| fs::read(entry.path()).ok()).flatten() {
            let found = bytes.windows(CANARY.len()).any(|part| part == CANARY.as_bytes());
            assert!(!found, "{case}: {} has what is outside", entry.path().display());
        }
    }
}

/// Records every open, read and change below a directory.
pub struct Watch(Inotify);

impl Watch {
    pub fn new(tree: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let all: Vec<PathBuf> =
            walkdir::WalkDir::new(tree).into_iter().map(|entry| entry.unwrap().into_path()).collect();
        // Not its closing: a process that another test just started may still hold what we had open here.
        let flags = (AddWatchFlags::IN_ALL_EVENTS - AddWatchFlags::IN_CLOSE) | AddWatchFlags::IN_DONT_FOLLOW;
        for path in all {
            inotify.add_watch(&path, flags).unwrap();
        }
        Self(inotify)
    }

    /// Watches one file.
    pub fn only(file: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let flags = AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS | AddWatchFlags::IN_DONT_FOLLOW;
        inotify.add_watch(file, flags).unwrap();
        Self(inotify)
    }

    /// Nobody has opened it; it may have been removed.
    pub fn assert_unopened(&self, case: &str) {
        let events = self.0.read_events().unwrap_or_default();
        let opened =
            events.iter().any(|e| e.mask.intersects(AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS));
        assert!(!opened, "{case}: it was opened");
    }

    pub fn assert_quiet(&self, case: &str) {
        match self.0.read_events() {
            Err(nix::errno::Errno::EAGAIN) => {}
            Ok(events) => {
                let events: Vec<_> = events.iter().map(|e| (e.name.clone(), e.mask)).collect();
                panic!("{case}: what it must not touch was touched: {events:?}");
            }
            Err(error) => panic!("{case}: {error}"),
        }
    }
}

/// Does `work` on another thread, and panics when it takes longer than the deadline.
pub fn in_time<T: Send + 'static>(case: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || drop(send.send(work())));
    match receive.recv_timeout(DEADLINE) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{case}: waited {DEADLINE:?} for its end"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it ended without a result"))
        }
    }
}

/// The root of a scene, as PID 1 has it.
pub fn open(path: &Path) -> RootDir {
    RootDir::open(path).unwrap()
}

/// The number of the descriptor that every child has.
pub fn leaked(scene: &Scene) -> i32 {
    scene.leak.as_raw_fd()
}
