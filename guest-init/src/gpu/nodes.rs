//! Determines the device nodes from the driver's /proc files, and creates or corrects them.

use super::procfs::Proc;
use image::status::Node;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, chown};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Fixed minors of the driver's major (nvidia-modprobe-utils.h in the driver's source).
const MODESET_MINOR: u32 = 254;
const CONTROL_MINOR: u32 = 255;
/// nvidia-uvm ignores the mode in the driver's parameters.
const UVM_MODE: u32 = 0o666;

/// Returns every node that the driver needs, by path, for GPUs with these minors.
///
/// # Errors
/// If /proc/devices cannot be read.
pub fn wanted(proc: &Proc, minors: &[u32], modeset: bool) -> io::Result<Vec<Node>> {
    let params = proc.params();
    let mut nodes = Vec::new();
    let mut add = |path: String, major: u32, minor: u32, mode: u32| {
        nodes.push(Node { path, major, minor, mode, uid: params.uid, gid: params.gid });
    };
    if !params.modify {
        return Ok(nodes);
    }
    // Drivers before 530 call themselves nvidia-frontend.
    let major = match proc.major("nvidia")? {
        Some(major) => Some(major),
        None => proc.major("nvidia-frontend")?,
    };
    if let Some(major) = major {
        for minor in minors {
            add(format!("/dev/nvidia{minor}"), major, *minor, params.mode);
        }
        add("/dev/nvidiactl".into(), major, CONTROL_MINOR, params.mode);
        if modeset {
            add("/dev/nvidia-modeset".into(), major, MODESET_MINOR, params.mode);
        }
    }
    if let Some(major) = proc.major("nvidia-uvm")? {
        nodes.push(Node { path: "/dev/nvidia-uvm".into(), major, minor: 0, mode: UVM_MODE, uid: 0, gid: 0 });
        nodes.push(Node {
            path: "/dev/nvidia-uvm-tools".into(),
            major,
            minor: 1,
            mode: UVM_MODE,
            uid: 0,
            gid: 0,
        });
    }
    if let Some(major) = proc.major("nvidia-caps")? {
        for capability in proc.capabilities().into_iter().filter(|capability| capability.modify) {
            let path = format!("/dev/nvidia-caps/nvidia-cap{}", capability.minor);
            let (uid, gid) = (params.uid, params.gid);
            nodes.push(Node { path, major, minor: capability.minor, mode: capability.mode, uid, gid });
        }
    }
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(nodes)
}

/// Creates one node below `root` (`/` in a guest). A node with other numbers is replaced; mode and owner are always set,
/// since `mknod` applies the umask. Returns a description of another file that was there, if any.
///
/// # Errors
/// The failed operation and the path.
pub fn make(root: &Path, node: &Node) -> io::Result<Option<String>> {
    let path = root.join(node.path.trim_start_matches('/'));
    let failed =
        |what: &str, error: io::Error| io::Error::other(format!("{what} {}: {error}", path.display()));
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::create_dir_all(parent).map_err(|error| failed("cannot create the directory of", error))?;
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))
            .map_err(|error| failed("chmod", error))?;
    }
    let device = makedev(node.major.into(), node.minor.into());
    let is_right = |metadata: &fs::Metadata| {
        metadata.mode() & libc::S_IFMT == libc::S_IFCHR && metadata.rdev() == device
    };
    let mut conflict = None;
    match fs::symlink_metadata(&path) {
        Ok(metadata) if is_right(&metadata) => {}
        Ok(metadata) => {
            conflict = Some(describe(&metadata));
            fs::remove_file(&path).map_err(|error| failed("cannot remove the stale node", error))?;
            create(&path, device).map_err(|error| failed("mknod", error))?;
        }
        Err(_) => create(&path, device).map_err(|error| failed("mknod", error))?,
    }
    let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    chown(&path, Some(uid), Some(gid)).map_err(|errno| failed("chown", errno.into()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(node.mode))
        .map_err(|error| failed("chmod", error))?;
    link_by_number(root, node).map_err(|error| failed("cannot create the link in /dev/char to", error))?;
    Ok(conflict)
}

fn describe(metadata: &fs::Metadata) -> String {
    let numbers = format!("{}:{}", libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    match metadata.mode() & libc::S_IFMT {
        libc::S_IFCHR => format!("the character device {numbers}"),
        libc::S_IFBLK => format!("the block device {numbers}"),
        libc::S_IFLNK => "a symbolic link".into(),
        libc::S_IFREG => "a regular file".into(),
        _ => "another kind of file".into(),
    }
}

/// Creates `/dev/char/MAJOR:MINOR`, as udev does. Without the directory, nvidia-modprobe fails, and the driver's libraries
/// with it.
fn link_by_number(root: &Path, node: &Node) -> io::Result<()> {
    let directory = root.join("dev/char");
    fs::create_dir_all(&directory)?;
    let link = directory.join(format!("{}:{}", node.major, node.minor));
    let target = Path::new("..").join(node.path.trim_start_matches("/dev/"));
    if fs::read_link(&link).is_ok_and(|old| old == target) {
        return Ok(());
    }
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(&target, &link)
}

fn create(path: &Path, device: libc::dev_t) -> io::Result<()> {
    Ok(mknod(path, SFlag::S_IFCHR, Mode::empty(), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_process::as_root_of_a_namespace;

    fn fake_driver(dir: &Path) -> Proc {
        let write = |path: &str, text: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("devices", "Character devices:\n195 nvidia\n240 nvidia-uvm\n243 nvidia-caps\n");
        write(
            "driver/nvidia/capabilities/mig/config",
            "DeviceFileMinor: 1\nDeviceFileMode: 256\nDeviceFileModify: 1\n",
        );
        Proc::at(dir)
    }

    #[test]
    fn the_driver_says_which_nodes_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = wanted(&fake_driver(dir.path()), &[1, 0], true).unwrap();
        let rows: Vec<_> = nodes.iter().map(|n| (n.path.as_str(), n.major, n.minor, n.mode)).collect();
        assert_eq!(
            rows,
            [
                ("/dev/nvidia-caps/nvidia-cap1", 243, 1, 0o400),
                ("/dev/nvidia-modeset", 195, 254, 0o666),
                ("/dev/nvidia-uvm", 240, 0, 0o666),
                ("/dev/nvidia-uvm-tools", 240, 1, 0o666),
                ("/dev/nvidia0", 195, 0, 0o666),
                ("/dev/nvidia1", 195, 1, 0o666),
                ("/dev/nvidiactl", 195, 255, 0o666),
            ]
        );
    }

    #[test]
    fn a_driver_that_forbids_nodes_gets_none() {
        let dir = tempfile::tempdir().unwrap();
        let proc = fake_driver(dir.path());
        fs::write(dir.path().join("driver/nvidia/params"), "ModifyDeviceFiles: 0\n").unwrap();
        assert_eq!(wanted(&proc, &[0], true).unwrap(), []);
    }

    /// The one device that may be made without being root has the numbers 0:0. A node with other numbers than it should have is replaced in
    /// a guest of the rig.
    #[test]
    fn a_node_is_right_whatever_the_umask_and_replaces_what_is_there() {
        let name = "a_node_is_right_whatever_the_umask_and_replaces_what_is_there";
        as_root_of_a_namespace(module_path!(), name, node_is_right);
    }

    fn node_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let node = Node { path: "/dev/x/n".into(), major: 0, minor: 0, mode: 0o666, uid: 0, gid: 0 };
        nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
        assert_eq!(make(dir.path(), &node).unwrap(), None);
        let path = dir.path().join("dev/x/n");
        let is_right = || {
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert_eq!((metadata.mode(), metadata.rdev()), (libc::S_IFCHR | 0o666, 0));
        };
        is_right();
        assert_eq!(make(dir.path(), &node).unwrap(), None);
        assert_eq!(fs::read_link(dir.path().join("dev/char/0:0")).unwrap(), Path::new("../x/n"));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(make(dir.path(), &node).unwrap().as_deref(), Some("a regular file"));
        is_right();
        assert_eq!(describe(&fs::metadata("/dev/null").unwrap()), "the character device 1:3");
    }
}
