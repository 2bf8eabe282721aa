//! The classes of bugs that NVIDIA's container tools had, and the proof that each is closed here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use guest_init::driver_files;
use guest_init::driver_files::{ContainerRequest, InjectReport, Inventory};
use image::config::Config;

use crate::elf::library;
use crate::scene::{CANARY, Scene, VERSION, in_time, lib, open};

/// What the table in this test's documentation says: CVE, class, test.
fn table() -> Vec<[&'static str; 3]> {
    let lines = include_str!("main.rs").lines().filter_map(|line| line.strip_prefix("//! | CVE-"));
    let rows = lines.map(|line| line.split('|').map(str::trim));
    rows.map(|mut cells| [(); 3].map(|()| cells.next().unwrap_or_default())).collect()
}

#[test]
fn every_test_of_the_table_exists() {
    let output = Command::new(std::env::current_exe().unwrap()).args(["--list", "--format=terse"]).output();
    let list = String::from_utf8(output.unwrap().stdout).unwrap();
    let tests: Vec<_> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    assert!(table().len() >= 10, "{:?}", table());
    for [cve, class, test] in table() {
        let name = test.trim_matches('`');
        assert!(!class.is_empty() && tests.contains(&name), "CVE-{cve}: no test {name} among {tests:?}");
    }
}

const DENIED: [libc::c_long; 13] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_socket,
];

/// Takes from this thread, for good, the right to execute or load anything, to make processes and to mount.
fn renounce() -> io::Result<()> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).unwrap();
    let deny = step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned());
    let mut program = vec![step(LOAD, 0, 0, 0)];
    for call in DENIED {
        program.extend([step(EQUAL, 0, 1, number(call)), deny]);
    }
    // mmap and mprotect with PROT_EXEC: the third argument, its lower half.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        program.extend([step(EQUAL, 0, 4, number(call)), step(LOAD, 0, 0, 32)]);
        program.extend([step(ANY_BIT, 0, 1, libc::PROT_EXEC.cast_unsigned()), deny, step(LOAD, 0, 0, 0)]);
    }
    program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    let len = u16::try_from(program.len()).unwrap();
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the filter points to `len` instructions, which the kernel copies; both calls concern this thread only.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A root full of what its loader and ours would execute or load, and an environment that asks for it.
fn tempting() -> (Scene, Config) {
    let scene = Scene::new();
    let trace = scene.outside("trace").display().to_string();
    let script = format!("#!/bin/sh\ntouch {trace}\n");
    for program in
        ["usr/sbin/ldconfig", "usr/sbin/ldconfig.real", "usr/bin/nvidia-smi", "usr/bin/nvidia-container-cli"]
    {
        scene.file(program, script.as_bytes());
        fs::set_permissions(scene.root(program), fs::Permissions::from_mode(0o4755)).unwrap();
    }
    for name in ["libpreload.so", "libc.so.6", "libnvidia-container.so.1", "libcuda.so.1"] {
        scene.file(&lib(name), &library(name));
    }
    scene.file("usr/local/cuda/compat/libcuda.so.999.1", &library("libcuda.so.1"));
    let mut config = Config { entrypoint: vec!["/usr/bin/nvidia-smi".into()], ..Config::default() };
    let preload = format!("/{}", lib("libpreload.so"));
    for (name, value) in [
        ("LD_PRELOAD", &*preload),
        ("LD_AUDIT", &preload),
        ("LD_LIBRARY_PATH", "/opt/a:/proc/self/cwd"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
        ("PATH", "/usr/sbin:/usr/bin"),
        ("NVIDIA_DRIVER_CAPABILITIES", "all"),
        ("NVIDIA_VISIBLE_DEVICES", "../../dev/null"),
    ] {
        config.env.insert(name.into(), value.into());
    }
    (scene, config)
}

/// Everything that PID 1 does with a root: by copies, then as a layer.
fn inject_both(scene: &Scene, config: &Config) -> [InjectReport; 2] {
    let (root, driver) = (open(&scene.root("")), open(&scene.dir.path().join("driver")));
    let inventory = Inventory::of_directory(&driver).unwrap();
    let request = ContainerRequest::of_config(config).unwrap();
    let layer = scene.dir.path().join("layer");
    let layered = driver_files::layer::layer(
        &root,
        &driver,
        &inventory,
        &request,
        driver_files::layer::LayerPlace::Links(&layer),
        None,
    )
    .unwrap();
    let mut report = driver_files::copy::copy(&root, &driver, &inventory, &request).unwrap();
    driver_files::complete(&root, &request, &mut report).unwrap();
    [report, layered]
}

#[test]
fn injection_needs_no_exec_no_fork_no_mount_and_no_executable_memory() {
    let (scene, config) = tempting();
    in_time("injection under a filter", move || {
        renounce().unwrap();
        let denied = Command::new("/bin/true").status().unwrap_err();
        assert_eq!(denied.raw_os_error(), Some(libc::EPERM), "the filter works");
        let [copied, layered] = inject_both(&scene, &config);
        assert!(copied.changed > 0 && layered.changed > 0 && copied.cache.is_some());
        assert!(!copied.resolved.is_empty());
    });
}

#[test]
fn the_images_own_programs_are_never_run() {
    let (scene, config) = tempting();
    inject_both(&scene, &config);
    scene.all("programs that leave a trace");
    assert!(!scene.outside("trace").exists());
}

#[test]
fn the_containers_environment_has_no_effect_on_pid_1() {
    let (scene, config) = tempting();
    let before: BTreeMap<_, _> = std::env::vars_os().collect();
    inject_both(&scene, &config);
    assert_eq!(std::env::vars_os().collect::<BTreeMap<_, _>>(), before);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(&*scene.dir.path().to_string_lossy()), "{maps}");
}

#[test]
fn compatibility_libraries_are_looked_at_and_never_mounted_or_loaded() {
    let (scene, config) = tempting();
    let compat = "usr/local/cuda/compat";
    scene.file(&format!("{compat}/libcuda.so.999.1"), &library("libcuda.so.1"));
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_scene =
        |text: String| text.lines().filter(|l| l.contains(&*scene.dir.path().to_string_lossy())).count();
    let [copied, layered] = inject_both(&scene, &config);
    assert_eq!(of_scene(mounts()), 0);
    for report in [&copied, &layered] {
        assert!(report.findings().iter().any(|finding| finding.code == image::status::Code::CudaCompat));
    }
    // Nothing in the layer is of the image: files are those of the driver, the rest are links and whiteouts.
    let inode = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().ino();
    let ours: Vec<u64> = walkdir::WalkDir::new(scene.dir.path().join("driver"))
        .into_iter()
        .map(|entry| inode(entry.unwrap().path()))
        .collect();
    for entry in walkdir::WalkDir::new(scene.dir.path().join("layer")).into_iter().map(Result::unwrap) {
        let whose = !entry.file_type().is_file() || ours.contains(&inode(entry.path()));
        assert!(whose, "{} is not the driver's", entry.path().display());
    }
}

/// The links lead to places outside that hold a whole CUDA.
#[test]
fn compatibility_libraries_behind_links_are_those_of_the_root() {
    for target in ["", "usr/local", "usr/local/cuda", "usr/local/cuda/compat"] {
        let scene = Scene::new();
        let file = "usr/local/cuda/compat/libcuda.so.999.1";
        scene.write(&format!("outside/{file}"), &library(CANARY));
        scene.clear("usr/local/cuda/compat");
        scene.clear(if target.is_empty() { "usr/local" } else { target });
        let at = if target.is_empty() { "usr/local" } else { target };
        std::os::unix::fs::symlink(scene.outside(at), scene.root(at)).unwrap();
        for outcome in [scene.layer(at), scene.copy(at)] {
            assert!(outcome.json("/compat_dir").is_null(), "{outcome:?}");
        }
    }
}

#[test]
fn no_device_of_the_root_is_opened_and_no_node_is_made() {
    let scene = Scene::new();
    for name in ["nvidia0", "nvidiactl", "sda"] {
        scene.clear(&format!("dev/{name}"));
        let node = nix::sys::stat::makedev(1, 5);
        let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRWXU);
        if nix::sys::stat::mknod(&scene.root(&format!("dev/{name}")), kind, mode, node).is_err() {
            nix::unistd::mkfifo(&scene.root(&format!("dev/{name}")), mode).unwrap();
        }
    }
    scene.file("etc/ld.so.conf", b"/dev\n");
    let watch = crate::scene::Watch::only(&scene.root("dev/nvidia0"));
    scene.all("devices in the root");
    watch.assert_unopened("devices in the root");
    let nodes = |tree: &str| {
        let all = walkdir::WalkDir::new(scene.dir.path().join(tree)).into_iter().map(Result::unwrap);
        all.filter(|e| fs::symlink_metadata(e.path()).is_ok_and(|m| m.rdev() != 0)).count()
    };
    assert_eq!(nodes("layer"), 0);
    assert!(nodes("root") <= 3);
    assert!(scene.root(&lib(&format!("libcuda.so.{VERSION}"))).exists());
}
