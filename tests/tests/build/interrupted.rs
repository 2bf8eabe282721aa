//! Interrupted runs: exit code 2, no partial file, no program left running, and the next build is
//! good.

use std::{
    convert::Infallible,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use rig::process::poll;

use super::sandbox::{PROGRAMS, Sandbox};

/// Longest wait for a moment, and for programs to be gone.
const PATIENCE: Duration = Duration::from_mins(1);

/// The receiver of the signal: the process alone (`kill`), or its whole group (Ctrl-C in a
/// terminal).
#[derive(Clone, Copy, Debug)]
enum To {
    Process,
    Group,
}

fn interrupt(sandbox: &Sandbox, signal: Signal, to: To, moment: impl Fn() -> bool) {
    let (child, group) = build_until(sandbox, moment);
    match to {
        To::Process => kill(group, signal),
        To::Group => killpg(group, signal),
    }
    .unwrap();
    let stderr = ends_without_a_trace(sandbox, child, group);
    assert!(stderr.contains("interrupted: no partial output was left"), "{signal} to {to:?}: {stderr}");
}

/// Starts a build, and waits for a moment of it. Returns it with its session.
fn build_until(sandbox: &Sandbox, moment: impl Fn() -> bool) -> (Child, Pid) {
    // A session of its own, as a terminal gives it: all that it starts can be found by it.
    let mut command = Command::new("setsid");
    command.arg(rig::build::program()).args(["build-initrd", "--profile", "./profile.toml"]);
    command.args(["--payload", "files", "--quiet"]);
    sandbox.prepare(&mut command);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let group = Pid::from_raw(child.id().try_into().unwrap());
    let came = poll(PATIENCE, || {
        assert!(child.try_wait().unwrap().is_none(), "the build ended before the moment came");
        Ok::<_, Infallible>(moment().then_some(()))
    });
    came.unwrap().expect("the moment came");
    (child, group)
}

/// Expects exit code 2, no output, nothing half-written and no program left. Returns what was printed.
fn ends_without_a_trace(sandbox: &Sandbox, child: Child, group: Pid) -> String {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(sandbox.outputs().is_empty(), "{:?}", sandbox.outputs());
    let gone = poll(PATIENCE, || Ok::<_, Infallible>(members(group).is_empty().then_some(()))).unwrap();
    assert!(gone.is_some(), "left running: {:?}", members(group));
    sandbox.nothing_is_half_made();
    stderr
}

/// Command lines of the living processes of a session.
fn members(session: Pid) -> Vec<String> {
    let of = |directory: &Path| -> Option<String> {
        // pid (name) state parent group session …; the name may hold anything but ends at the last
        // parenthesis.
        let stat = fs::read_to_string(directory.join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, member) = (fields.next()?, fields.nth(2)?);
        (state != "Z" && member == session.to_string()).then_some(())?;
        let words = fs::read_to_string(directory.join("cmdline")).ok()?;
        Some(words.replace('\0', " "))
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| of(&entry.ok()?.path())).collect()
}

#[test]
fn interrupt_while_packing_leaves_nothing_behind() {
    for (signal, to) in [(Signal::SIGINT, To::Group), (Signal::SIGTERM, To::Process)] {
        let mut sandbox = Sandbox::new();
        let packing =
            || fs::read_dir(sandbox.path("cache/segments")).is_ok_and(|mut entries| entries.next().is_some());
        interrupt(&sandbox, signal, to, packing);
        sandbox.next_build_is_good();
    }
}

#[test]
fn interrupt_while_downloading_leaves_nothing_behind() {
    for (signal, to) in [(Signal::SIGINT, To::Group), (Signal::SIGTERM, To::Process)] {
        let mut sandbox = Sandbox::new();
        let package = sandbox.artifact(PROGRAMS);
        sandbox.forget(&package);
        sandbox.archive().hold(Some(&package.sha256));
        interrupt(&sandbox, signal, to, || sandbox.archive().was_asked_for(&package.sha256));
        assert!(!sandbox.blob(&package).exists());
        sandbox.next_build_is_good();
    }
}

/// The compiler has made its first file.
fn is_compiling(sandbox: &Sandbox) -> bool {
    let objects = walkdir::WalkDir::new(sandbox.path("cache/work")).into_iter().filter_map(Result::ok);
    objects.into_iter().any(|entry| entry.path().extension().is_some_and(|ending| ending == "o"))
}

/// The driver is downloaded while its modules are compiled, which takes minutes.
#[test]
fn failed_download_ends_the_compiler() {
    let sandbox = Sandbox::new();
    fs::remove_dir_all(sandbox.path("cache/modules")).unwrap();
    let package = sandbox.artifact(PROGRAMS);
    sandbox.forget(&package);
    sandbox.archive().hold(Some(&package.sha256));
    let (child, group) = build_until(&sandbox, || is_compiling(&sandbox));
    assert!(sandbox.archive().was_asked_for(&package.sha256));
    let mut offered = Sandbox::offered();
    offered.retain(|(artifact, _)| artifact.name != package.name);
    sandbox.archive().offer(&offered);
    sandbox.archive().hold(None);
    let stderr = ends_without_a_trace(&sandbox, child, group);
    assert!(stderr.contains(&package.sha256) && !stderr.contains("ended early"), "{stderr}");
    assert!(fs::read_dir(sandbox.path("cache/modules")).unwrap().next().is_none());
}

/// The compiler runs in the toolroot, with children of its own.
#[test]
fn interrupt_while_compiling_leaves_nothing_behind() {
    for (signal, to) in [(Signal::SIGINT, To::Group), (Signal::SIGTERM, To::Process)] {
        let mut sandbox = Sandbox::new();
        fs::remove_dir_all(sandbox.path("cache/modules")).unwrap();
        interrupt(&sandbox, signal, to, || is_compiling(&sandbox));
        assert!(fs::read_dir(sandbox.path("cache/modules")).unwrap().next().is_none());
        let modules = rig::build::cache().unwrap().room("modules").unwrap();
        fs::remove_dir_all(sandbox.path("cache/modules")).unwrap();
        std::os::unix::fs::symlink(modules, sandbox.path("cache/modules")).unwrap();
        sandbox.next_build_is_good();
    }
}
