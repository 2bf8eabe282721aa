//! One message of each kind with every field set, for the golden frames.

use image::event::{Event, Events, Happening, LogLine, LogSource, Logs, StopBy};
use image::session::{Exec, Item, Task, ToGuest, ToHost};
use image::status::{
    Cache, Code, Container, Exit, Finding, Gpu, GpuState, Injected, Memory, Node, Outcome, Phase,
    PhaseOutcome, PhaseTime, Progress, Resolved, Severity, Status, Xid,
};
use image::wire::{Reply, Request, Until};

/// Requests by the name of their file.
pub fn requests() -> Vec<(&'static str, Request)> {
    let wait = |until| Request::Wait { until, timeout_ms: 60_000 };
    vec![
        ("request-status", Request::Status),
        ("request-wait-ready", wait(Until::Ready)),
        ("request-wait-exited", wait(Until::Exited)),
        ("request-wait-phase", wait(Until::Phase(Phase::Gpu))),
        ("request-events", Request::Events { from: 7, timeout_ms: 1000 }),
        ("request-logs-kernel", Request::Logs { source: LogSource::Kernel, from: 0, timeout_ms: 0 }),
        (
            "request-logs-container",
            Request::Logs { source: LogSource::Container, from: 300, timeout_ms: 70_000 },
        ),
        ("request-stop", Request::Stop { signal: 15, grace_ms: None }),
        ("request-stop-grace", Request::Stop { signal: 2, grace_ms: Some(90_000) }),
        ("request-exec", Request::Exec(Box::new(exec()))),
    ]
}

/// Replies by the name of their file.
pub fn replies() -> Vec<(&'static str, Reply)> {
    let line = LogLine { sequence: 4, at_ms: 5, level: Some(6), text: "a line".into() };
    vec![
        ("reply-status", Reply::Status(Box::new(status()))),
        ("reply-refused", Reply::Refused("no".into())),
        ("reply-events", Reply::Events(Events { events: events(), next: 8, lost: 1 })),
        ("reply-logs", Reply::Logs(Logs { lines: vec![line], next: 5, lost: 3 })),
    ]
}

/// Replies that version 7 does not have.
pub fn replies_since_8() -> Vec<(&'static str, Reply)> {
    let happenings = [
        Happening::Phase { phase: Phase::Stopping, outcome: PhaseOutcome::Running },
        Happening::Stop { by: StopBy::PowerButton, signal: 15, grace_ms: 10_000 },
    ];
    let numbered = happenings.into_iter().zip(1..);
    let events = numbered.map(|(what, sequence)| Event { sequence, at_ms: 1000, what }).collect();
    let not_started =
        Reply::NotStarted { message: "x is not in any directory of PATH".into(), exit_status: 127 };
    vec![
        ("reply-events-stop", Reply::Events(Events { events, next: 3, lost: 0 })),
        ("reply-events-session", Reply::Events(Events { events: session_events(), next: 5, lost: 0 })),
        ("reply-session", Reply::Session),
        ("reply-not-started", not_started),
    ]
}

fn session_events() -> Vec<Event> {
    let started = |task| Happening::SessionStarted { session: 1, task };
    let write = Task::Write { path: "/models".into(), name: "weights".into() };
    let happenings = [
        started(Task::Command(vec!["nvidia-smi".into()])),
        started(Task::Read("/var/log".into())),
        started(write),
        Happening::SessionEnded { session: 1, exit: exit() },
    ];
    let numbered = happenings.into_iter().zip(1..);
    numbered.map(|(what, sequence)| Event { sequence, at_ms: 1000, what }).collect()
}

fn exec() -> Exec {
    Exec {
        task: Task::Command(vec!["sh".into(), "-c".into(), "id".into()]),
        user: Some("1000:44".into()),
        env: vec![("TERM".into(), "xterm".into())],
        workdir: Some("/tmp".into()),
        terminal: Some((24, 80)),
    }
}

fn data() -> Vec<u8> {
    b"two\nlines\n".to_vec()
}

/// What the host sends in a session, by the name of its file.
pub fn to_guest() -> Vec<(&'static str, ToGuest)> {
    vec![
        ("session-input", ToGuest::Input(data())),
        ("session-input-end", ToGuest::InputEnd),
        ("session-resize", ToGuest::Resize(50, 132)),
        ("session-signal", ToGuest::Signal(15)),
    ]
}

/// What the guest sends in a session.
pub fn to_host() -> Vec<(&'static str, ToHost)> {
    vec![
        ("session-output", ToHost::Output(data())),
        ("session-errors", ToHost::Errors(data())),
        ("session-taken", ToHost::Taken(300)),
        ("session-ended", ToHost::Ended(exit())),
    ]
}

/// Parts of a copy.
pub fn items() -> Vec<(&'static str, Item)> {
    let path = || b"dir/a file".to_vec();
    vec![
        ("item-directory", Item::Directory { path: b"dir".to_vec(), mode: 0o755 }),
        ("item-file", Item::File { path: path(), mode: 0o644, modified: 1_700_000_000, size: 10 }),
        ("item-data", Item::Data(data())),
        ("item-link", Item::Link { path: path(), target: b"../x".to_vec() }),
        ("item-left-out", Item::LeftOut { path: path() }),
        ("item-end", Item::End),
    ]
}

fn events() -> Vec<Event> {
    let bdf = "0000:01:00.0".to_owned();
    let happenings = [
        Happening::Phase { phase: Phase::Gpu, outcome: PhaseOutcome::Running },
        Happening::Gpu { bdf: bdf.clone(), state: GpuState::Lost },
        Happening::Xid { bdf, code: 79, line: "fallen off the bus".into() },
        Happening::Finding { code: Code::GpuLost, severity: Severity::Error, message: "lost".into() },
        Happening::Started { pid: 90, restarts: 1 },
        Happening::Exited(exit()),
        Happening::Outcome(Outcome::Ready),
    ];
    let numbered = happenings.into_iter().zip(1..);
    numbered.map(|(what, sequence)| Event { sequence, at_ms: 1000 * sequence, what }).collect()
}

fn exit() -> Exit {
    Exit { code: None, signal: Some(9), oom: true }
}

/// A status in which nothing is empty.
pub fn status() -> Status {
    let text = |text: &str| Some(text.to_owned());
    Status {
        version: "0.1.0".into(),
        kernel: "6.12.0".into(),
        driver_planned: text("550.163.01"),
        driver_loaded: text("550.163.01"),
        phase: Phase::Running,
        outcome: Outcome::Ready,
        uptime_ms: 12_345,
        memory: Some(Memory { total: 512 << 20, available: 300 << 20, init: 1500 << 10 }),
        events: 7,
        phases: vec![PhaseTime {
            phase: Phase::Gpu,
            start_ms: 100,
            end_ms: Some(4200),
            outcome: PhaseOutcome::Done,
            progress: Some(Progress { done: 1, total: 2 }),
        }],
        gpus_expected: text("2"),
        gpus: vec![Gpu {
            bdf: "0000:01:00.0".into(),
            vendor: 0x10de,
            device: 0x2330,
            model: text("NVIDIA H100 80GB HBM3"),
            minor: Some(0),
            uuid: text("GPU-00000000-0000-0000-0000-000000000000"),
            firmware: text("550.163.01"),
            state: GpuState::Ready,
            waits_for: text("nothing"),
            init_start_ms: Some(200),
            init_ms: Some(4000),
            xids: vec![Xid { code: 43, count: 2, last_ms: 9000 }],
            xids_left_out: 2,
            evidence: vec!["NVRM: a line".into()],
        }],
        nodes: vec![Node { path: "/dev/nvidia0".into(), major: 195, minor: 0, mode: 0o666, uid: 0, gid: 0 }],
        injected: vec![Injected {
            path: "/usr/lib/libcuda.so.1".into(),
            link: text("libcuda.so.550.163.01"),
        }],
        cache: Some(Cache { entries: 100, bytes: 5000, links: 3 }),
        resolved: vec![Resolved {
            name: "libcuda.so.1".into(),
            path: text("/usr/lib/libcuda.so.550.163.01"),
            version: text("550.163.01"),
            ours: true,
        }],
        container: Some(Container {
            pid: 90,
            command: vec!["nvidia-smi".into()],
            start_ms: 5000,
            restarts: 1,
            exit: Some(exit()),
            last_exit: Some(exit()),
            oom_kills: 1,
            output: vec!["the last line".into()],
        }),
        findings: vec![Finding {
            code: Code::GpuXid,
            severity: Severity::Warning,
            at_ms: 9000,
            message: "an error".into(),
            evidence: vec!["NVRM: Xid".into()],
            hint: "look it up".into(),
            // As it was when the frames of this version were recorded: the text of a link is not part of the format.
            link: "README.md#gpu-xid".into(),
        }],
    }
}
