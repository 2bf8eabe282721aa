//! The container roots work as the other tests expect: the release's own programs and loader run in
//! them, and so do the probes. The tests enter the roots without a guest.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Output},
};

use rig::roots::{Recipe, Suite};

/// Runs `command` in the root, in a namespace of its own.
fn inside(root: &Path, command: &[&str]) -> Output {
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "--", "chroot"]).arg(root).args(command);
    unshare.env("PATH", "/usr/local/bin:/usr/bin:/usr/sbin").env("LC_ALL", "C").output().unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

fn check(suite: Suite, glibc: &str) {
    let root = Recipe::minbase(suite).directory().unwrap();
    let release = inside(&root, &["sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME && whoami"]);
    assert_eq!(stdout(&release), format!("{}\nroot\n", suite.name()));
    let libc = inside(&root, &["ldd", "--version"]);
    assert!(stdout(&libc).lines().next().unwrap().ends_with(glibc), "{libc:?}");

    let cache = inside(&root, &["ldconfig", "-p"]);
    let cached = stdout(&cache).lines().find(|line| line.contains("libmount.so.1 ")).unwrap();
    let path = cached.rsplit("=> ").next().unwrap();
    let opened = inside(&root, &["dlopen", "libmount.so.1"]);
    assert_eq!(stdout(&opened), format!("libmount.so.1 {path}\n"));

    let absent = inside(&root, &["dlopen", "libc.so.6", "libcuda.so.1"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stdout).starts_with("libc.so.6 /"));
    assert!(String::from_utf8_lossy(&absent.stderr).starts_with("libcuda.so.1: libcuda.so.1: cannot open"));

    assert_eq!(inside(&root, &["ending", "exit", "7"]).status.code(), Some(7));
    assert_eq!(inside(&root, &["ending", "signal", "11"]).status.signal(), Some(libc::SIGSEGV));
    assert_eq!(inside(&root, &["ending"]).status.code(), Some(64));
}

#[test]
fn bookworm() {
    check(Suite::Bookworm, "2.36");
}

#[test]
fn trixie() {
    check(Suite::Trixie, "2.41");
}
