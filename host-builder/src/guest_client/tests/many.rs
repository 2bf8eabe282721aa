//! Several guests, some of them slow or hostile.

use super::*;
use crate::common::terminal::Look;
use crate::guest_client::view::{Row, table};
use image::status::{Code, Finding, Gpu, GpuState, Severity};
use std::sync::atomic::{AtomicUsize, Ordering};

fn a_finding(code: Code, severity: Severity, message: &str) -> Finding {
    Finding {
        code,
        severity,
        at_ms: 0,
        message: message.into(),
        evidence: vec![],
        hint: String::new(),
        link: String::new(),
    }
}

fn rows(guests: &[&FakeGuest], timeout: Duration) -> (Vec<Row>, Duration) {
    let targets: Vec<_> = guests.iter().map(|guest| guest.target()).collect();
    let start = Instant::now();
    let mut rows: Vec<Option<Row>> = targets.iter().map(|_| None).collect();
    let work = |target: &Target, deadline| Row::of(target, status_by(target, deadline).as_ref());
    of_each(&targets, timeout, work, |told| {
        if let Told::Came(index, row) = told {
            rows[index] = Some(row);
        }
    });
    (rows.into_iter().flatten().collect(), start.elapsed())
}

#[test]
fn guests_that_never_answer_have_one_deadline_together() {
    let silent: Vec<_> = (0..60).map(|_| FakeGuest::silent()).collect();
    let mut all: Vec<&FakeGuest> = silent.iter().collect();
    let good = FakeGuest::answering(after_ok(&status_frame(Outcome::Ready)));
    all.push(&good);
    let (rows, took) = rows(&all, Duration::from_secs(2));
    // One after the other they would take two minutes.
    assert!(took < Duration::from_mins(1), "{took:?}");
    let text = table(&rows, Look::default());
    assert_eq!(text.lines().count(), 62);
    assert_eq!(text.matches("timed-out").count(), 60);
    let last = text.lines().last().unwrap();
    assert!(last.contains("  ready") && last.contains("running  -     550.163.01  4.3 s"), "{last}");
}

#[test]
fn queries_are_limited_and_each_guest_is_asked_once() {
    const COUNT: usize = 2 * AT_ONCE + 100;
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut seen = vec![0; COUNT];
    let work = |number: &usize, _| {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(5));
        now.fetch_sub(1, Ordering::SeqCst);
        *number
    };
    of_each(&(0..COUNT).collect::<Vec<_>>(), SOON, work, |told| {
        let Told::Came(index, number) = told else { return };
        assert_eq!(index, number);
        seen[index] += 1;
    });
    assert_eq!(seen, vec![1; COUNT]);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=AT_ONCE).contains(&most), "{most}");
    of_each(&[], SOON, |(): &(), _| (), |_| panic!("nothing was asked"));
}

#[test]
fn slow_guests_leave_time_for_later_ones() {
    let begin = Instant::now();
    let work = |_: &usize, deadline: Instant| {
        let left = deadline.saturating_duration_since(Instant::now());
        thread::sleep(left);
        (left, deadline)
    };
    let mut quiet = false;
    of_each(&(0..AT_ONCE + 50).collect::<Vec<_>>(), Duration::from_secs(2), work, |told| match told {
        Told::Came(_, (left, deadline)) => {
            assert!(left > Duration::ZERO);
            assert!(deadline < begin + Duration::from_secs(3), "{:?}", deadline - begin);
        }
        Told::Quiet => quiet = true,
    });
    assert!(quiet);
}

#[test]
fn row_has_the_worst_finding_and_no_control_bytes() {
    let target: Target = "vsock:3".parse().unwrap();
    let evil = "\x1b[2J\x1b]0;pwned\x07\nword\u{202e} ".repeat(1000);
    let gpu = |state| Gpu { state, ..Gpu::default() };
    let status = Status {
        outcome: Outcome::Failed,
        driver_loaded: Some(evil.clone()),
        gpus_expected: Some("10de:2330,10de:2330".into()),
        gpus: vec![gpu(GpuState::Ready), gpu(GpuState::Failed)],
        findings: [
            vec![a_finding(Code::CudaCompat, Severity::Info, "x")],
            vec![a_finding(Code::GpuLost, Severity::Error, &evil); 100_000],
        ]
        .concat(),
        uptime_ms: u64::MAX,
        ..Status::default()
    };
    let broken = QueryError::NotOurProtocol { what: "x".into() };
    let rows = [Row::of(&target, Ok(&status)), Row::of(&target, Err(&broken))];
    let text = table(&rows, Look::default());
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.len() < 2000, "{}", text.len());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[1].contains("failed") && lines[1].contains(" 1/2 "), "{text}");
    assert!(lines[1].contains("error gpu-lost: ") && lines[1].ends_with("(and 100000 more)"), "{text}");
    assert!(lines[2].contains("not-our-protocol  -"), "{text}");
    let coloured = table(&rows, Look::COLOURED);
    assert!(coloured.contains("\x1b[31mfailed") && !coloured.contains("pwned"), "{coloured:?}");
}

#[test]
fn a_reply_full_of_findings_costs_bounded_time_and_is_one_row() {
    let status = Status {
        findings: vec![a_finding(Code::Internal, Severity::Error, ""); 10_000],
        ..a_status(Outcome::Failed)
    };
    let hostile = FakeGuest::answering(after_ok(&frame(&Reply::Status(Box::new(status)))));
    let (rows, took) = rows(&[&hostile], SOON);
    assert!(took < SOON, "{took:?}");
    let text = table(&rows, Look::default());
    assert!(text.contains("error internal:  (and 9999 more)"), "{text}");
    // What the decoder would have to keep is bounded, too.
    let status = Status {
        findings: vec![a_finding(Code::Internal, Severity::Error, ""); 100_000],
        ..Status::default()
    };
    let million = FakeGuest::answering(after_ok(&frame(&Reply::Status(Box::new(status)))));
    let huge = FakeGuest::answering(after_ok(b"gpui\x07\0\0\0\xff\xff\xff\xff"));
    let endless = FakeGuest::new(|_, mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
    let text = table(&self::rows(&[&million, &huge, &endless], SOON).0, Look::default());
    for name in ["malformed", "too-large", "not-our-protocol"] {
        assert!(text.contains(name), "{text}");
    }
}
