//! The screen of one guest.

use super::*;
use crate::common::terminal::Look;
use crate::guest_client::view::{Row, plot, screen, table};
use image::status::{
    Cache, Code, Container, Exit, Finding, Gpu, GpuState, Injected, Memory, Node, PhaseOutcome, PhaseTime,
    Progress, Resolved, Severity, Xid,
};

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
        init_start_ms: Some(30),
        init_ms: Some(4000),
        waits_for: Some(text("the \x1b[5mfirmware")),
        xids: vec![Xid { code: 79, count: 2, last_ms: 4100 }],
        xids_left_out: 2,
        evidence: vec![text("NVRM: \x1b[31mRmInitAdapter failed!\x1b[0m\r")],
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
            PhaseTime {
                progress: Some(Progress { done: 1, total: 2 }),
                ..phase(Phase::Root, 25, None, PhaseOutcome::Running)
            },
        ],
        gpus: vec![gpu],
        memory: Some(Memory { total: 512 << 20, available: 300 << 20, init: 1500 << 10 }),
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
            restarts: 3,
            exit,
            last_exit: Some(Exit { code: Some(1), signal: None, oom: false }),
            oom_kills: 1,
            output: vec![text("one"), text("\x1b[Htwo")],
        }),
        findings: vec![
            finding(Code::LibraryShadowed, Severity::Warning, "another file", vec![]),
            finding(Code::AdapterInitFailed, Severity::Error, "did \u{9b}2Jnot start", vec![text("Xid\x08")]),
        ],
        ..a_status(Outcome::Failed)
    }
}

#[test]
fn screen_has_errors_first_and_no_control_bytes_of_the_guest() {
    let expected = "\
failed  phase running, up 4.3 s, kernel 6.12.1-cloud-amd64, driver 550.163.01 (loaded), guest-init 0.1.0
error adapter-init-failed: did 2Jnot start
    | Xid
    what to do: look here
    more: host-builder explain adapter-init-failed
warning library-shadowed: another file
    what to do: look here
boot       start           ━·······························     0.010 +0.015 s
           gpu             ━·······························     0.025 +0.000 s  failed
             0000:01:00.0  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━···     0.030 +4.000 s  failed
           root            ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━     0.025 +4.296 s  … 1 of 2
gpus       0000:01:00.0  10de:2330  failed  /dev/nvidia0  4000 ms  NVIDIA H100  waits for the firmware  Xid 79 (2 times, last at 4.1 s), 2 older ones left out
    | NVRM: RmInitAdapter failed!
nodes      1: nvidia0 (0666 0:44)
injected   1 files, 1 links: libcuda.so.1
cache      12 entries, 3456 bytes, 2 links changed
loader     libcuda.so.1 → /opt/x.so (not the injected file)
           libnvidia-ml.so.1 → not found
container  pid 99, killed by SIGKILL, out of memory, started again 3 times (the run before: exit code 1), 1 killed for memory: sh -c :
    | one
    | two
memory     300 of 512 MiB available; guest-init had at most 1500 KiB
";
    assert_eq!(screen(&a_full_status(), Look::default()), expected);
    let coloured = screen(&a_full_status(), Look::COLOURED);
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
    assert!(screen(&status, Look::COLOURED).len() < 300_000);
    assert!(screen(&status, Look::default()).contains("… 168 more findings; --json has them"));
}

#[test]
fn a_program_that_has_ended_says_how_in_the_first_word() {
    let exit = |code, signal, oom| Some(Exit { code, signal, oom });
    for (phase, exit, code, word) in [
        (Phase::Exited, exit(Some(0), None, false), "32", "exited 0"),
        (Phase::Exited, exit(Some(1), None, false), "31", "exited 1"),
        (Phase::Exited, exit(Some(0), None, true), "31", "exited 0 (out of memory)"),
        (Phase::Exited, exit(None, Some(9), false), "31", "killed SIGKILL"),
        (Phase::Exited, exit(None, Some(77), false), "31", "killed signal 77"),
        (Phase::Exited, exit(None, Some(9), true), "31", "killed (out of memory)"),
        (Phase::Exited, None, "33", "ended"),
        (Phase::Running, exit(Some(1), None, false), "33", "restarting (4)"),
        // Running once more is not the same as running.
        (Phase::Running, None, "33", "restarted 3, exited 1"),
    ] {
        let container = Container { exit, ..a_full_status().container.unwrap() };
        let status = Status { phase, container: Some(container), ..a_status(Outcome::Ready) };
        assert!(screen(&status, Look::default()).starts_with(&format!("{word}  phase ")), "{word}");
        let table = table(&[Row::of(&"vsock:3".parse().unwrap(), Ok(&status))], Look::COLOURED);
        assert!(table.contains(&format!("\x1b[{code}m{word}")), "{table:?}");
    }
    for last_exit in [None, exit(Some(0), None, false)] {
        let container = Container { last_exit, exit: None, ..a_full_status().container.unwrap() };
        let status = Status { container: Some(container), ..a_status(Outcome::Ready) };
        assert!(screen(&status, Look::default()).starts_with("ready  phase "), "{last_exit:?}");
    }
}

#[test]
fn at_80_columns_lines_wrap_and_no_word_is_lost() {
    let wide = screen(&a_full_status(), Look::default());
    // Words are not broken, and the link of a finding is one.
    for columns in [80, 60, 48] {
        let narrow = screen(&a_full_status(), Look { colour: false, columns: Some(columns) });
        let longest = narrow.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= columns, "{longest}: {narrow}");
        // The bars of the time line are shorter.
        let words = |text: &str| -> Vec<String> {
            let words = text.split_whitespace().filter(|word| !word.starts_with(['·', '━']));
            words.map(str::to_owned).collect()
        };
        assert_eq!(words(&narrow), words(&wide));
    }
}

#[test]
fn at_80_columns_a_row_has_outcome_and_worst_finding() {
    let target = "unix:/run/vms/a-virtual-machine-with-a-long-name/vsock.sock".parse().unwrap();
    let rows = [Row::of(&target, Ok(&a_full_status())), Row::waiting(&"vsock:3".parse().unwrap())];
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let wide = table(&rows, Look::default());
    assert_eq!(wide.lines().count(), 3);
    for columns in [100, 80] {
        let narrow = table(&rows, Look { colour: false, columns: Some(columns) });
        assert!(narrow.lines().all(|line| line.chars().count() <= columns), "{narrow}");
        assert_eq!(words(&narrow), words(&wide));
    }
    let short = Row::of(&"vsock:4".parse().unwrap(), Ok(&a_full_status()));
    let narrow = table(&[short], Look { colour: false, columns: Some(80) });
    let expected = "\
TARGET        STATE   PHASE    GPUS  DRIVER      UP
  WORST FINDING
vsock:4:1042  failed  running  0/1   550.163.01  4.3 s
  error adapter-init-failed: did 2Jnot start (and 1 more)
";
    assert_eq!(narrow, expected);
}

#[test]
fn the_plot_has_every_phase_and_gpu_and_none_of_a_guests_markup() {
    let mut status = a_full_status();
    status.kernel = "6.12\"/></svg><script>".into();
    status.phases[1].end_ms = Some(u64::MAX);
    let picture = plot(&status).unwrap();
    for part in ["start", "gpu", "root", "0000:01:00.0", "seconds since the kernel started", "failed"] {
        assert!(picture.contains(part), "{part}: {picture}");
    }
    assert!(!picture.contains("<script") && picture.matches("</svg>").count() == 1);
}
