//! `boot` with a profile that has no QEMU: the remedy in the message is followed literally, and
//! works.

use std::{
    fs,
    process::{Command, Stdio},
};

use rig::{
    build::{initrd, program},
    roots::{Recipe, Suite},
};

use super::place::Place;

#[test]
fn remedy_for_a_profile_without_qemu_works() {
    let place = Place::new();
    place.good(&["pins", "resolve", "--quiet"]);
    let root = Recipe::minbase(Suite::Bookworm).directory().unwrap();
    let boot = |more: &[&str]| {
        let mut command = Command::new(program());
        command.args(["boot", "--root"]).arg(&root).arg("--initrd").arg(&initrd().initrd);
        command.arg("--kernel").arg(&initrd().kernel).args(more);
        command.args(["--memory", "1024", "--uds", "vsock.sock", "--", "/bin/echo", "the container runs"]);
        place.prepare(&mut command);
        // QEMU and the programs next to it come from the tools of all tests.
        command.env_remove("GPU_INITRD_CACHE").output().unwrap()
    };
    let refused = boot(&["--profile", "./profile.toml", "--lock", "r.lock"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(125), "{text}");
    assert!(text.contains("has no packages that run a guest"), "{text}");

    let mut quoted = text.split('`').skip(1).step_by(2);
    let resolve = quoted.next().unwrap().strip_prefix("host-builder ").unwrap();
    let options = text.split_once("then boot with ").unwrap().1.split(';').next().unwrap();
    let mut command = Command::new(program());
    place.prepare(command.args(resolve.split(' ')).arg("--quiet"));
    let output = command.env_remove("GPU_INITRD_CACHE").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{resolve}: {}", String::from_utf8_lossy(&output.stderr));
    let before = fs::read(place.path("r.lock")).unwrap();
    let output = boot(&options.split(' ').collect::<Vec<_>>());
    let console = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && console.contains("the container runs"),
        "{console}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(fs::read(place.path("r.lock")).unwrap(), before);
}
