//! Events and logs, from guests that tell the truth and from others.

use super::*;
use crate::common::terminal::Look;
use crate::guest_client::view::{event_line, log_line};
use image::event::{Event, Events, LogLine, LogSource, Logs};
use image::status::{Code, Exit, GpuState, PhaseOutcome, Severity};
use std::ops::ControlFlow;

fn event(sequence: u64, what: Happening) -> Event {
    Event { sequence, at_ms: 5, what }
}

fn outcome(sequence: u64) -> Event {
    event(sequence, Happening::Outcome(Outcome::Ready))
}

fn events(events: Vec<Event>, next: u64, lost: u64) -> Reply {
    Reply::Events(Events { events, next, lost })
}

fn line(sequence: u64, text: &str) -> LogLine {
    LogLine { sequence, at_ms: 5, level: None, text: text.into() }
}

/// A guest that answers each request by its number and by what it asks; `None`: it is gone from
/// there on.
fn guest(answer: impl Fn(usize, Request) -> Option<Reply> + Send + 'static) -> FakeGuest {
    FakeGuest::new(move |number, mut stream| {
        let _ = stream.write_all(b"OK 1\n");
        let Ok(request) = wire::read(&mut stream, MAX_REQUEST) else { return };
        if let Some(reply) = answer(number, request) {
            let _ = wire::write(&mut stream, &reply, MAX_REPLY);
        }
    })
}

/// All that `follow` gives, and how it ends.
fn followed(guest: &FakeGuest) -> (Vec<Event>, u64, Result<End, QueryError>) {
    let (mut seen, mut lost) = (Vec::new(), 0);
    let end = follow(&guest.target(), (), SOON, |part: Part<Event>| {
        seen.extend(part.items);
        lost += part.lost;
        ControlFlow::Continue(())
    });
    (seen, lost, end)
}

#[test]
fn each_request_starts_where_the_last_answer_ended() {
    let guest = guest(|number, request| {
        let Request::Events { from, timeout_ms } = request else { panic!("{request:?}") };
        assert_eq!(timeout_ms, if number == 0 { 0 } else { 10_000 });
        match number {
            0 => (from == 0).then(|| events(vec![outcome(4), outcome(5)], 6, 3)),
            1 => (from == 6).then(|| events(vec![], 6, 0)),
            2 => (from == 6).then(|| events(vec![outcome(6)], 7, 0)),
            _ => None,
        }
    });
    let (seen, lost, end) = followed(&guest);
    assert_eq!((seen, lost), (vec![outcome(4), outcome(5), outcome(6)], 3));
    assert!(matches!(end, Ok(End::Gone(QueryError::Closed { .. }))), "{end:?}");
}

#[test]
fn a_guest_that_is_booted_again_counts_from_the_start() {
    let guest = guest(|number, request| {
        let Request::Events { from, .. } = request else { panic!("{request:?}") };
        match (number, from) {
            (0, 0) => Some(events(vec![outcome(40)], 41, 0)),
            (1, 41) => Some(events(vec![], 1, 0)),
            (2, 0) => Some(events(vec![outcome(1)], 2, 0)),
            _ => None,
        }
    });
    assert_eq!(followed(&guest).0, [outcome(40), outcome(1)]);
}

#[test]
fn a_guest_in_which_others_wait_is_asked_without_waiting() {
    let guest = guest(|number, request| {
        let Request::Events { timeout_ms, .. } = request else { panic!("{request:?}") };
        match (number, timeout_ms) {
            (0, 0) => Some(events(vec![], 1, 0)),
            (1, 10_000) => Some(Reply::Refused("12 others wait already".into())),
            (2, 0) => Some(events(vec![outcome(1)], 2, 0)),
            _ => None,
        }
    });
    assert_eq!(followed(&guest).0, [outcome(1)]);
}

#[test]
fn decreasing_numbers_and_wrong_answers_are_malformed() {
    let lies: [fn() -> Reply; 5] = [
        || events(vec![outcome(5), outcome(4)], 6, 0),
        || events(vec![outcome(5)], 5, 0),
        || events(vec![outcome(u64::MAX)], 0, 0),
        || Reply::Logs(Logs { lines: vec![], next: 0, lost: 0 }),
        || Reply::Status(Box::default()),
    ];
    for lie in lies {
        let (seen, _, end) = followed(&guest(move |_, _| Some(lie())));
        assert!(seen.is_empty());
        assert!(matches!(end, Err(QueryError::Malformed { .. })), "{end:?}");
    }
    // The same again, which would never end.
    let (seen, _, end) = followed(&guest(|_, _| Some(events(vec![outcome(5)], 6, 0))));
    assert_eq!(seen.len(), 1);
    assert!(matches!(end, Err(QueryError::Malformed { .. })), "{end:?}");
}

#[test]
fn guest_that_never_waits_is_not_asked_in_a_tight_loop() {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = asked.clone();
    let begin = Instant::now();
    let guest = guest(move |_, _| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (begin.elapsed() < Duration::from_secs(2)).then(|| events(vec![], 1, 0))
    });
    assert!(followed(&guest).2.is_ok());
    let asked = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..20).contains(&asked), "{asked}");
}

fn logs(lines: Vec<LogLine>, next: u64) -> Reply {
    Reply::Logs(Logs { lines, next, lost: 0 })
}

/// The numbers of all lines that there are, and how it ends.
fn all_lines(guest: &FakeGuest, source: LogSource, timeout: Duration) -> (Vec<u64>, Result<(), QueryError>) {
    let mut numbers = Vec::new();
    let end = all(&guest.target(), source, (false, timeout), |part: Part<LogLine>| {
        numbers.extend(part.items.iter().map(|line| line.sequence));
        ControlFlow::Continue(())
    });
    (numbers, end)
}

/// A guest that writes a hundred lines per request, and no longer answers once `life` is over.
fn writing(end: Option<u64>, life: Duration) -> FakeGuest {
    let begin = Instant::now();
    guest(move |_, request| {
        let Request::Logs { from, timeout_ms: 0, .. } = request else { panic!("{request:?}") };
        if begin.elapsed() > life {
            thread::sleep(LATE);
        }
        if from == u64::MAX {
            return Some(logs(vec![], end.unwrap_or(from)));
        }
        Some(logs((from..from + 100).map(|number| line(number, "x")).collect(), from + 100))
    })
}

#[test]
fn growing_log_ends_with_its_lines_at_the_request() {
    let guest = writing(Some(250), SOON);
    let (numbers, end) = all_lines(&guest, LogSource::Container, SOON);
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(numbers, (0..250).collect::<Vec<_>>());
}

#[test]
fn log_of_unknown_length_ends_when_empty_or_at_the_deadline() {
    let timeout = Duration::from_millis(500);
    // Our time may be over before, or while, the guest answers.
    for life in [SOON, timeout / 2] {
        let start = Instant::now();
        let (numbers, end) = all_lines(&writing(None, life), LogSource::Kernel, timeout);
        assert!(numbers.len() >= 100, "{}", numbers.len());
        assert!(matches!(end, Err(QueryError::Endless { .. })), "{end:?}");
        assert!(start.elapsed() < SOON);
    }
    // Lines of one record have one number.
    let whole = guest(|number, _| {
        Some(match number {
            0 => logs(vec![], u64::MAX),
            1 => logs(vec![line(3, "a"), line(3, "b")], 4),
            _ => logs(vec![], 4),
        })
    });
    let (numbers, end) = all_lines(&whole, LogSource::Kernel, SOON);
    assert!(numbers == [3, 3] && end.is_ok(), "{numbers:?} {end:?}");
}

#[test]
fn a_guest_that_lies_about_the_end_of_its_log_cannot_hold_us() {
    let none = guest(|_, request| {
        let Request::Logs { from, .. } = request else { panic!("{request:?}") };
        Some(if from == u64::MAX { logs(vec![], 0) } else { logs(vec![line(from, "x")], from + 1) })
    });
    let (numbers, end) = all_lines(&none, LogSource::Container, SOON);
    assert!(numbers.is_empty() && end.is_ok(), "{numbers:?} {end:?}");
    let other = guest(|_, _| Some(Reply::Status(Box::default())));
    let (_, end) = all_lines(&other, LogSource::Container, SOON);
    assert!(matches!(end, Err(QueryError::Malformed { .. })), "{end:?}");
}

#[test]
fn whoever_reads_can_have_enough() {
    let guest = guest(|_, _| Some(events(vec![outcome(1)], 2, 0)));
    let end = follow(&guest.target(), (), SOON, |_: Part<Event>| ControlFlow::Break(()));
    assert!(matches!(end, Ok(End::Enough)), "{end:?}");
}

#[test]
fn absent_guest_is_awaited_and_then_an_error() {
    let late = FakeGuest::new(|number, mut stream| {
        if number > 1 {
            let _ = stream.write_all(b"OK 1\n");
            let _ = wire::write(&mut stream, &events(vec![outcome(1)], 2, 0), MAX_REPLY);
        }
    });
    let end = follow(&late.target(), (), SOON, |_: Part<Event>| ControlFlow::Break(()));
    assert!(end.is_ok(), "{end:?}");
    let dir = tempfile::tempdir().unwrap();
    let target = Target::Unix { path: dir.path().join("none"), port: 1042 };
    let timeout = Duration::from_millis(500);
    let end = follow(&target, (), timeout, |_: Part<Event>| ControlFlow::Continue(()));
    assert!(matches!(end, Err(QueryError::NoSocket { .. })), "{end:?}");
}

#[test]
fn every_event_is_one_clean_line() {
    let evil = || "\x1b]0;pwned\x07a\r\nb\u{202e}".to_owned();
    let lines = [
        (Happening::Phase { phase: Phase::Gpu, outcome: PhaseOutcome::Failed }, "phase gpu failed"),
        (Happening::Gpu { bdf: evil(), state: GpuState::Lost }, "GPU a  b lost"),
        (Happening::Xid { bdf: evil(), code: 79, line: evil() }, "Xid 79 of a  b: a  b"),
        (
            Happening::Finding { code: Code::NoGpu, severity: Severity::Error, message: evil() },
            "error no-gpu: a  b",
        ),
        (Happening::Started { pid: 9, restarts: 0 }, "container started, pid 9"),
        (Happening::Started { pid: 9, restarts: 2 }, "container started again (2), pid 9"),
        (
            Happening::Exited(Exit { code: None, signal: Some(11), oom: false }),
            "container ended: killed by SIGSEGV",
        ),
        (Happening::Outcome(Outcome::Failed), "boot failed"),
    ];
    for (what, text) in lines {
        let event = Event { sequence: 1, at_ms: 4321, what };
        assert_eq!(event_line(&event, Look::default()), format!("[    4.321] {text}\n"));
        let coloured = event_line(&event, Look::COLOURED);
        assert!(coloured.contains(text) && !coloured.contains("pwned"), "{coloured:?}");
    }
    let line = |level| LogLine { sequence: 1, at_ms: u64::MAX, level, text: evil() };
    assert_eq!(log_line(&line(None), Look::COLOURED), "a  b\n");
    assert_eq!(log_line(&line(Some(3)), Look::default()), "[18446744073709551.615] a  b\n");
    assert!(log_line(&line(Some(0)), Look::COLOURED).contains("\x1b[31ma  b\x1b[0m"));
    let long = LogLine { text: "x".repeat(100_000), ..line(None) };
    assert!(log_line(&long, Look::default()).len() < 3000);
}
