//! Queries against a fake guest: a thread behind a Unix socket that speaks the hybrid protocol and then does what a
//! test tells it to.

use super::view::screen;
use super::*;
use image::status::{
    Cache, Code, Container, Exit, Finding, Gpu, GpuState, Injected, Node, Outcome, PhaseOutcome, PhaseTime,
    Resolved, Severity,
};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

const SOON: Duration = Duration::from_secs(5);

fn a_status(outcome: Outcome) -> Status {
    Status {
        version: "0.1.0".into(),
        kernel: "6.12.1-cloud-amd64".into(),
        driver_planned: Some("550.163.01".into()),
        driver_loaded: Some("550.163.01".into()),
        phase: Phase::Running,
        outcome,
        uptime_ms: 4321,
        ..Status::default()
    }
}

fn frame(reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::write(&mut bytes, reply, MAX_REPLY).unwrap();
    bytes
}

fn status_frame(outcome: Outcome) -> Vec<u8> {
    frame(&Reply::Status(Box::new(a_status(outcome))))
}

/// A guest that hands each connection, `CONNECT` line already read, to `serve` with the number of the connection.
struct FakeGuest {
    dir: tempfile::TempDir,
}

impl FakeGuest {
    fn new(serve: impl Fn(usize, UnixStream) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("v.sock")).unwrap();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                if read_connect(&mut stream) == "CONNECT 1042\n" {
                    serve(number, stream);
                }
            }
        });
        Self { dir }
    }

    /// One that answers every connection with these bytes.
    fn answering(bytes: Vec<u8>) -> Self {
        Self::new(move |_, mut stream| {
            let _ = stream.write_all(&bytes);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        })
    }

    fn target(&self) -> Target {
        Target::Unix { path: self.dir.path().join("v.sock"), port: 1042 }
    }

    fn ask(&self) -> Result<Status, QueryError> {
        status(&self.target(), SOON)
    }
}

fn read_connect(stream: &mut UnixStream) -> String {
    let mut line = String::new();
    // Unbuffered: the request behind the line must stay in the socket.
    let mut byte = [0];
    while !line.ends_with('\n') && std::io::Read::read_exact(stream, &mut byte).is_ok() {
        line.push(char::from(byte[0]));
    }
    line
}

fn after_ok(bytes: &[u8]) -> Vec<u8> {
    [b"OK 1073741824\n", bytes].concat()
}

#[test]
fn ready_failed_and_pending_arrive_as_they_are_with_ok_and_frame_in_one_segment() {
    for outcome in [Outcome::Ready, Outcome::Failed, Outcome::Pending] {
        let guest = FakeGuest::answering(after_ok(&status_frame(outcome)));
        assert_eq!(guest.ask().unwrap(), a_status(outcome));
    }
}

#[test]
fn the_request_arrives_as_asked() {
    let guest = FakeGuest::new(|_, mut stream| {
        stream.write_all(b"OK 1\n").unwrap();
        let request: Request = wire::read(&mut stream, MAX_REQUEST).unwrap();
        let outcome = if request == Request::Status { Outcome::Ready } else { Outcome::Failed };
        stream.write_all(&status_frame(outcome)).unwrap();
    });
    assert_eq!(guest.ask().unwrap().outcome, Outcome::Ready);
    assert_eq!(wait(&guest.target(), Until::Ready, SOON).unwrap().outcome, Outcome::Failed);
}

#[test]
fn no_socket_and_a_socket_without_anyone_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let target = Target::Unix { path: path.clone(), port: 1042 };
    let error = status(&target, SOON).unwrap_err();
    assert!(matches!(error, QueryError::NoSocket { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(status(&target, SOON), Err(QueryError::NoSocket { .. })));
    let long = Target::Unix { path: "x".repeat(200).into(), port: 1 };
    assert!(matches!(status(&long, SOON), Err(QueryError::NoSocket { .. })));
}

#[test]
fn closed_after_connect_is_a_guest_that_does_not_listen() {
    let guest = FakeGuest::new(|_, stream| drop(stream));
    let error = guest.ask().unwrap_err();
    assert!(matches!(error, QueryError::NotListening { port: 1042 }), "{error:?}");
}

#[test]
fn each_defect_of_a_reply_has_its_own_error() {
    let of = |bytes: &[u8]| FakeGuest::answering(bytes.to_vec()).ask().unwrap_err();
    assert!(matches!(of(b"HTTP/1.1 400 Bad Request\r\n\r\n"), QueryError::NotOurProtocol { .. }));
    assert!(matches!(of(&[b'x'; 4096]), QueryError::NotOurProtocol { .. }));
    assert!(matches!(of(&after_ok(b"SSH-2.0-OpenSSH_9.2")), QueryError::NotOurProtocol { .. }));
    assert!(matches!(of(&after_ok(b"gpui\x04\0\0\0\xff\xff\xff\xff")), QueryError::TooLarge { .. }));
    assert!(matches!(of(&after_ok(b"gpui\x07\0\0\0\x01\0\0\0\0")), QueryError::OtherVersion { found: 7 }));
    assert!(matches!(of(&after_ok(b"gpui\x04\0\0\0\x01\0\0\0\x77")), QueryError::Malformed { .. }));
    let refused = of(&after_ok(&frame(&Reply::Refused("\x1b[2Jno".into()))));
    assert!(matches!(&refused, QueryError::Refused { reason } if reason == "no"), "{refused:?}");
}

#[test]
fn a_reply_that_ends_early_is_closed() {
    let guest = FakeGuest::new(|_, mut stream| {
        let _ = stream.write_all(&after_ok(&status_frame(Outcome::Ready)[..40]));
    });
    let error = guest.ask().unwrap_err();
    assert!(matches!(error, QueryError::Closed { step: Step::Reply }), "{error:?}");
}

#[test]
fn a_trickle_ends_at_the_deadline_of_the_whole() {
    for prefix in [&b""[..], b"OK 1\n"] {
        let guest = FakeGuest::new(move |_, mut stream| {
            let reply = if prefix.is_empty() { vec![b'9'; 30] } else { status_frame(Outcome::Ready) };
            let _ = stream.write_all(prefix);
            for byte in reply {
                thread::sleep(Duration::from_millis(30));
                let _ = stream.write_all(&[byte]);
            }
        });
        let start = Instant::now();
        let error = status(&guest.target(), Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, QueryError::TimedOut { .. }), "{error:?}");
        assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
    }
}

#[test]
fn waiting_outlasts_everything_on_the_way_to_ready() {
    let guest = FakeGuest::new(|number, mut stream| match number {
        0 => drop(stream),
        1 => stream.write_all(&after_ok(&status_frame(Outcome::Pending))).unwrap(),
        _ => {
            stream.write_all(b"OK 1\n").unwrap();
            let request: Request = wire::read(&mut stream, MAX_REQUEST).unwrap();
            assert!(
                matches!(request, Request::Wait { until: Until::Ready, timeout_ms: 1..=4500 }),
                "{request:?}"
            );
            thread::sleep(Duration::from_millis(100));
            stream.write_all(&status_frame(Outcome::Ready)).unwrap();
        }
    });
    assert_eq!(wait(&guest.target(), Until::Ready, SOON).unwrap().outcome, Outcome::Ready);
}

#[test]
fn waiting_for_a_socket_that_appears_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let target = Target::Unix { path: path.clone(), port: 1042 };
    let guest = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        let listener = UnixListener::bind(path).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        (&stream).write_all(&after_ok(&status_frame(Outcome::Failed))).unwrap();
    });
    assert_eq!(wait(&target, Until::Ready, SOON).unwrap().outcome, Outcome::Failed);
    guest.join().unwrap();
}

#[test]
fn a_wait_that_gives_up_says_what_the_last_attempt_met() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::Unix { path: dir.path().join("v.sock"), port: 1042 };
    let start = Instant::now();
    let error = wait(&target, Until::Ready, Duration::from_millis(500)).unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(900));
    let chain = crate::error::Error::from(error).chain();
    assert!(chain.starts_with("could not ask the guest: gave up after 0."), "{chain}");
    assert!(chain.contains("no socket: ") && chain.ends_with("(os error 2)"), "{chain}");
    // Pending to the end is an answer, not an error.
    let guest = FakeGuest::answering(after_ok(&status_frame(Outcome::Pending)));
    let status = wait(&guest.target(), Until::Ready, Duration::from_millis(500)).unwrap();
    assert_eq!(status.outcome, Outcome::Pending);
}

fn a_full_status() -> Status {
    let text = str::to_owned;
    let gpu = Gpu {
        bdf: "0000:01:00.0".into(),
        vendor: 0x10de,
        device: 0x2330,
        model: Some("NVIDIA \x1b]0;pwned\x07H100\u{202e}".into()),
        minor: Some(0),
        uuid: None,
        firmware: None,
        state: GpuState::Failed,
        init_ms: Some(4500),
        evidence: vec![text("NVRM: \x1b[31mRmInitAdapter failed!\x1b[0m\r")],
        ..Gpu::default()
    };
    let finding = |code: Code, severity, message: &str, evidence| Finding {
        code,
        severity,
        at_ms: 0,
        message: message.into(),
        evidence,
        hint: "look\nhere".into(),
        link: code.link(),
    };
    let phase =
        |phase, start_ms, end_ms, outcome| PhaseTime { phase, start_ms, end_ms, outcome, progress: None };
    let exit = Some(Exit { code: None, signal: Some(9), oom: true });
    Status {
        outcome: Outcome::Failed,
        phases: vec![
            phase(Phase::Start, 10, Some(25), PhaseOutcome::Done),
            phase(Phase::Gpu, 25, Some(9), PhaseOutcome::Failed),
            phase(Phase::Root, 25, None, PhaseOutcome::Running),
        ],
        gpus: vec![gpu],
        nodes: vec![Node {
            path: "/dev/nvidia0".into(),
            major: 195,
            minor: 0,
            mode: 0o20666,
            uid: 0,
            gid: 44,
        }],
        injected: vec![
            Injected { path: "/usr/lib/libcuda.so.550.163.01".into(), link: None },
            Injected { path: "/usr/lib/libcuda.so.1".into(), link: Some("libcuda.so.550.163.01".into()) },
        ],
        cache: Some(Cache { entries: 12, bytes: 3456, links: 2 }),
        resolved: vec![
            Resolved {
                name: "libcuda.so.1".into(),
                path: Some("/opt/\x07x.so".into()),
                version: None,
                ours: false,
            },
            Resolved { name: "libnvidia-ml.so.1".into(), path: None, version: None, ours: false },
        ],
        container: Some(Container {
            pid: 99,
            command: vec![text("sh"), text("-c"), text("\x1bc:")],
            start_ms: 30,
            restarts: 0,
            exit,
            oom_kills: 1,
            output: vec![],
        }),
        findings: vec![
            finding(Code::LibraryShadowed, Severity::Warning, "another file", vec![]),
            finding(Code::AdapterInitFailed, Severity::Error, "did \u{9b}2Jnot start", vec![text("Xid\x08")]),
        ],
        ..a_status(Outcome::Failed)
    }
}

#[test]
fn the_screen_has_errors_first_and_no_byte_of_the_guest_steers_the_terminal() {
    let expected = "\
failed  phase running, up 4.3 s, kernel 6.12.1-cloud-amd64, driver 550.163.01 (loaded), guest-init 0.1.0
error adapter-init-failed: did 2Jnot start
    | Xid
    what to do: look here
warning library-shadowed: another file
    what to do: look here
gpus       0000:01:00.0  10de:2330  failed  /dev/nvidia0  4500 ms  NVIDIA H100
    | NVRM: RmInitAdapter failed!
nodes      /dev/nvidia0  195:0     0666 0:44
injected   1 files, 1 links: libcuda.so.1
cache      12 entries, 3456 bytes, 2 links changed
loader     libcuda.so.1 → /opt/x.so (not the injected file)
           libnvidia-ml.so.1 → not found
container  pid 99, killed by SIGKILL, out of memory: sh -c :
phases     start 15 ms · gpu 0 ms failed · root …
";
    assert_eq!(screen(&a_full_status(), false), expected);
    let coloured = screen(&a_full_status(), true);
    let ours = ["\x1b[1;31m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[2m", "\x1b[0m"];
    let bare = ours.iter().fold(coloured, |text, code| text.replace(code, ""));
    assert!(!bare.chars().any(|c| c.is_control() && c != '\n'), "{bare:?}");
}

#[test]
fn the_screen_is_bounded_whatever_the_guest_sends() {
    let mut status = a_full_status();
    let long = "x".repeat(50_000);
    status.findings = vec![
        Finding {
            code: Code::Internal,
            severity: Severity::Info,
            at_ms: 0,
            link: long.clone(),
            message: long.clone(),
            evidence: vec![long.clone(); 100],
            hint: long.clone(),
        };
        200
    ];
    status.nodes = vec![status.nodes[0].clone(); 5000];
    status.uptime_ms = u64::MAX;
    status.kernel = long;
    assert!(screen(&status, true).len() < 300_000);
    assert!(screen(&status, false).contains("… 168 more findings; --json has them"));
}
