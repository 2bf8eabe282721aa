use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::time::Instant;

/// For a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);
const NOT_STARTED: &str =
    r#"{"error": {"class": "GenericError", "desc": "Error: vhost device has not started yet"}}"#;
const STARTED: &str = r#"{"return": {"name": "vhost-vsock", "num": 128, "kick": 0, "call": 0}}"#;

/// A gate between a client and a backend, and a fake monitor where QEMU's would be.
struct Scene {
    gate: Gate,
    backend: UnixListener,
    monitor: UnixListener,
    paths: Paths,
    _dir: tempfile::TempDir,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let paths = Paths { monitor: at("monitor"), uds: at("uds"), aside: at("aside") };
    let backend = UnixListener::bind(&paths.uds).unwrap();
    backend.set_nonblocking(true).unwrap();
    let gate = Gate::start(paths.clone()).unwrap();
    let monitor = UnixListener::bind(&paths.monitor).unwrap();
    Scene { gate, backend, monitor, paths, _dir: dir }
}

impl Scene {
    /// Serves the gate as QEMU `version` does: the negotiation, then one answer for each question.
    fn serve(&self, version: (u64, u64), answers: &[&str]) {
        let stream = self.monitor.accept().unwrap().0;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let greeting =
            json!({ "QMP": { "version": { "qemu": { "major": version.0, "minor": version.1 } } } });
        writeln!(&stream, "{greeting}").unwrap();
        let mut lines = BufReader::new(&stream).lines();
        for answer in [r#"{"return": {}}"#].iter().chain(answers) {
            let Some(question) = lines.next().transpose().unwrap() else { return };
            assert!(question.contains("qmp_capabilities") || question.contains(VSOCK_PATH), "{question}");
            self.assert_closed();
            writeln!(&stream, "{answer}").unwrap();
        }
    }

    /// A connection to the hybrid socket is closed without an answer.
    fn assert_closed(&self) {
        let mut stream = UnixStream::connect(&self.paths.uds).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match stream.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
    }

    fn assert_opens(&self) {
        let end = Instant::now() + PATIENCE;
        while self.backend.accept().is_err() {
            assert!(Instant::now() < end, "the backend's socket did not come back");
            drop(UnixStream::connect(&self.paths.uds));
        }
    }

    fn wait_for_trouble(&self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(error) = self.gate.trouble() {
                return error.chain();
            }
            assert!(Instant::now() < end, "the gate reported no trouble");
            thread::sleep(POLL);
        }
    }
}

#[test]
fn gate_opens_when_the_device_runs() {
    let scene = scene();
    scene.assert_closed();
    scene.serve((8, 2), &[NOT_STARTED, NOT_STARTED, STARTED]);
    scene.assert_opens();
    assert!(scene.gate.trouble().is_none());
}

#[test]
fn older_qemu_is_reported_and_the_gate_stays_closed() {
    let scene = scene();
    scene.serve((7, 2), &[]);
    let trouble = scene.wait_for_trouble();
    assert!(trouble.ends_with("(expected QEMU 8.2 or later)"), "{trouble}");
    scene.assert_closed();
}

#[test]
fn refused_command_is_reported_and_the_gate_stays_closed() {
    let scene = scene();
    let refusal = r#"{"error": {"class": "CommandNotFound", "desc": "The command has not been found"}}"#;
    scene.serve((10, 1), &[refusal]);
    assert_eq!(
        scene.wait_for_trouble(),
        "QEMU's monitor refused x-query-virtio-vhost-queue-status: \"The command has not been found\""
    );
    scene.assert_closed();
}

#[test]
fn gate_ends_with_its_owner_without_qemu() {
    let scene = scene();
    let Scene { gate, paths, .. } = scene;
    drop(gate);
    assert!(paths.aside.exists());
}
