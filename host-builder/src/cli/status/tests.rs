//! Exit codes, and guests that are watched together, some of them slow or silent.

use super::answer::{BAD, GOOD, UNASKED, code};
use super::round::{Show, follow};
use crate::common::terminal::Look;
use crate::guest_client::Target;
use crate::guest_client::tests::{FakeGuest, SOON, a_status, after_ok, frame, status_frame};
use crate::guest_client::view::table;
use image::status::{Container, Exit, Outcome, Phase, Status};
use image::wire::{Reply, Until};
use std::io::Write;
use std::time::{Duration, Instant};

fn ended(phase: Phase, code: Option<i32>) -> Status {
    let exit = Some(Exit { code, signal: code.is_none().then_some(9), oom: false });
    let container = Container {
        pid: 9,
        command: vec![],
        start_ms: 1,
        restarts: 0,
        exit,
        last_exit: None,
        oom_kills: 0,
        output: vec![],
    };
    Status { phase, container: Some(container), ..a_status(Outcome::Ready) }
}

#[test]
fn the_exit_code_is_good_only_when_what_was_awaited_has_come() {
    let (running, failed) = (a_status(Outcome::Ready), a_status(Outcome::Failed));
    let between = ended(Phase::Running, Some(0));
    let (good, bad, killed) =
        (ended(Phase::Exited, Some(0)), ended(Phase::Exited, Some(1)), ended(Phase::Exited, None));
    let pending = a_status(Outcome::Pending);
    let exited = Some(Until::Exited);
    for (status, until, expected) in [
        (&running, None, GOOD),
        (&failed, None, BAD),
        (&pending, None, BAD),
        (&running, Some(Until::Ready), GOOD),
        (&failed, Some(Until::Ready), BAD),
        (&pending, Some(Until::Ready), BAD),
        (&running, exited, BAD),
        // Its program has ended well, and is started again.
        (&between, exited, BAD),
        (&good, exited, GOOD),
        (&bad, exited, BAD),
        (&killed, exited, BAD),
        (&failed, exited, BAD),
        (&between, Some(Until::Phase(Phase::Exited)), BAD),
        (&bad, Some(Until::Phase(Phase::Exited)), GOOD),
        (&running, Some(Until::Phase(Phase::Gpu)), GOOD),
        (&failed, Some(Until::Phase(Phase::Gpu)), BAD),
        (&pending, Some(Until::Phase(Phase::Running)), GOOD),
    ] {
        assert_eq!(code(status, until), expected, "{until:?} of {status:?}");
    }
}

/// A guest whose newest event has this number each time it is asked, and that is gone after the
/// last.
fn numbered(events: &'static [u64]) -> FakeGuest {
    FakeGuest::new(move |number, mut stream| {
        if let Some(events) = events.get(number) {
            let status = Status { events: *events, ..a_status(Outcome::Ready) };
            let _ = stream.write_all(&after_ok(&frame(&Reply::Status(Box::new(status)))));
        }
    })
}

#[test]
fn a_slow_guest_makes_no_table_late_and_no_row_old() {
    let quick = FakeGuest::answering(after_ok(&status_frame(Outcome::Ready)));
    let silent = FakeGuest::silent();
    let targets = vec![silent.target(), quick.target()];
    let begin = Instant::now();
    let mut tables = Vec::new();
    follow(
        false,
        Duration::from_mins(1),
        || targets.clone(),
        |show| {
            let Show::Table(rows) = show else { panic!("a line of JSON was not asked for") };
            tables.push(table(rows, Look::default()));
            tables.len() < 3
        },
    );
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    for table in &tables {
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[1].contains("  waiting ") && lines[2].contains("  ready "), "{table}");
    }
}

#[test]
fn silent_guest_keeps_its_row_until_its_time_is_over() {
    let held = std::sync::Mutex::new(Vec::new());
    let guest = FakeGuest::new(move |number, mut stream| {
        if number == 0 {
            let _ = stream.write_all(&after_ok(&status_frame(Outcome::Ready)));
        } else {
            held.lock().unwrap().push(stream);
        }
    });
    let targets = vec![guest.target()];
    let mut tables = Vec::new();
    follow(
        false,
        Duration::from_secs(3),
        || targets.clone(),
        |show| {
            let Show::Table(rows) = show else { panic!("a line of JSON was not asked for") };
            tables.push(table(rows, Look::default()));
            !tables.last().unwrap().contains("timed-out")
        },
    );
    assert!(tables.len() > 3, "{tables:?}");
    assert!(tables[..tables.len() - 1].iter().all(|table| table.contains("  ready ")), "{tables:?}");
}

#[test]
fn json_has_a_line_per_change_and_ends_with_the_last_guest() {
    let guests = [numbered(&[1, 1, 2, 2]), numbered(&[7])];
    let targets: Vec<_> = guests.iter().map(FakeGuest::target).collect();
    let mut lines: Vec<serde_json::Value> = Vec::new();
    let code = follow(
        true,
        SOON,
        || targets.clone(),
        |show| {
            let Show::Line(line) = show else { panic!("a table was not asked for") };
            lines.push(serde_json::from_str(line).unwrap());
            true
        },
    );
    assert_eq!(code, GOOD);
    let of = |target: &Target| -> Vec<String> {
        let name = target.to_string();
        let its = lines.iter().filter(|line| line["target"] == name.as_str());
        its.map(|line| match &line["error"]["code"] {
            serde_json::Value::Null => line["status"]["events"].to_string(),
            error => error.to_string(),
        })
        .collect()
    };
    assert_eq!(of(&targets[0]), ["1", "2", "\"not-listening\""]);
    assert_eq!(of(&targets[1]), ["7", "\"not-listening\""]);
}

#[test]
fn guests_that_never_answer_or_are_named_no_more_end_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let never = Target::Unix { path: dir.path().join("v.sock"), port: 1042 };
    let begin = Instant::now();
    let code = follow(true, Duration::from_secs(1), || vec![never.clone()], |_| true);
    assert!(code == UNASKED && begin.elapsed() < SOON);
    let guest = FakeGuest::answering(after_ok(&status_frame(Outcome::Failed)));
    let mut rounds = 0;
    let targets = || {
        rounds += 1;
        if rounds < 3 { vec![guest.target()] } else { vec![] }
    };
    assert_eq!(follow(true, SOON, targets, |_| true), BAD);
}
