//! Requests to real guests with the real program. Its output is checked with independent parsers.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use image::{layout, wire::DEFAULT_PORT};
use rig::{
    build::program,
    guest::Guest,
    phantom::Model,
    scene::{PATIENCE, boot, file_disk, guest_with_driver},
    terminal,
};
use serde_json::Value;

/// Checks JSON lines on standard input against the schema in the file.
const VALIDATE: &str = "import json, jsonschema, sys
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
lines = [json.loads(line) for line in sys.stdin]
for line in lines: jsonschema.Draft202012Validator(schema).validate(line)
print(len(lines))";

/// Metrics on standard input as JSON: name, labels, value.
const PARSE: &str = "import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
print(json.dumps([[s.name, s.labels, s.value, f.type] for f in parse(sys.stdin.read()) for s in f.samples]))";

fn host_builder(args: &[&str]) -> Output {
    Command::new(program()).args(args).stdin(Stdio::null()).output().unwrap()
}

/// The standard output of a run that ends with this exit code.
fn asked(args: &[&str], code: i32) -> String {
    let output = host_builder(args);
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{text}\n{errors}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{args:?}: {text:?}");
    text
}

/// A Python script of ours with this on its standard input, run by the Python that has the packages
/// of tests/run.
fn python(script: &str, args: &[&Path], input: &str) -> String {
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-c").arg(script).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{input}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the number of JSON lines, after checking each of them against the schema.
fn valid(command: &str, lines: &str) -> usize {
    let schema = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(schema.path(), asked(&[command, "--schema"], 0)).unwrap();
    python(VALIDATE, &[schema.path()], lines).trim().parse().unwrap()
}

fn series(text: &str) -> Vec<Value> {
    let parsed: Value = serde_json::from_str(&python(PARSE, &[], text)).unwrap();
    parsed.as_array().unwrap().clone()
}

/// The value of the one series of a name with these labels.
fn value(series: &[Value], name: &str, labels: &[(&str, &str)]) -> f64 {
    let is = |entry: &&Value| entry[0] == name && labels.iter().all(|(key, text)| entry[1][*key] == *text);
    let found: Vec<_> = series.iter().filter(is).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?} in {series:#?}");
    found[0][2].as_f64().unwrap()
}

/// The program in the background, with its output in files.
struct Running {
    child: Child,
    dir: tempfile::TempDir,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(dir.path().join(name)).unwrap();
        let mut command = Command::new(program());
        command.args(args).stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Self { child: command.spawn().unwrap(), dir }
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// Waits until a line of a file contains `text`.
    fn wait_for(&mut self, name: &str, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.text(name).lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            let errors = self.text("err");
            assert!(self.child.try_wait().unwrap().is_none(), "ended without {text:?}: {errors}");
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.text(name));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for its end, and returns its exit code, standard output and standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), self.text("out"), self.text("err"));
            }
            assert!(Instant::now() < deadline, "it did not end: {}", self.text("out"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(guest: &Guest) -> String {
    guest.address(DEFAULT_PORT).unwrap()
}

/// A guest with a GPU that fails, which is optional, and a container that says something and stays.
#[test]
fn running_guest_answers_every_request() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo hello; printf 'a \\033[31mred\\033[0m word\\n'; sleep 1000";
    let config = serde_json::json!({ "entrypoint": ["/bin/sh", "-c", script] }).to_string();
    let config = file_disk(dir.path(), "config", layout::CONFIG_FILE, &config);
    let setup = guest_with_driver().gpu(Model::H100).disk(&config, "config");
    let cmdline = "HAS_GPU=1 gpu_initrd.gpu=optional gpu_initrd.notify=vsock:2:9000";
    let mut guest = boot(setup.cmdline(cmdline));
    let target = address(&guest);
    let target = target.as_str();
    let listen = format!("unix:{}:9000", guest.uds().unwrap().display());
    let mut pushed = Running::start(&["events", "--listen", &listen, "--json"]);

    // From before the guest answers until it is gone.
    let mut events = Running::start(&["events", target, "--json", "--timeout", "4m"]);
    let watch = Running::start(&["status", target, "--watch", "--json", "--timeout", "4m"]);
    asked(&["status", target, "--wait", "root", "--timeout", "4m"], 0);
    let screen = asked(&["status", target, "--wait", "ready", "--timeout", "4m"], 0);
    let lines: Vec<_> = screen.lines().collect();
    assert!(lines[0].starts_with("ready  phase running, up "), "{screen}");
    assert!(lines[1].starts_with("error adapter-init-failed: "), "{screen}");
    assert!(screen.contains("    more: host-builder explain adapter-init-failed\n"), "{screen}");
    assert!(lines.iter().any(|line| line.starts_with("boot       start ")), "{screen}");
    let gpu = lines.iter().find(|line| line.starts_with("             0000:")).unwrap();
    assert!(gpu.ends_with(" s  failed"), "{screen}");
    assert!(screen.contains("running: /bin/sh -c echo hello"), "{screen}");
    assert!(lines.last().unwrap().starts_with("memory     "), "{screen}");

    // Without gpu_initrd.control=exec.
    for words in [&["exec", target, "--", "true"][..], &["cp", &format!("{target}:/etc/passwd"), "copy"]] {
        let code = if words[0] == "exec" { 125 } else { 2 };
        let output = host_builder(words);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(code) && message.contains("does not accept exec and cp"),
            "{output:?}"
        );
    }

    let json = asked(&["status", target, "--json"], 0);
    assert_eq!(valid("status", &json), 1);
    let answer: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&answer["schema"], &answer["target"]), (&1.into(), &target.into()));
    assert_eq!(answer["status"]["gpus"][0]["state"], "failed");
    // The adapter is what the program waited for.
    let step =
        |name: &str| answer["critical_path"].as_array().unwrap().iter().find(|step| step["name"] == name);
    let (bdf, parts) =
        (&answer["status"]["gpus"][0]["bdf"], step("gpu").unwrap()["parts"].as_array().unwrap());
    assert!(parts.iter().any(|part| part["name"] == *bdf) && step("exec").is_some(), "{answer}");
    assert!(lines.iter().any(|line| line.starts_with("waited for start ")), "{screen}");

    // The container may have been started before it has written.
    let mut log = Running::start(&["logs", target, "--follow"]);
    log.wait_for("out", "a red word");
    assert_eq!(log.text("out"), "hello\na red word\n");
    assert_eq!(asked(&["logs", target], 0), "hello\na red word\n");
    let kernel = asked(&["logs", target, "--kernel"], 0);
    assert!(kernel.lines().next().unwrap().starts_with("[    0.0"), "{kernel}");
    assert!(kernel.contains("Linux version ") && kernel.contains("RmInitAdapter failed!"), "{kernel}");

    let known = asked(&["events", target, "--no-follow"], 0);
    // Into a pipe, without --json.
    assert!(valid("events", &known) > 5, "{known}");
    for text in [
        r#"{"phase":{"phase":"start","outcome":"done"}}"#,
        r#"{"gpu":{"bdf":"0000:"#,
        r#""code":"adapter-init-failed""#,
        r#"{"started":{"pid":"#,
        r#"{"outcome":"ready"}"#,
    ] {
        assert!(known.contains(text), "{text}: {known}");
    }
    several_guests_one_of_them_dead(&guest);
    metrics_are_as_others_read_them(target);

    events.wait_for("out", "{\"outcome\":\"ready\"}");
    pushed.wait_for("out", "{\"outcome\":\"ready\"}");
    guest.kill();
    drop(guest);
    let (code, lines, errors) = events.end();
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("the guest is gone: "), "{errors}");
    assert!(valid("events", &lines) > 10, "{lines}");
    let sequence = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event"]["sequence"].as_u64();
    let numbers: Vec<_> = lines.lines().map(sequence).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]) && numbers[0] == Some(1), "{numbers:?}");
    // What is pushed is what can be asked for.
    let event = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event"].clone();
    let of = |lines: &str| lines.lines().map(event).collect::<Vec<_>>();
    pushed.wait_for("err", "unix:");
    assert_eq!(of(&pushed.text("out")), of(&lines));
    assert!(valid("events", &pushed.text("out")) > 10);
    let (code, lines, errors) = watch.end();
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("the guest is gone: ") && valid("status", &lines) > 2, "{errors}{lines}");
    let (code, ..) = log.end();
    assert_eq!(code, Some(0));
    let json = asked(&["status", target, "--json"], 2);
    assert_eq!(valid("status", &json), 1);
}

fn several_guests_one_of_them_dead(guest: &Guest) {
    let dir = tempfile::tempdir().unwrap();
    for vm in ["alive", "dead", "nothing"] {
        std::fs::create_dir(dir.path().join(vm)).unwrap();
    }
    symlink(guest.uds().unwrap(), dir.path().join("alive/vsock.sock")).unwrap();
    drop(UnixListener::bind(dir.path().join("dead/vsock.sock")).unwrap());
    let root = dir.path().display();
    let pattern = format!("unix:{root}/*/vsock.sock");
    let table = asked(&["status", &pattern], 2);
    let rows: Vec<_> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[1].contains("/alive/vsock.sock:1042  ready ") && rows[1].contains(" 0/1 "), "{table}");
    assert!(rows[2].contains("/dead/vsock.sock:1042") && rows[2].contains("  no-socket  "), "{table}");
    assert_eq!(valid("status", &asked(&["status", &pattern, "--json"], 2)), 2);
    asked(&["status", &format!("unix:{root}/al*/vsock.sock")], 0);
    let nobody = host_builder(&["status", &format!("unix:{root}/none*/vsock.sock")]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no socket matches unix:/"));

    let series = series(&asked(&["metrics", &pattern], 1));
    let dead = format!("unix:{root}/dead/vsock.sock:1042");
    assert!((value(&series, "gpu_initrd_up", &[("target", &dead)])).abs() < 0.1);
    assert!(series.iter().filter(|entry| entry[1]["target"] == dead).count() == 1);
}

fn metrics_are_as_others_read_them(target: &str) {
    let check = |text: &str| {
        let series = series(text);
        for (name, labels, expected) in [
            ("gpu_initrd_up", vec![], 1.0),
            ("gpu_initrd_ready", vec![], 1.0),
            ("gpu_initrd_gpus", vec![("state", "failed")], 1.0),
            ("gpu_initrd_findings", vec![("code", "adapter-init-failed"), ("severity", "error")], 1.0),
            ("gpu_initrd_container_running", vec![], 1.0),
            ("gpu_initrd_container_restarts_total", vec![], 0.0),
        ] {
            let labels = [labels, vec![("target", target)]].concat();
            assert!((value(&series, name, &labels) - expected).abs() < 0.1, "{name}: {text}");
        }
        assert!(value(&series, "gpu_initrd_memory_bytes", &[("kind", "total")]) > 5e8);
        assert!(value(&series, "gpu_initrd_phase_seconds", &[("phase", "gpu")]) > 0.5);
        let xid = series.iter().find(|entry| entry[0] == "gpu_initrd_xid_total");
        assert!(xid.is_none_or(|entry| entry[3] == "counter"), "{xid:?}");
    };
    check(&asked(&["metrics", target], 0));

    let mut server = Running::start(&["metrics", "--listen", "127.0.0.1:0", target]);
    let line = server.wait_for("err", "serving metrics at http://");
    let address = line.split_once("http://").unwrap().1.strip_suffix("/metrics").unwrap();
    let fetch = |request: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reply.read_line(&mut head).unwrap() > 0 {}
        let mut body = String::new();
        reply.read_to_string(&mut body).unwrap();
        (head, body)
    };
    assert!(fetch("\x01\x02\r\n\r\n").0.starts_with("HTTP/1.1 400 "));
    let (head, body) = fetch("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    check(&body);
    let taken = host_builder(&["metrics", "--listen", address, target]);
    assert_eq!(taken.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&taken.stderr).contains("what to do: stop the program that listens there")
    );
}

/// A failed boot reports why, and its guest ends by itself.
#[test]
fn failed_boot_is_a_failure_for_every_client_command() {
    let guest = boot(guest_with_driver().cmdline("HAS_GPU=1 gpu_initrd.linger=30s -- true"));
    let target = address(&guest);
    let target = target.as_str();
    let events = Running::start(&["events", target, "--timeout", "4m"]);
    // What there is by the time that the guest answers.
    let log = Running::start(&["logs", target, "--kernel", "--wait", "--timeout", "4m"]);
    let screen = asked(&["status", target, "--wait", "exited", "--timeout", "4m"], 1);
    assert!(screen.starts_with("failed  phase "), "{screen}");
    assert!(screen.lines().nth(1).unwrap().starts_with("error no-gpu: "), "{screen}");
    assert!(screen.contains("    more: host-builder explain no-gpu\n"), "{screen}");
    asked(&["status", target], 1);
    on_80_columns(target);
    asked(&["status", target, "--wait", "gpu"], 1);
    asked(&["status", target, "--wait", "modules"], 0);
    let (code, lines, errors) = log.end();
    assert!(code == Some(0) && lines.contains("gpu-initrd: "), "{lines}{errors}");
    // Its boot has failed: a guest that ends then is not a broken connection.
    let (code, lines, errors) = events.end();
    assert_eq!((code, errors.as_str()), (Some(0), "the guest is gone\n"));
    assert!(lines.contains(r#""code":"no-gpu""#) && lines.contains(r#"{"outcome":"failed"}"#), "{lines}");
}

/// On a narrow terminal lines wrap: nothing is cut off, also where the screen is drawn over and
/// over. The screen has 24 lines; hidden lines are announced.
fn on_80_columns(target: &str) {
    for (args, seconds) in [
        (&["status", target][..], 20),
        (&["status", target, "--watch"], 3),
        (&["status", target, "vsock:3:77", "--timeout", "20s"], 40),
    ] {
        let mut command = Command::new(program());
        let text = terminal::shown(80, command.args(args), seconds).unwrap();
        let lines = terminal::lines(&text);
        let longest = lines.iter().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 80, "{args:?}: {longest}: {text}");
        let words = lines.join(" ");
        for part in ["failed", "error no-gpu:"] {
            assert!(words.contains(part), "{args:?}: {part}: {text}");
        }
    }
}

/// groff renders the pages without warnings.
#[test]
fn manual_pages_render_without_warnings() {
    let dir = tempfile::tempdir().unwrap();
    asked(&["man", dir.path().to_str().unwrap()], 0);
    let mut pages = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let page = entry.unwrap().path();
        let mut command = Command::new("groff");
        let output =
            command.args(["-man", "-Tutf8", "-P-cbou", "-ww", "-Kutf8"]).arg(&page).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{}: {errors}", page.display());
        assert!(String::from_utf8_lossy(&output.stdout).contains("SYNOPSIS"), "{}", page.display());
        pages += 1;
    }
    assert!(pages > 20, "{pages}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(asked_raw(&["completions", shell]).contains("build-initrd"), "{shell}");
    }
}

/// Scripts of shells hold tabs.
fn asked_raw(args: &[&str]) -> String {
    let output = host_builder(args);
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}
