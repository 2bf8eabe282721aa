//! Images of initramfs-tools and dracut: each entry is listed as `cpio -t` lists it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use host_builder::artifacts::tree::Tree;
use host_builder::pins::lock::{Lock, Set};
use rig::{
    build::{cache, initrd},
    process::run,
    roots::{Recipe, Suite},
};

use super::{compare, json};

/// A Debian root with both tools and the modules of the kernel that our images have.
fn workshop() -> &'static Path {
    static ROOT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &ROOT
        .get_or_init(|| {
            let tools = [
                "bzip2",
                "cpio",
                "dracut-core",
                "initramfs-tools-core",
                "kmod",
                "lz4",
                "udev",
                "xz-utils",
                "zstd",
            ];
            let recipe = Recipe::minbase(Suite::Trixie).with(&tools).directory().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            run(Command::new("cp").arg("-a").arg(recipe).arg(&root)).unwrap();
            let lock = Lock::read(&initrd().lock).unwrap().unwrap();
            let kernel = Tree::of(&cache().unwrap(), lock.set(Set::Kernel)[0]).unwrap();
            // A part of them: enough for each tool, and little to compress.
            let modules = Path::new("usr/lib/modules").join(initrd().release());
            for part in
                ["modules.builtin", "modules.order", "kernel/crypto", "kernel/drivers/virtio", "kernel/lib"]
            {
                let (from, to) = (kernel.root.join(&modules).join(part), root.join(&modules).join(part));
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                run(Command::new("cp").arg("-a").arg(from).arg(to)).unwrap();
            }
            in_workshop(&root, &format!("depmod {}", initrd().release()));
            (dir, root)
        })
        .1
}

fn in_workshop(root: &Path, command: &str) {
    const ENTER: &str = r#"mount --rbind /dev "$1/dev"; mount --rbind /proc "$1/proc"; mount -t tmpfs tmpfs "$1/run"; exec chroot "$1" /bin/bash -euc "$2""#;
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--map-root-user", "--mount", "--", "/bin/sh", "-euc", ENTER, "workshop"])
        .arg(root)
        .arg(command);
    unshare.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    run(&mut unshare).unwrap();
}

/// The uncompressed archive that comes first where there is microcode.
fn early() -> Vec<u8> {
    let mut writer = host_builder::initramfs::cpio::Writer::new(Vec::new());
    for directory in ["kernel", "kernel/x86", "kernel/x86/microcode"] {
        writer.directory(directory, 0o755).unwrap();
    }
    writer.file("kernel/x86/microcode/GenuineIntel.bin", 0o644, 5000, &mut &[7; 5000][..]).unwrap();
    writer.finish().unwrap()
}

#[test]
fn initramfs_tools_images_are_listed_as_by_cpio() {
    let (root, release) = (workshop(), initrd().release());
    for compression in ["zstd", "lz4", "xz"] {
        in_workshop(root, &format!("mkinitramfs -c {compression} -o /root/{compression}.img {release}"));
        let image = root.join(format!("root/{compression}.img"));
        assert!(compare(&image) > 100, "{compression}");
        let report = json(&["inspect", "--json"], &image);
        assert_eq!(report["tool"], "initramfs-tools");
        assert_eq!(report["kernel_releases"], serde_json::json!([release]));
        assert!(report["modules"].as_array().unwrap().iter().all(|module| module["kernel"] == release));
    }
    let image = root.join("root/early.img");
    fs::write(&image, [early(), fs::read(root.join("root/zstd.img")).unwrap()].concat()).unwrap();
    compare(&image);
    let segments = |name: &str| {
        let report = json(&["examine", "--json"], &root.join("root").join(name));
        report["segments"].as_array().unwrap().len()
    };
    assert_eq!(segments("early.img"), segments("zstd.img") + 1);
}

#[test]
fn dracut_images_are_listed_as_by_cpio() {
    let (root, release) = (workshop(), initrd().release());
    for compression in ["gzip", "bzip2"] {
        let options = "--no-hostonly --no-hostonly-cmdline --force --quiet --no-early-microcode";
        in_workshop(root, &format!("dracut {options} --{compression} /root/d-{compression}.img {release}"));
        let image = root.join(format!("root/d-{compression}.img"));
        assert!(compare(&image) > 100, "{compression}");
        let tool = json(&["inspect", "--json"], &image)["tool"].as_str().unwrap_or_default().to_owned();
        assert!(tool.starts_with("dracut"), "{tool}");
    }
}
