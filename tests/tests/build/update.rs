//! `pins update` with packages: the newest driver of a branch that is offered whole is chosen,
//! pinned and checked; impossible requests are refused, and the lock stays.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use host_builder::pins::lock::{Artifact, Lock, Set, upstream};
use host_builder::pins::profile::{DEFAULT, Profile};
use rig::build::{initrd, program};

use super::sandbox::{Sandbox, refused};

const NEXT: &str = "550.200.01";

/// Every package of the lock, and those of the driver in a next version too, but for some.
fn offered(but: &[&str]) -> Vec<(Artifact, PathBuf)> {
    let (cache, lock) = (rig::build::cache().unwrap(), Lock::read(&initrd().lock).unwrap().unwrap());
    let mut all = Vec::new();
    for artifact in lock.artifact.into_iter().filter(|artifact| artifact.arch != "i386") {
        let path = cache.blob(&artifact.sha256).unwrap();
        let of_driver = upstream(&artifact.version) == initrd().driver();
        if of_driver && !but.contains(&artifact.name.as_str()) {
            all.push((Artifact { version: format!("{NEXT}-1"), ..artifact.clone() }, path.clone()));
        }
        all.push((artifact, path));
    }
    all
}

/// A place whose archive has everything but 32-bit packages.
fn place(but: &[&str]) -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.archive().offer(&offered(but));
    sandbox.edit_profile("\"linux-image-cloud-amd64\"", &format!("\"linux-image-{}\"", initrd().release()));
    // The archive knows no dependencies.
    let lock = Lock::read(&initrd().lock).unwrap().unwrap();
    let common = |artifact: &&Artifact| {
        artifact.name.starts_with("linux-headers-") && artifact.name.ends_with("-common")
    };
    let common = lock.artifact.iter().find(common).unwrap();
    sandbox.edit_profile(
        "[toolroot]\npackages = [\n",
        &format!("[toolroot]\npackages = [\"{}\",\n", common.name),
    );
    let text = Profile::load(DEFAULT).unwrap().1;
    let lists = text.split("\ncompat32 = [").skip(1).map(|rest| rest.split_once(']').unwrap().0);
    for list in lists {
        sandbox.edit_profile(&format!("\ncompat32 = [{list}]"), "");
    }
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
    assert_eq!(first.driver, initrd().driver());
    let (text, lock) = good(&sandbox, &["update", "--driver", "550.x"]);
    assert_eq!(lock.driver, NEXT);
    assert!(text.contains(&format!("- driver {}\n+ driver {NEXT}\n", initrd().driver())), "{text}");
    let libcuda = lock.artifact.iter().find(|artifact| artifact.name == "libcuda1").unwrap();
    assert!(text.contains("~ libcuda1:amd64 ") && text.contains(&format!("-> {NEXT}-1")), "{text}");
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
    same("libnvidia-egl-gbm1");
    same("gcc");
    let (text, again) = good(&sandbox, &["resolve"]);
    assert!(text.starts_with("0 added, 0 removed, 0 changed"), "{text}");
    assert_eq!(again, lock);
    let (_, back) = good(&sandbox, &["update", "--driver", initrd().driver()]);
    assert_eq!(back, first);
}

#[test]
fn incomplete_driver_is_refused_with_a_list_of_offers() {
    let sandbox = place(&["firmware-nvidia-gsp"]);
    good(&sandbox, &["resolve"]);
    refuses(&sandbox, "999.x", &["999.x", "nvidia-open-kernel-source 550.200.01 550.163.01", "more_suites"]);
    refuses(&sandbox, NEXT, &[NEXT, "firmware-nvidia-gsp 550.163.01"]);
    let (_, lock) = good(&sandbox, &["update", "--driver", "550.x"]);
    assert_eq!(lock.driver, initrd().driver(), "the newest that is whole");

    let sandbox = place(&["libnvidia-gpucomp"]);
    good(&sandbox, &["resolve"]);
    refuses(&sandbox, "550.x", &[NEXT, "libnvidia-gpucomp 550.163.01", "profile"]);
}

#[test]
fn source_that_does_not_fit_the_patches_is_refused() {
    let mut sandbox = place(&[]);
    sandbox.edit_profile("NV_GPU_BAR1, requested_size)\"", "NV_GPU_BAR1, other_size)\"");
    good(&sandbox, &["resolve"]);
    refuses(&sandbox, NEXT, &["nvidia/nv-pci.c", "found it 0 times", "[[modules.patch]]"]);
}
