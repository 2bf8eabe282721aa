use super::*;
use std::thread;

/// For a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 1, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

/// A fake monitor: it writes the greeting, then reads one command for each answer. Returns the client's end, and what the
/// client wrote.
fn fake(greeting: &str, answers: &[&str]) -> (UnixStream, thread::JoinHandle<Vec<String>>) {
    let (client, monitor) = UnixStream::pair().unwrap();
    (client, serve(move || monitor, greeting, answers))
}

/// The monitor's side of [`fake`], on the stream that `open` returns.
fn serve(
    open: impl FnOnce() -> UnixStream + Send + 'static,
    greeting: &str,
    answers: &[&str],
) -> thread::JoinHandle<Vec<String>> {
    let greeting = format!("{greeting}\r\n");
    let answers: Vec<_> = answers.iter().map(|answer| format!("{answer}\r\n")).collect();
    thread::spawn(move || {
        let monitor = open();
        (&monitor).write_all(greeting.as_bytes()).unwrap();
        let mut lines = BufReader::new(&monitor).lines();
        let mut commands = Vec::new();
        for answer in answers {
            commands.extend(lines.next().transpose().unwrap());
            // A client that has what it needs, or gives up, closes the connection.
            let _ = (&monitor).write_all(answer.as_bytes());
        }
        commands
    })
}

fn error_of(greeting: &str, answers: &[&str]) -> String {
    let (client, _served) = fake(greeting, answers);
    let result = Qmp::new(client, PATIENCE).and_then(|mut qmp| qmp.execute("stop", &json!({}), PATIENCE));
    result.unwrap_err().chain()
}

#[test]
fn command_returns_the_answer_behind_events() {
    let event = r#"{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}"#;
    let answer = format!("{event}\r\n{event}\r\n{}", r#"{"return": {"running": true}}"#);
    let (client, served) = fake(GREETING, &[r#"{"return": {}}"#, &answer]);
    let mut qmp = Qmp::new(client, PATIENCE).unwrap();
    assert_eq!(qmp.version(), (10, 1));
    let answer = qmp.execute("x-query", &json!({"path": "/machine"}), PATIENCE).unwrap();
    assert_eq!(answer, json!({"running": true}));
    let commands: Vec<Value> =
        served.join().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        commands,
        [
            json!({"execute": "qmp_capabilities", "arguments": {}}),
            json!({"execute": "x-query", "arguments": {"path": "/machine"}})
        ]
    );
}

#[test]
fn refused_command_reports_the_reason_of_qemu() {
    let refusal = r#"{"error": {"class": "CommandNotFound", "desc": "The command stop has not been found"}}"#;
    assert_eq!(
        error_of(GREETING, &[r#"{"return": {}}"#, refusal]),
        "QEMU's monitor refused stop: \"The command stop has not been found\""
    );
}

#[test]
fn peer_that_is_not_a_monitor_is_an_error() {
    let error = error_of("SSH-2.0-OpenSSH", &[]);
    assert!(
        error.starts_with("QEMU's monitor: greeting: expected JSON, found \"SSH-2.0-OpenSSH\""),
        "{error}"
    );
    assert_eq!(
        error_of(r#"{"QMP": {}}"#, &[]),
        "QEMU's monitor: greeting: expected an object QMP with QEMU's version, found \"{\\\"QMP\\\":{}}\""
    );
    assert_eq!(
        error_of(GREETING, &["[]"]),
        "QEMU's monitor: qmp_capabilities: expected return, error or event, found \"[]\""
    );
}

#[test]
fn monitor_that_ends_is_an_error() {
    assert_eq!(
        error_of(GREETING, &[r#"{"return": {}}"#]),
        "QEMU's monitor closed the connection (expected: stop)"
    );
}

#[test]
fn line_without_end_is_an_error() {
    let long = "x".repeat(usize::try_from(MAX_LINE).unwrap());
    assert_eq!(
        error_of(GREETING, &[r#"{"return": {}}"#, &long]),
        "QEMU's monitor: stop: found a line of more than 1048576 bytes"
    );
}

#[test]
fn silent_monitor_is_an_error_after_the_deadline() {
    let (client, _monitor) = UnixStream::pair().unwrap();
    let error = Qmp::new(client, Duration::from_millis(50)).err().unwrap().chain();
    assert_eq!(error, "QEMU's monitor did not answer in time: greeting");
}

#[test]
fn power_button_is_pressed_at_the_monitors_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("monitor.sock");
    let error = press_power_button(&socket, PATIENCE).unwrap_err().to_string();
    assert!(error.contains("connecting to QEMU's monitor at"), "{error}");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let answer = r#"{"return": {}}"#;
    let served = serve(move || listener.accept().unwrap().0, GREETING, &[answer, answer]);
    press_power_button(&socket, PATIENCE).unwrap();
    let commands = served.join().unwrap();
    assert!(commands[1].contains(r#""execute":"system_powerdown""#), "{commands:?}");
}
