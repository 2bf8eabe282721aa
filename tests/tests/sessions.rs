//! Commands that the host runs in the container, and copies of files: `exec` and `cp`.

use host_builder::guest_client::session::{Begun, begin};
use image::event::{Event, Happening};
use image::session::{Exec, Task};
use image::status::Exit;
use image::wire::{Reply, Request, Until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::build::program;
use rig::checks::Checks;
use rig::guest::Guest;
use rig::scene::{PATIENCE, boot, guest, request, target, wait, with_config};
use rig::terminal::{self, Do, Step};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Prints its namespaces and its control group, and stays. Its root has traps for copies.
const PROGRAM: &str = "for ns in mnt pid cgroup ipc uts net; do readlink /proc/self/ns/$ns; done > /tmp/namespaces; \
     cat /proc/self/cgroup > /tmp/cgroup; ln -s /proc/self/exe /tmp/magic; ln -s /proc/1/root /tmp/climb; \
     mkfifo /tmp/fifo; echo from-the-program > /tmp/file; ln -s /tmp/file /tmp/link; echo armed; exec sleep 1000";

/// A command line of host-builder for a guest.
fn host(guest: &Guest, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    let address = target(guest).to_string();
    command.args(words.iter().map(|word| word.replace("TARGET", &address))).stdin(Stdio::null());
    command
}

/// Runs a command in the container.
fn exec(guest: &Guest, words: &[&str]) -> Output {
    host(guest, &[&["exec", "TARGET", "--"], words].concat()).output().unwrap()
}

/// What a shell in the container prints.
fn shell(guest: &Guest, script: &str) -> String {
    let output = exec(guest, &["sh", "-c", script]);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn events(guest: &Guest) -> Vec<Event> {
    let Reply::Events(events) = request(guest, &Request::Events { from: 0, timeout_ms: 0 }) else { panic!() };
    events.events
}

/// One guest serves commands and copies of every kind, good and bad.
#[test]
fn commands_and_copies_stay_in_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "entrypoint": ["/bin/sh", "-c", PROGRAM], "env": { "A": "of the program" }, "capabilities": "default",
    });
    let setup = with_config(guest(), dir.path(), &config).cmdline("gpu_initrd.control=exec");
    let mut guest = boot(setup);
    guest.wait_for_console("armed", PATIENCE).unwrap();
    wait(&guest, Until::Ready);
    let mut checks = Checks::of("a guest with control=exec");
    commands(&guest, &mut checks);
    streams(&guest);
    terminals(&guest, &mut checks);
    signals_and_clients_that_vanish(&guest);
    copies(&guest, dir.path(), &mut checks);
    hostile_roots(&guest, dir.path(), &mut checks);
    drop(checks);
    assert!(!guest.console().contains("panicked"), "{}", guest.console());
}

fn commands(guest: &Guest, checks: &mut Checks) {
    let modules = shell(guest, "cut -d' ' -f1 /proc/modules");
    for (name, is_needed) in
        [("virtio_blk", true), ("erofs", true), ("overlay", true), ("squashfs", false), ("dm_verity", false)]
    {
        let found = modules.lines().any(|line| line == name);
        checks.same(found, is_needed, &format!("whether module {name} is loaded in this guest"));
    }
    let joined = shell(
        guest,
        "for ns in mnt pid cgroup ipc uts net; do readlink /proc/self/ns/$ns; done | cmp - /tmp/namespaces && \
         cat /proc/self/cgroup | cmp - /tmp/cgroup && echo same; echo $A; pwd; id -u; cat /proc/1/comm",
    );
    checks.same(
        joined.lines().collect::<Vec<_>>(),
        ["same", "of the program", "/", "0", "gpu-initrd"],
        "what a command joins",
    );
    let words = ["--user", "games:60", "--env", "A=b c", "--workdir", "/usr"];
    let mut asked = host(
        guest,
        &[&["exec", "TARGET"], &words[..], &["--", "sh", "-c", "id -u; id -g; echo $A; pwd"]].concat(),
    );
    let output = asked.output().unwrap();
    checks.same(
        text(&output.stdout).lines().collect::<Vec<_>>(),
        ["5", "60", "b c", "/usr"],
        "what is asked for",
    );
    for (words, code, said) in [
        (&["sh", "-c", "exit 7"][..], 7, ""),
        (&["sh", "-c", "kill -9 $$"], 137, ""),
        (&["no-such-program"], 127, "no-such-program is not in any directory of PATH"),
        (&["/etc/passwd"], 126, "cannot execute /etc/passwd"),
    ] {
        let output = exec(guest, words);
        checks.same(output.status.code(), Some(code), &format!("the exit code of {words:?}"));
        checks.has(&text(&output.stderr), said, &format!("the error of {words:?}"));
    }
    let output = host(guest, &["exec", "TARGET", "--user", "nobody-here", "--", "id"]).output().unwrap();
    checks.same(output.status.code(), Some(125), "the exit code for an unknown user");
    checks.has(&text(&output.stderr), "/etc/passwd", "the error for an unknown user");
}

/// More than every buffer on the way, in both directions at once.
fn streams(guest: &Guest) {
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut command =
        host(guest, &["exec", "-i", "TARGET", "--", "sh", "-c", "echo mine >&2; cat; echo more >&2"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let mut input = running.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&content).unwrap();
            drop(input);
        });
        running.wait_with_output().unwrap()
    });
    assert!(output.status.success() && output.stdout == content, "{} bytes", output.stdout.len());
    assert_eq!(output.stderr, b"mine\nmore\n");
    // A command that reads nothing, and one that leaves a process with its output behind.
    let mut running =
        host(guest, &["exec", "-i", "TARGET", "--", "true"]).stdin(Stdio::piped()).spawn().unwrap();
    let _ = running.stdin.take().unwrap().write_all(&content);
    assert!(running.wait().unwrap().success());
    assert_eq!(shell(guest, "sleep 60 & echo left"), "left\n");
}

fn terminals(guest: &Guest, checks: &mut Checks) {
    let shown = terminal::shown(
        97,
        &host(guest, &["exec", "-t", "TARGET", "--", "sh", "-c", "tty; stty size; echo $TERM"]),
        60,
    );
    let lines = terminal::lines(&shown.unwrap());
    checks.same(&lines[..], ["/dev/pts/0", "24 97", "xterm"], "what a command sees of its terminal");
    // Its size changes while it runs, and keys reach it: Ctrl-C is a signal there, not here.
    let command = "trap 'stty size' WINCH; trap 'echo interrupted; exit 4' INT; echo armed; read line; echo got $line; while :; do sleep 0.1; done";
    let steps = [
        Step("armed\r\n", Do::Type("some keys\n")),
        Step("got some keys", Do::Resize(30, 40)),
        Step("30 40\r\n", Do::Type("\x03")),
        Step("interrupted", Do::Type("")),
    ];
    let exec = host(guest, &["exec", "-it", "TARGET", "--", "sh", "-c", command]);
    let (code, screen) = terminal::used(&exec, &steps).unwrap();
    checks.same(code, Some(4), &format!("the exit code of a command on a terminal: {screen}"));
    checks.that(screen.ends_with(terminal::AS_BEFORE), screen);
}

/// Starts a command whose first line is `armed`.
fn armed(guest: &Guest, script: &str) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut command = host(guest, &["exec", "TARGET", "--", "sh", "-c", script]);
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "armed\n");
    (running, lines)
}

fn signals_and_clients_that_vanish(guest: &Guest) {
    let (mut running, _lines) = armed(guest, "trap 'exit 3' TERM; echo armed; while :; do sleep 0.1; done");
    kill(Pid::from_raw(running.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(3));
    // Nobody waits for the command any longer.
    let (mut running, _lines) = armed(guest, "echo armed; exec sleep 987");
    running.kill().unwrap();
    running.wait().unwrap();
    let hung_up = Exit { code: None, signal: Some(Signal::SIGHUP as i32), oom: false };
    let deadline = Instant::now() + PATIENCE;
    let is_told =
        |event: &Event| matches!(event.what, Happening::SessionEnded { exit, .. } if exit == hung_up);
    while !events(guest).iter().any(is_told) {
        assert!(Instant::now() < deadline, "{:#?}", events(guest));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        shell(guest, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 98[7]' || true"),
        "0\n"
    );
    // Too many at once.
    let mut open: Vec<_> = (0..8).map(|_| armed(guest, "echo armed; exec sleep 986")).collect();
    let refused = exec(guest, &["true"]);
    let message = text(&refused.stderr);
    assert!(refused.status.code() == Some(125) && message.contains("8 sessions are open"), "{refused:?}");
    for (running, _) in &mut open {
        running.kill().unwrap();
        running.wait().unwrap();
    }
    let is_ended =
        |event: &&Event| matches!(event.what, Happening::SessionEnded { exit, .. } if exit == hung_up);
    while events(guest).iter().filter(is_ended).count() < 9 {
        assert!(Instant::now() < deadline, "{:#?}", events(guest));
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn copy(guest: &Guest, more: &[&str]) -> Output {
    host(guest, &[&["cp"], more].concat()).output().unwrap()
}

fn copies(guest: &Guest, dir: &Path, checks: &mut Checks) {
    let here = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    let content: Vec<u8> = (0..2_000_000_u32).map(|number| (number % 253) as u8).collect();
    fs::write(tree.join("deep/data"), &content).unwrap();
    fs::write(tree.join("deep/er/empty"), "").unwrap();
    fs::write(tree.join("tool"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(tree.join("tool"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(tree.join("deep"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("../tool", tree.join("deep/link")).unwrap();
    symlink("/no/such", tree.join("broken")).unwrap();

    shell(guest, "mkdir -p /srv");
    let output = copy(guest, &["--user", "games", &here("tree"), "TARGET:/srv"]);
    assert!(output.status.success(), "{output:?}");
    checks.has(&text(&output.stderr), "copied 3 files, 2.0 MB", "the last line of a copy");
    let listed = shell(
        guest,
        "cd /srv/tree && stat -c '%a %U %n' deep tool deep/data && ./deep/link && readlink broken",
    );
    let expected = ["700 games deep", "750 games tool", "644 games deep/data", "ran", "/no/such"];
    checks.same(listed.lines().collect::<Vec<_>>(), expected, "a copied directory");
    // Once more, over itself, and to another name.
    assert!(copy(guest, &[&here("tree"), "TARGET:/srv"]).status.success());
    assert!(copy(guest, &[&here("tree/deep/data"), "TARGET:/tmp/other"]).status.success());
    checks.same(
        shell(guest, "cmp /tmp/other /srv/tree/deep/data && stat -c %U /tmp/other"),
        "root\n",
        "a copied file",
    );

    fs::create_dir(dir.join("back")).unwrap();
    assert!(copy(guest, &["TARGET:/srv/tree", &here("back")]).status.success());
    let same = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(&tree)
        .arg(dir.join("back/tree"))
        .output()
        .unwrap();
    checks.same(text(&same.stdout), "", "a directory that came back");
    let mode = |path: &str| fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o7777;
    checks.same((mode("back/tree/deep"), mode("back/tree/tool")), (0o700, 0o750), "its modes");
    // A link is followed where it is named.
    assert!(copy(guest, &["TARGET:/tmp/link", &here("file")]).status.success());
    checks.same(fs::read_to_string(dir.join("file")).unwrap(), "from-the-program\n", "the target of a link");
    let told: Vec<_> = events(guest)
        .into_iter()
        .filter_map(|event| match event.what {
            Happening::SessionStarted { task: Task::Read(path), .. } => Some(path),
            _ => None,
        })
        .collect();
    checks.same(told, vec!["/srv/tree".to_owned(), "/tmp/link".to_owned()], "the events of copies");
}

/// What a container can do against the process that copies for the host, and against a terminal for it.
fn hostile_roots(guest: &Guest, dir: &Path, checks: &mut Checks) {
    let here = |name: &str| dir.join(name).to_string_lossy().into_owned();
    for (from, to, said) in [
        ("TARGET:/tmp/magic", here("out"), "Symbolic link loop"),
        ("TARGET:/tmp/fifo", here("out"), "a device, a FIFO or a socket"),
        ("TARGET:/dev/zero", here("out"), "a device, a FIFO or a socket"),
        ("TARGET:/no/such", here("out"), "No such file"),
        (&here("file"), "TARGET:/tmp/magic/x".into(), "Symbolic link loop"),
        (&here("file"), "TARGET:/tmp/climb/etc/x".into(), "Permission denied"),
        (&here("file"), "TARGET:/no/such/dir".into(), "No such file"),
        (&here("file"), "TARGET:/proc/sys/kernel/core_pattern".into(), "Read-only file system"),
    ] {
        let output = copy(guest, &[from, &to]);
        checks.same(output.status.code(), Some(2), &format!("the exit code of cp {from} {to}"));
        checks.has(&text(&output.stderr), said, &format!("the error of cp {from} {to}"));
    }
    checks.same(dir.join("out").exists(), false, "whether something was left of failed copies");
    // The process that copies is in the container, where root can see it, but not open it.
    let exec = Exec {
        task: Task::Write { path: "/tmp/slow".into(), name: "slow".into() },
        user: None,
        env: Vec::new(),
        workdir: None,
        terminal: None,
    };
    let Begun::Session(session) = begin(&target(guest), &exec).unwrap() else { panic!("not started") };
    let seen = shell(
        guest,
        "for dir in /proc/[0-9]*; do test \"$(cat $dir/comm)\" = gpu-initrd || continue; test $dir = /proc/1 && continue; \
         echo found; ls $dir/fd $dir/root/ >/dev/null 2>&1 && echo open; readlink $dir/exe && echo readable; grep CapEff $dir/status; done",
    );
    let lines: Vec<_> = seen.lines().collect();
    checks.same(lines.first().copied(), Some("found"), "the process that copies");
    checks.same(lines.contains(&"open") || lines.contains(&"readable"), false, "whether it can be opened");
    checks.same(lines.last().copied(), Some("CapEff:\t000000000000001b"), "its capabilities");
    drop(session);
}
