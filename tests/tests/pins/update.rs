//! Another driver, another release: everything that upgrading takes, in one command, and what cannot work refused.

use std::fs;

use rig::{build::initrd, variant::patch};

use super::place::{Place, parts, tag};

#[test]
fn another_release_is_one_command() {
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
fn another_driver_must_be_offered_and_be_the_one_that_the_files_are_of() {
    let mut place = Place::new();
    place.good(&["pins", "resolve", "--quiet"]);
    // The installer's address has the version in it.
    place.refuses(&["pins", "update", "--driver", "999.1"], &["NVIDIA-Linux-x86_64-999.1.run", "404"]);
    place.refuses(&["pins", "update", "--driver", "999.x"], &["999.x", "expected a whole version"]);
    // Addresses without a version give what they always gave.
    place.edit_profile("{driver}", initrd().driver());
    place.refuses(&["pins", "update", "--driver", "999.1"], &["libcuda.so.999.1", initrd().driver()]);
    let output = place.command(&["pins", "update"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "an update of nothing: {output:?}");
}

#[test]
fn modules_of_another_driver_or_kernel_than_the_libraries_are_refused() {
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

#[test]
fn a_profile_is_made_from_addresses_and_directories() {
    let place = Place::new();
    let uri = place.server.uri();
    let mut command = std::process::Command::new(rig::build::program());
    place.prepare(command.args([
        "pins",
        "add",
        "mine",
        "--driver",
        initrd().driver(),
        "--output",
        "profile-2.toml",
    ]));
    command.args(["--kernel", &format!("{uri}{}", super::place::address("vmlinux-x86_64"))]);
    command
        .arg("--gpu-modules")
        .arg(parts().path("modules"))
        .arg("--driver-files")
        .arg(parts().path("libs.tar.gz"));
    command.arg("--firmware").arg(parts().path("installer.run"));
    command.args([
        "--builtin",
        "virtio_blk,ext4,overlay,vmw_vsock_virtio_transport,drm,drm_kms_helper,ecdh_generic,ecdsa_generic",
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("pins resolve --profile ./profile-2.toml"));
    let mut build = std::process::Command::new(rig::build::program());
    place.prepare(build.args([
        "build-initrd",
        "--profile",
        "./profile-2.toml",
        "--lock",
        "2.lock",
        "--dry-run",
        "--json",
    ]));
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest = image::manifest::Manifest::from_json(&output.stdout).unwrap();
    assert_eq!(super::place::driver_files(&manifest), super::place::driver_files(&parts().manifest));
}
