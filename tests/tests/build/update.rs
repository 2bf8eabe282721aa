//! `pins update` with packages: the newest driver of a branch that is offered whole is chosen,
//! pinned and checked; impossible requests are refused, and the lock stays.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use host_builder::pins::lock::{Artifact, Lock, Set, upstream};
use rig::build::{default_initrd, program};

use super::sandbox::{LIBRARIES, Sandbox, refused};

const NEXT: &str = "580.200.01";

/// Every package of the lock, and those of the driver in a next version too, but for some.
fn offered(but: &[&str]) -> Vec<(Artifact, PathBuf)> {
    let (cache, lock) = (rig::build::cache().unwrap(), Lock::read(&default_initrd().lock).unwrap().unwrap());
    let mut all = Vec::new();
    for artifact in lock.artifact.into_iter().filter(|artifact| artifact.arch != "i386") {
        let path = cache.blob(&artifact.sha256).unwrap();
        let of_driver = upstream(&artifact.version) == default_initrd().driver();
        if of_driver && !but.contains(&artifact.name.as_str()) {
            let name = artifact.name.replace(default_initrd().driver(), NEXT);
            all.push((Artifact { name, version: format!("{NEXT}-1"), ..artifact.clone() }, path.clone()));
        }
        all.push((artifact, path));
    }
    all
}

/// A place whose archive has everything but 32-bit packages.
fn place(but: &[&str]) -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.archive().offer(&offered(but));
    sandbox.edit_profile(
        "\"linux-image-cloud-amd64\"",
        &format!("\"linux-image-{}\"", default_initrd().release()),
    );
    sandbox.edit_profile("driver = \"580.x\"", &format!("driver = {:?}", default_initrd().driver()));
    // Only names and versions are of another driver.
    let subdir = |driver: &str| format!("subdir = \"usr/src/nvidia-{driver}\"");
    sandbox.edit_profile(&subdir("{driver}"), &subdir(default_initrd().driver()));
    // The archive knows no dependencies.
    let lock = Lock::read(&default_initrd().lock).unwrap().unwrap();
    let common = |artifact: &&Artifact| {
        artifact.name.starts_with("linux-headers-") && artifact.name.ends_with("-common")
    };
    let common = lock.artifact.iter().find(common).unwrap();
    sandbox.edit_profile(
        "[toolroot]\npackages = [\n",
        &format!("[toolroot]\npackages = [\"{}\",\n", common.name),
    );
    sandbox
}

fn pins(sandbox: &Sandbox, words: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.arg("pins").args(words).args(["--profile", "./profile.toml"]);
    sandbox.prepare(&mut command);
    command.output().unwrap()
}

fn good(sandbox: &Sandbox, words: &[&str]) -> (String, Lock) {
    let output = pins(sandbox, words);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    (text, Lock::read(&sandbox.path("initrd.lock")).unwrap().unwrap())
}

fn refuses(sandbox: &Sandbox, driver: &str, texts: &[&str]) {
    let before = fs::read(sandbox.path("initrd.lock")).unwrap();
    refused(&pins(sandbox, &["update", "--quiet", "--driver", driver]), texts);
    assert_eq!(fs::read(sandbox.path("initrd.lock")).unwrap(), before, "the lock has changed");
}

#[test]
fn newest_driver_of_a_branch_is_chosen_and_kept() {
    let sandbox = place(&[]);
    let (_, first) = good(&sandbox, &["resolve"]);
    assert_eq!(first.driver, default_initrd().driver());
    let (text, lock) = good(&sandbox, &["update", "--driver", "580.x"]);
    assert_eq!(lock.driver, NEXT);
    assert!(text.contains(&format!("- driver {}\n+ driver {NEXT}\n", default_initrd().driver())), "{text}");
    let libcuda = lock.artifact.iter().find(|artifact| artifact.name == LIBRARIES).unwrap();
    assert!(
        text.contains(&format!("~ {LIBRARIES}:amd64 ")) && text.contains(&format!("-> {NEXT}-1")),
        "{text}"
    );
    assert_eq!(libcuda.version, format!("{NEXT}-1"));
    for artifact in lock.sets(&[Set::ModuleSource, Set::Firmware]) {
        assert_eq!(upstream(&artifact.version), NEXT, "{}", artifact.name);
    }
    // What is versioned apart from the driver, and what is no part of it, is as it was.
    let same = |name: &str| {
        let version = |lock: &Lock| {
            lock.artifact.iter().find(|artifact| artifact.name == name).unwrap().version.clone()
        };
        assert_eq!(version(&first), version(&lock), "{name}");
    };
    same("nvidia-modprobe");
    same("gcc");
    let (text, again) = good(&sandbox, &["resolve"]);
    assert!(text.starts_with("0 added, 0 removed, 0 changed"), "{text}");
    assert_eq!(again, lock);
    let (_, back) = good(&sandbox, &["update", "--driver", default_initrd().driver()]);
    assert_eq!(back, first);
}

/// As of many mirrors.
#[test]
fn archive_without_32_bit_packages_is_good_for_everything_else() {
    let sandbox = place(&[]);
    let output = pins(&sandbox, &["resolve"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("the lock has no 32-bit packages"), "{stderr}");
    let lock = Lock::read(&sandbox.path("initrd.lock")).unwrap().unwrap();
    assert!(lock.artifact.iter().all(|artifact| artifact.arch != "i386"));
    let texts = ["no 32-bit packages", "--capabilities compat32", "--update-lock"];
    sandbox.refuses(&["--capabilities", "compute,compat32"], &texts);
}

#[test]
fn incomplete_driver_is_refused_with_a_list_of_offers() {
    let driver = default_initrd().driver();
    let sandbox = place(&[&format!("nvidia-firmware-580-server-{driver}")]);
    good(&sandbox, &["resolve"]);
    let sources = format!("nvidia-kernel-source-580-server-open {NEXT} {driver}");
    refuses(&sandbox, "999.x", &["999.x", &sources, "more_suites"]);
    refuses(&sandbox, NEXT, &[NEXT, &format!("nvidia-firmware-580-server-{{driver}} {driver}")]);
    let (_, lock) = good(&sandbox, &["update", "--driver", "580.x"]);
    assert_eq!(lock.driver, default_initrd().driver(), "the newest that is whole");

    let sandbox = place(&["libnvidia-gl-580-server"]);
    good(&sandbox, &["resolve"]);
    refuses(&sandbox, "580.x", &[NEXT, &format!("libnvidia-gl-580-server {driver}"), "profile"]);
}

#[test]
fn source_that_does_not_fit_the_patches_is_refused() {
    let mut sandbox = place(&[]);
    let load = "load = [\"nvidia\", \"nvidia_uvm\", \"nvidia_modeset\", \"nvidia_drm\"]\n";
    let patch = "[[modules.patch]]\nfile = \"nvidia/nv-pci.c\"\nfind = \"no such text\"\nreplace = \"x\"\n\
                 header = \"include/linux/pci.h\"\nheader_matches = \"pci_resize_resource\"\n";
    sandbox.edit_profile(load, &format!("{load}\n{patch}"));
    good(&sandbox, &["resolve"]);
    refuses(&sandbox, NEXT, &["nvidia/nv-pci.c", "found it 0 times", "[[modules.patch]]"]);
}
