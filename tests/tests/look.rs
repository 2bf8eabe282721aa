//! Looking into images: those that the tools of distributions make, entry for entry as `cpio -t` lists them, and our own.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use host_builder::artifacts::tree::Tree;
use host_builder::initramfs::cpio::Writer;
use host_builder::pins::lock::{Lock, Set};
use image::layout;
use image::manifest::{Kind, Manifest};
use rig::{
    build::{cache, initrd, initrd_for_disk, program},
    process::run,
    roots::{Recipe, Suite},
    variant::{self, Variant},
};
use serde_json::Value;

fn host_builder(args: &[&str], image: &Path) -> Output {
    Command::new(program()).args(args).arg(image).output().unwrap()
}

fn json(args: &[&str], image: &Path) -> Value {
    let output = host_builder(args, image);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the real programs find: each segment that `examine` shows, unpacked by its program, listed by cpio.
fn listed_by_cpio(image: &Path) -> String {
    let mut list = String::new();
    for segment in json(&["examine", "--json"], image)["segments"].as_array().unwrap() {
        let number = |key: &str| segment[key].as_u64().unwrap();
        let unpack = match segment["compression"].as_str().unwrap() {
            "none" => "cat",
            "gzip" => "gzip -dc",
            "xz" => "xz -dc",
            "zstd" => "zstd -dc",
            "lz4" => "lz4 -dc",
            "bzip2" => "bzip2 -dc",
            other => panic!("{other}"),
        };
        let script = format!(
            "set -o pipefail; dd if=\"$1\" iflag=skip_bytes,count_bytes,fullblock bs=1M status=none skip={} count={} | {unpack} > \"$2\"
             test \"$(stat -c %s \"$2\")\" = {}; cpio --list --quiet < \"$2\"",
            number("offset"), number("size"), number("unpacked"),
        );
        let unpacked = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("bash");
        command.args(["-euc", &script, "list"]).arg(image).arg(unpacked.path()).env("LC_ALL", "C");
        list.push_str(&String::from_utf8(run(&mut command).unwrap().stdout).unwrap());
    }
    list
}

/// `list` and `inspect` against cpio; how many entries there are.
fn compare(image: &Path) -> usize {
    let theirs = listed_by_cpio(image);
    let ours = host_builder(&["list"], image);
    assert!(ours.status.success() && ours.stderr.is_empty(), "{ours:?}");
    assert!(String::from_utf8(ours.stdout).unwrap() == theirs, "list differs for {}", image.display());
    let report = json(&["inspect", "--json"], image);
    let names: Vec<_> =
        report["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert!(names == theirs.lines().collect::<Vec<_>>(), "inspect differs for {}", image.display());
    let text = host_builder(&["inspect", "--files"], image);
    assert!(String::from_utf8(text.stdout).unwrap().ends_with(&theirs));
    names.len()
}

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
            // A part of them: enough for each tool to find what it must have, and little to compress.
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
fn images_of_initramfs_tools_are_listed_as_cpio_lists_them() {
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
fn images_of_dracut_are_listed_as_cpio_lists_them() {
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

#[test]
fn our_image_is_listed_as_cpio_lists_it_and_good() {
    let built = initrd();
    compare(&built.initrd);
    let lock = built.lock.to_str().unwrap();
    let verified = host_builder(&["verify", "--lock", lock], &built.initrd);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let text = String::from_utf8(verified.stdout).unwrap();
    assert!(
        text.contains(&format!("\nsha256 {}\n", built.sha256())) && text.contains("not an attacker"),
        "{text}"
    );
    let compared = text.lines().any(|line| line.ends_with("files match those of their packages"));
    assert!(compared && !text.contains("UNCHECKED"), "{text}");
    let digest = |digest: &str| host_builder(&["verify", "--sha256", digest], &built.initrd).status.code();
    assert_eq!((digest(built.sha256()), digest(&"0".repeat(64))), (Some(0), Some(1)));
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("initrd.svg");
    assert!(host_builder(&["inspect", "--plot", picture.to_str().unwrap()], &built.initrd).status.success());
    let picture = fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg ") && picture.contains("gsp_ga10x.bin"), "{picture}");
    let report = json(&["inspect", "--json"], &built.initrd);
    assert_eq!(
        (&report["driver"], &report["kernel_releases"][0]),
        (&built.driver().into(), &built.release().into())
    );
    let why = |name: &str| {
        let modules = report["modules"].as_array().unwrap();
        modules.iter().find(|module| module["name"] == name).unwrap()["why"].as_str().unwrap().to_owned()
    };
    assert!(why("nvidia").starts_with("needed by nvidia_uvm"), "{}", why("nvidia"));
    assert!(why("nvidia_uvm").starts_with("requested by the profile"), "{}", why("nvidia_uvm"));
    // Without the packages nothing is said of their files but that.
    let empty = tempfile::tempdir().unwrap();
    let mut command = Command::new(program());
    command.args(["verify", "--lock", lock]).arg(&built.initrd).env("GPU_INITRD_CACHE", empty.path());
    let verified = command.output().unwrap();
    let text = String::from_utf8(verified.stdout).unwrap();
    assert!(
        verified.status.success() && text.contains("\n0 files match those of their packages\n"),
        "{text}"
    );
    assert!(text.contains(" UNCHECKED: it is neither in the cache nor in a mirror"), "{text}");
    // Half a document is none.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let sbom = Command::new(program()).arg("sbom").arg(&built.initrd).stdout(full).output().unwrap();
    let text = String::from_utf8_lossy(&sbom.stderr);
    assert!(
        sbom.status.code() == Some(2) && text.contains("writing the result to standard output"),
        "{text}"
    );
    for format in ["cyclonedx", "spdx"] {
        let args = ["sbom", "--format", format];
        assert_eq!(json(&args, &built.initrd), json(&args, &built.initrd));
    }
}

#[test]
fn an_image_that_was_altered_is_told_from_the_one_that_was_built() {
    let dir = tempfile::tempdir().unwrap();
    let altered = dir.path().join("altered.img");
    let mut variant = Variant::of(&initrd().initrd).unwrap();
    variant.file(layout::INIT)[1000] ^= 1;
    variant.write(&altered).unwrap();
    let report = host_builder(&["verify", "--json"], &altered);
    assert_eq!(report.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["differences"][0]["of"], layout::INIT);
    assert_eq!(report["differences"][0]["what"], "its sha256");
    let original = initrd().initrd.to_str().unwrap();
    let differences = host_builder(&["diff", "--json", original], &altered);
    assert_eq!(differences.status.code(), Some(1));
    let differences: Value = serde_json::from_slice(&differences.stdout).unwrap();
    assert_eq!(differences["changed"].as_array().unwrap().len(), 1, "{differences}");
    assert_eq!(host_builder(&["diff", original], &initrd().initrd).status.code(), Some(0));

    // The same driver on a disk: no file of it came, went or changed.
    let on_disk = host_builder(&["diff", "--json", original], &initrd_for_disk().initrd);
    let differences: Value = serde_json::from_slice(&on_disk.stdout).unwrap();
    assert_eq!(on_disk.status.code(), Some(1));
    assert_eq!(differences["payload"], serde_json::json!({"a": "files", "b": "disk"}), "{differences}");
    assert_eq!(differences["driver_files"], serde_json::json!({"added": [], "removed": [], "changed": []}));
    let added =
        differences["added"].as_array().unwrap().iter().chain(differences["removed"].as_array().unwrap());
    assert!(
        added.into_iter().all(|only| !only["path"].as_str().unwrap().contains("libcuda")),
        "{differences}"
    );

    // One file of it altered, and the manifest as it was.
    let altered = dir.path().join("altered-driver.img");
    let path = format!("/usr/lib/nvidia/libcuda.so.{}", initrd().driver());
    let mut variant = Variant::of(&initrd().initrd).unwrap();
    variant.file(&path)[1000] ^= 1;
    variant.write(&altered).unwrap();
    let differences = host_builder(&["diff", original], &altered);
    let text = String::from_utf8(differences.stdout).unwrap();
    assert!(text.contains(&format!("! {path}  driver's content, ")), "{text}");
}

/// An attacker who alters a file alters its digest in the manifest, too.
#[test]
fn an_image_that_agrees_with_itself_is_held_against_its_packages() {
    let (dir, built) = (tempfile::tempdir().unwrap(), initrd());
    let lock = built.lock.to_str().unwrap();
    let manifest = variant::manifest(&built.initrd).unwrap();
    for of in ["/libcuda.so.", "/nvidia.ko", "/virtio_blk.ko", "/gsp_ga10x.bin"] {
        let file = manifest.files.iter().find(|file| file.path.contains(of)).unwrap();
        let altered = dir.path().join("altered.img");
        let mut variant = Variant::of(&built.initrd).unwrap();
        let bytes = variant.file(&file.path);
        bytes[1000] ^= 1;
        let new = host_builder::common::digest::sha256(bytes);
        variant.edit_manifest(|manifest| set_digest(manifest, &file.path, &new));
        variant.write(&altered).unwrap();
        assert_eq!(host_builder(&["verify"], &altered).status.code(), Some(0), "{of}");
        let verified = host_builder(&["verify", "--lock", lock], &altered);
        let text = String::from_utf8(verified.stdout).unwrap();
        assert_eq!(verified.status.code(), Some(1), "{text}");
        let line = format!(
            "{}: its content: expected a file of {}, found {new}\n1 difference",
            file.path, file.origin
        );
        assert!(text.starts_with(&line), "{text}");
    }
}

/// Names, targets and strings of a manifest that would steer a terminal, behind an image of ours.
#[test]
fn no_command_passes_on_what_steers_a_terminal() {
    const EVIL: &str = "evil\u{1b}]0;title\u{7}\u{1b}[2J\u{202e}\r";
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("evil.img");
    let mut variant = Variant::of(&initrd().initrd).unwrap();
    variant.edit_manifest(|manifest| {
        manifest.profile = EVIL.into();
        manifest.files[5].origin = EVIL.into();
        manifest.files[6].reason = EVIL.into();
        manifest.modules[0].name = EVIL.into();
    });
    variant.write(&image).unwrap();
    let mut writer = Writer::new(fs::File::options().append(true).open(&image).unwrap());
    writer.file(EVIL, 0o644, 1, &mut &b"x"[..]).unwrap();
    writer.link(&format!("link{EVIL}"), EVIL).unwrap();
    writer.finish().unwrap();
    let original = initrd().initrd.to_str().unwrap();
    let lock = initrd().lock.to_str().unwrap();
    // A list that does not go to a terminal has the names as they are.
    for args in [
        &["list", "--json"][..],
        &["inspect"],
        &["inspect", "--json"],
        &["examine"],
        &["verify", "--lock", lock],
        &["verify", "--json"],
        &["diff", original],
        &["sbom", "--format", "spdx"],
        &["sbom"],
        &["cat", "--json"],
    ] {
        let mut command = Command::new(program());
        command.args(args).arg(&image).args((args[0] == "cat").then_some(EVIL));
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let steers = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
        assert!(!text.contains(steers), "{args:?}: {:?}", text.lines().find(|line| line.contains(steers)));
        assert!(text.contains("evil") || args == ["examine"], "{args:?}: {text}");
    }
}

/// An EFI program with an initramfs in it, as ukify makes one: the kernel's stub with a section of objcopy's.
#[test]
fn a_unified_kernel_image_is_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let built = initrd();
    let image = dir.path().join("linux.efi");
    let mut objcopy = Command::new("objcopy");
    objcopy.arg(format!("--add-section=.initrd={}", built.initrd.display()));
    objcopy.args(["--set-section-flags=.initrd=data,readonly", "--change-section-vma=.initrd=0x4000000"]);
    run(objcopy.arg(&built.kernel).arg(&image)).unwrap();
    assert_eq!(json(&["list", "--json"], &image)["files"], json(&["list", "--json"], &built.initrd)["files"]);
    assert_eq!(host_builder(&["diff", image.to_str().unwrap()], &built.initrd).status.code(), Some(0));
    let none = host_builder(&["list"], &built.kernel);
    let text = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(2) && text.contains("without a section .initrd"), "{text}");
}

/// Small images that unpack to much: what is asked costs memory by what is shown, not by what the image can be made to say.
#[test]
fn what_a_small_image_costs_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str, fill: &dyn Fn(&mut Writer<zstd::Encoder<'static, fs::File>>)| {
        let path = dir.path().join(name);
        let out = zstd::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
        let mut writer = Writer::new(out);
        fill(&mut writer);
        writer.finish().unwrap().finish().unwrap();
        path
    };
    let names = |count: usize, length: usize| {
        move |writer: &mut Writer<_>| {
            for number in 0..count {
                let name = format!("{number:08}{}", "a".repeat(length));
                writer.file(&name, 0o644, 0, &mut &b""[..]).unwrap();
            }
        }
    };
    let many = image("many.img", &names(249_000, 1));
    let long = image("long.img", &names(16_000, 4_000));
    let too_many = image("too-many.img", &names(260_000, 1));
    let too_long = image("too-long.img", &names(17_500, 4_000));
    let large = image("large.img", &|writer| {
        writer.file("zeros", 0o644, 2 << 30, &mut std::io::repeat(0).take(2 << 30)).unwrap();
    });
    let all = [
        (&many, &["list", "--json"][..]),
        (&long, &["list", "--json"]),
        (&many, &["inspect", "--json"]),
        (&long, &["list"]),
        (&large, &["cat", "--json"]),
        (&large, &["list", "--json"]),
    ];
    for (image, bound) in [(&too_many, "more than 250000 entries"), (&too_long, "names")] {
        let refused = host_builder(&["list"], image);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && text.contains(bound), "{}: {text}", image.display());
    }
    for (image, args) in all {
        assert!(fs::metadata(image).unwrap().len() < 4 << 20, "{}", image.display());
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -v 1048576; exec \"$@\"", "limited"])
            .arg(program())
            .args(args)
            .arg(image);
        let output = command.args((args[0] == "cat").then_some("zeros")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?} {}: {text}", image.display());
    }
}

fn set_digest(manifest: &mut Manifest, path: &str, digest: &str) {
    let file = manifest.files.iter_mut().find(|file| file.path == path).unwrap();
    let Kind::File { sha256, .. } = &mut file.kind else { panic!("{file:?}") };
    digest.clone_into(sha256);
}

#[test]
fn files_come_out_as_they_are_and_a_closed_pipe_is_no_failure() {
    let image = &initrd().initrd;
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    run(Command::new(program()).arg("extract").arg(image).arg("--to").arg(&to)).unwrap();
    let out = run(Command::new(program()).arg("cat").arg(image).args([layout::INIT, layout::MANIFEST]))
        .unwrap()
        .stdout;
    let inside = |path: &str| fs::read(to.join(path.trim_start_matches('/'))).unwrap();
    assert!(out == [inside(layout::INIT), inside(layout::MANIFEST)].concat());
    let missing = Command::new(program()).arg("cat").arg(image).arg("/none").output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    let mut closed = Command::new("bash");
    closed.args(["-c", "\"$1\" cat \"$2\" /init | head -c 10 >/dev/null; exit ${PIPESTATUS[0]}", "cat"]);
    assert!(closed.arg(program()).arg(image).status().unwrap().success());
}
