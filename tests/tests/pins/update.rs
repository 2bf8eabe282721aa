//! Another driver, another release: one command upgrades, and refuses what cannot work.

use std::{fs, path::Path, process::Command};

use host_builder::pins::lock::{Lock, Set};
use image::manifest::{Manifest, Purpose};
use rig::{build::initrd, variant::patch};

use super::place::{Place, driver_files, parts, tag};

#[test]
fn update_selects_another_release() {
    let place = Place::new();
    place.good(&["pins", "resolve", "--quiet"]);
    let next = "ch-6.12.8-kernel-2-20260101";
    place.refuses(&["pins", "update", "--kernel", next], &[next, "no longer offers it (404"]);
    place.release(next, &parts().path("libs.tar.gz"), &parts().path("modules.tar.gz"));
    let (out, _) = place.good(&["pins", "update", "--kernel", next]);
    assert!(out.contains(&format!("- kernel {}\n+ kernel {next}\n", tag())), "{out}");
    assert!(out.contains("3 changed, 1 unchanged"), "{out}");
    assert!(out.contains(&format!("{next}/vmlinux-x86_64")), "{out}");
    // It stays chosen, and an image is built from it with the same profile.
    let (out, _) = place.good(&["pins", "resolve"]);
    assert!(out.contains("4 unchanged"), "{out}");
    place.good(&["build-initrd", "--dry-run", "--quiet"]);
    assert_eq!(place.lock().kernel.as_deref(), Some(next));
}

#[test]
fn update_refuses_unoffered_and_mismatched_drivers() {
    let mut place = Place::new();
    place.good(&["pins", "resolve", "--quiet"]);
    // The installer's address has the version in it.
    place.refuses(&["pins", "update", "--driver", "999.1"], &["NVIDIA-Linux-x86_64-999.1.run", "404"]);
    place.refuses(&["pins", "update", "--driver", "999.x"], &["999.x", "expected a complete version"]);
    // Addresses without a version stay as they are.
    place.edit_profile("{driver}", initrd().driver());
    place.refuses(&["pins", "update", "--driver", "999.1"], &["libcuda.so.999.1", initrd().driver()]);
    let output = place.command(&["pins", "update"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "an update of nothing: {output:?}");
}

#[test]
fn update_refuses_modules_that_do_not_match_libraries() {
    let place = Place::new();
    let (driver, release) = (initrd().driver(), initrd().release());
    let other = |text: &str| format!("9{}", &text[1..]);
    for (tag, from, to) in [
        ("driver", format!("\0version={driver}\0"), format!("\0version={}\0", other(driver))),
        ("kernel", format!("\0vermagic={release} "), format!("\0vermagic={} ", other(release))),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let below = format!("lib/modules/{release}/kernel/drivers/gpu");
        fs::create_dir_all(dir.path().join(&below)).unwrap();
        let mut bytes = fs::read(parts().path("modules").join(&below).join("nvidia.ko")).unwrap();
        patch(&mut bytes, from.as_bytes(), to.as_bytes());
        fs::write(dir.path().join(&below).join("nvidia.ko"), bytes).unwrap();
        let archive = place.path(&format!("{tag}.tar.gz"));
        let mut tar = std::process::Command::new("tar");
        rig::process::run(tar.arg("-C").arg(dir.path()).arg("-czf").arg(&archive).arg("lib")).unwrap();
        place.release(tag, &parts().path("libs.tar.gz"), &archive);
        let found = if tag == "driver" { other(driver) } else { other(release) };
        let expected = if tag == "driver" { driver } else { release };
        place.refuses(&["pins", "update", "--kernel", tag], &[&found, expected, "module nvidia"]);
        assert!(!place.path("r.lock").exists());
    }
}

/// A profile for a kernel and the driver of the release, made with `pins add`.
fn add(place: &Place, kernel: &str, more: &[&str]) {
    let mut command = Command::new(rig::build::program());
    command.args(["pins", "add", "mine", "--driver", initrd().driver(), "--output", "profile-2.toml"]);
    command.args(["--kernel", kernel]).args(more);
    for (option, part) in
        [("--gpu-modules", "modules"), ("--driver-files", "libs.tar.gz"), ("--firmware", "installer.run")]
    {
        command.arg(option).arg(parts().path(part));
    }
    place.prepare(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("pins resolve --profile ./profile-2.toml"));
}

/// The manifest of an image of that profile, or the error.
fn planned(place: &Place) -> Result<Manifest, String> {
    let mut build = Command::new(rig::build::program());
    build.args(["build-initrd", "--profile", "./profile-2.toml", "--lock", "2.lock", "--dry-run", "--json"]);
    place.prepare(&mut build);
    let output = build.output().unwrap();
    if output.status.success() {
        return Ok(Manifest::from_json(&output.stdout).unwrap());
    }
    Err(String::from_utf8(output.stderr).unwrap())
}

#[test]
fn profile_is_made_from_addresses_and_directories() {
    let place = Place::new();
    let kernel = format!("{}{}", place.server.uri(), super::place::address("vmlinux-x86_64"));
    let builtin =
        "virtio_blk,ext4,overlay,vmw_vsock_virtio_transport,drm,drm_kms_helper,ecdh_generic,ecdsa_generic";
    add(&place, &kernel, &["--builtin", builtin]);
    let manifest = planned(&place).unwrap();
    assert_eq!(driver_files(&manifest), driver_files(&parts().manifest));
}

/// The package of a distribution's kernel contains the list of built-in modules: the profile needs
/// neither an archive of modules nor a list.
#[test]
fn kernel_package_provides_modules_and_builtin_list() {
    let place = Place::new();
    let lock = Lock::read(&initrd().lock).unwrap().unwrap();
    let package = place.path("linux-image.deb");
    let kernel = lock.sets(&[Set::Kernel]).into_iter().next().expect("the default profile has a kernel");
    fs::copy(rig::build::cache().unwrap().blob(&kernel.sha256).unwrap(), &package).unwrap();
    let package = package.to_str().unwrap();
    add(&place, package, &[]);
    let manifest = planned(&place).unwrap();
    let boot: Vec<_> = manifest.modules_for(Purpose::Boot).map(|module| module.name.as_str()).collect();
    // Of the four default modules of a profile, ext4 is built into this kernel.
    for module in ["virtio_blk", "overlay", "vmw_vsock_virtio_transport"] {
        assert!(boot.contains(&module), "{module} is not in {boot:?}");
    }
    assert!(!boot.contains(&"ext4"), "{boot:?}");
    assert_eq!(manifest.kernel_release, initrd().release());
    assert_eq!(driver_files(&manifest), driver_files(&parts().manifest));

    // What is neither built in nor there ends the build, whatever the profile says.
    fs::remove_file(place.path("profile-2.toml")).unwrap();
    add(&place, package, &["--modules", "virtio_blk,no_such_module", "--builtin", "no_such_module"]);
    let error = planned(&place).unwrap_err();
    for text in ["no_such_module", initrd().release(), "\n  what to do: "] {
        assert!(error.contains(text), "{text:?} is not in: {error}");
    }
    assert!(!Path::new(&place.path("out")).exists());
}
