//! The container's view of the system: its root, its kernel file systems, its device nodes.
//!
//! Before this process enters the root, it resolves paths there only through [`RootDir`]; afterwards every path is inside.

use super::step::step;
use super::{Spec, confine, run_dir};
use crate::confined_fs::RootDir;
use crate::driver_files;
use crate::gpu::nodes;
use crate::kernel::mounts::OPTIONAL;
use image::layout;
use image::status::Node;
use image::text::chain;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// How /dev and the control groups are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerKind {
    /// Selected device nodes, and the container's own control group.
    Program,
    /// Everything that the kernel provides, managed by the image's init.
    Init,
}

/// Standard device nodes: name, major, minor.
const NODES: [(&str, u32, u32); 7] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("console", 5, 1),
];

/// The container's namespaces under construction: [`World::new`], [`World::enter`], [`World::finish`].
pub struct World {
    kind: ContainerKind,
    /// The container root, also after this process has entered it.
    pub root: RootDir,
    terminal: Option<File>,
    left_behind: Vec<File>,
}

impl World {
    /// Creates a mount namespace for this process. The terminal becomes its console.
    ///
    /// # Errors
    /// What failed, and where.
    pub fn new(kind: ContainerKind, terminal: Option<&OwnedFd>) -> Result<Self, String> {
        let mut flags = CloneFlags::CLONE_NEWNS;
        if kind == ContainerKind::Program {
            flags |= CloneFlags::CLONE_NEWCGROUP;
        }
        step("unsharing the mount namespace", unshare(flags))?;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        step("making mounts private", mount(None::<&str>, "/", None::<&str>, private, None::<&str>))?;
        // Resolved here: the terminal can be mounted only from this namespace, and its path is not visible later.
        let terminal = terminal.and_then(|fd| File::open(fs::read_link(own(fd)).ok()?).ok());
        let root = RootDir::open(Path::new(layout::ROOT_MERGED)).map_err(|error| chain(&error))?;
        Ok(Self { kind, root, terminal, left_behind: Vec::new() })
    }

    /// Makes the container root the root of this process, with the kernel's file systems mounted.
    ///
    /// # Errors
    /// What failed, and where.
    pub fn enter(&mut self, confined: bool) -> Result<(), String> {
        let run = run_dir::stage(&self.root)?;
        step("entering the root", nix::unistd::chdir(layout::ROOT_MERGED))?;
        step("moving the root", mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>))?;
        // Paths still resolve in the initramfs.
        for path in ["/dev", "/proc", "/run", "/sys"] {
            self.left_behind.push(File::open(path).map_err(|error| format!("opening {path}: {error}"))?);
        }
        step("changing the root", nix::unistd::chroot("."))?;
        step("entering /", nix::unistd::chdir("/"))?;
        kernel_file_systems(&self.root, self.kind, confined)?;
        make_directory(&self.root, "/run")?;
        step(
            "moving a tmpfs to /run",
            mount(Some(&own(&run)), "/run", None::<&str>, MsFlags::MS_MOVE, None::<&str>),
        )
    }

    /// Creates the device nodes and the console, and applies the restrictions of a confined container.
    ///
    /// # Errors
    /// What failed, and where.
    pub fn finish(self, spec: &Spec) -> Result<(), String> {
        if spec.store {
            link_store().map_err(|error| format!("linking {}: {error}", driver_files::RUN_LINK))?;
        }
        if self.kind == ContainerKind::Init {
            leave(&self.left_behind)?;
            return hide_gpus(Path::new("/dev"), &spec.nodes);
        }
        device_nodes(&spec.nodes)?;
        if let Some(terminal) = &self.terminal {
            let console =
                mount(Some(&own(terminal)), "/dev/console", None::<&str>, MsFlags::MS_BIND, None::<&str>);
            step("mounting the terminal on /dev/console", console)?;
        }
        leave(&self.left_behind)?;
        if !spec.confined() {
            return Ok(());
        }
        let paths = NODES.iter().map(|(name, ..)| format!("/dev/{name}"));
        confine::mounts(paths.chain(spec.nodes.iter().map(|node| node.path.clone())))
    }
}

/// Creates the link to the driver. A link of the image in its place is replaced; a volume mounted on /run takes precedence.
fn link_store() -> io::Result<()> {
    let link = Path::new(driver_files::RUN_LINK);
    if link.is_symlink() {
        fs::remove_file(link)?;
    }
    match symlink(driver_files::STORE_DIR, link) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::ReadOnlyFilesystem) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Unmounts the initramfs's mounts from this namespace. A second, unmasked /proc would allow a user namespace to mount
/// another one.
fn leave(mounts: &[File]) -> Result<(), String> {
    mounts.iter().try_for_each(|mount| {
        step("leaving the initramfs's mounts", umount2(&own(mount), MntFlags::MNT_DETACH))
    })
}

/// Returns the path of an own descriptor in /proc.
pub(super) fn own(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn kernel_file_systems(root: &RootDir, kind: ContainerKind, confined: bool) -> Result<(), String> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let sysfs = if confined { quiet | MsFlags::MS_RDONLY } else { quiet };
    let dev = if kind == ContainerKind::Init { "devtmpfs" } else { "tmpfs" };
    let mounts = [
        ("proc", "/proc", quiet, ""),
        ("sysfs", "/sys", sysfs, ""),
        (dev, "/dev", MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME, "mode=0755"),
        (
            "devpts",
            "/dev/pts",
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            "newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        ("tmpfs", "/dev/shm", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777"),
        ("mqueue", "/dev/mqueue", quiet, ""),
        ("cgroup2", "/sys/fs/cgroup", quiet, ""),
    ];
    for (kind_of, path, flags, options) in mounts {
        if kind == ContainerKind::Init && kind_of == "cgroup2" {
            continue;
        }
        let optional = OPTIONAL.contains(&kind_of);
        match make_directory(root, path) {
            // Without control groups in the kernel the mount point does not exist either.
            Err(_) if optional => continue,
            result => result?,
        }
        match mount(Some(kind_of), path, Some(kind_of), flags, Some(options)) {
            Err(nix::Error::ENODEV) if optional => {}
            result => step(&format!("mounting {kind_of} on {path}"), result)?,
        }
    }
    Ok(())
}

/// Creates a mount point. A link of the image through /proc, which would lead out of the root, is an error.
fn make_directory(root: &RootDir, path: &str) -> Result<(), String> {
    let made = root.create_dir_all(Path::new(path)).and_then(|()| root.open_dir(Path::new(path)));
    made.map(drop).map_err(|error| format!("making {path}: {}", chain(&error)))
}

fn device_nodes(gpu: &[Node]) -> Result<(), String> {
    let standard = NODES.iter().map(|(name, major, minor)| {
        let mode = if *name == "console" { 0o600 } else { 0o666 };
        Node { path: format!("/dev/{name}"), major: *major, minor: *minor, mode, uid: 0, gid: 0 }
    });
    for node in standard.chain(gpu.iter().cloned()) {
        nodes::make(Path::new("/"), &node).map_err(|error| error.to_string())?;
    }
    for (target, link) in [
        ("pts/ptmx", "/dev/ptmx"),
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        symlink(target, link).map_err(|error| format!("linking {link}: {error}"))?;
    }
    Ok(())
}

/// Removes the GPU nodes that the container did not request: the kernel's /dev has those of every GPU.
fn hide_gpus(dev: &Path, visible: &[Node]) -> Result<(), String> {
    let failed = |error: io::Error| format!("hiding GPUs in {}: {error}", dev.display());
    for entry in fs::read_dir(dev).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let is_gpu = name.strip_prefix("nvidia").is_some_and(|rest| rest.parse::<u32>().is_ok());
        let is_visible = visible.iter().any(|node| node.path == format!("/dev/{name}"));
        if is_gpu && !is_visible {
            fs::remove_file(dev.join(&name)).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nodes_of_other_gpus_are_hidden() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let node = Node { path: "/dev/nvidia1".into(), major: 195, minor: 1, mode: 0o666, uid: 0, gid: 0 };
        hide_gpus(dir.path(), &[node]).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["null", "nvidia-uvm", "nvidia1", "nvidiactl"]);
    }
}
