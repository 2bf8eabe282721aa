//! Queries several guests repeatedly. A slow or silent guest keeps its last row, and does not delay
//! the others.

use super::answer::{UNASKED, code};
use crate::common::ui::json_line;
use crate::guest_client;
use crate::guest_client::view::Row;
use crate::guest_client::{AT_ONCE, Answer, QueryError, Target};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two queries of one guest, and between two tables.
const LOOK: Duration = Duration::from_secs(1);
/// Number of unanswered queries after which a guest that had answered counts as gone.
const ATTEMPTS: u32 = 3;

/// What to show.
pub(super) enum Show<'a> {
    /// All guests, as rows of a table.
    Table(&'a [Row]),
    /// A change, as a line of JSON.
    Line(&'a str),
}

/// Queries the guests that `targets` returns before each round, until all are gone or `show`
/// returns `false` because the output is closed. `timeout` is the time for each answer, and for a
/// guest to appear. Returns the highest exit code.
pub(super) fn follow(
    is_json: bool,
    timeout: Duration,
    mut targets: impl FnMut() -> Vec<Target>,
    mut show: impl FnMut(Show<'_>) -> bool,
) -> u8 {
    let (sender, receiver) = mpsc::channel();
    let mut guests = Guests { of: Vec::new(), worst: 0, timeout, is_json };
    let mut is_shown = false;
    loop {
        let end = Instant::now() + LOOK;
        guests.are(targets());
        guests.ask(&sender);
        while let Ok(news) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if let Some(line) = guests.hear(news)
                && !show(Show::Line(&line))
            {
                return guests.code();
            }
            // The first table need not wait if all guests have answered.
            if !is_json && !is_shown && guests.have_all_come() {
                is_shown = true;
                show(Show::Table(&guests.rows()));
            }
        }
        if guests.have_gone() {
            return guests.code();
        }
        is_shown = true;
        if !is_json && !show(Show::Table(&guests.rows())) {
            return guests.code();
        }
    }
}

struct Guests {
    of: Vec<Guest>,
    /// Highest code of the guests that are no longer targets.
    worst: u8,
    timeout: Duration,
    is_json: bool,
}

struct Guest {
    target: Target,
    since: Instant,
    /// Time of the last query; `None` before the first one.
    asked: Option<Instant>,
    is_asked: bool,
    row: Row,
    /// Exit code and newest event of its last status.
    last: Option<(u8, u64)>,
    /// Why the last query had no answer.
    error: Option<&'static str>,
    failures: u32,
    /// The answer was invalid, or another query will not help.
    is_hopeless: bool,
}

/// The part of a guest's answer that is kept.
struct News {
    target: Target,
    row: Row,
    line: String,
    result: Result<(u8, u64), QueryError>,
}

impl News {
    fn of(target: Target, timeout: Duration, is_json: bool) -> Self {
        let answer = guest_client::status(&target, timeout);
        let row = Row::of(&target, answer.as_ref());
        let line = |answer| if is_json { json_line(&answer) } else { String::new() };
        let (line, result) = match answer {
            Ok(status) => {
                let kept = (code(&status, None), status.events);
                (line(Answer::of(&target, Ok(status))), Ok(kept))
            }
            Err(error) => (line(Answer::of(&target, Err(&error))), Err(error)),
        };
        Self { target, row, line, result }
    }
}

impl Guest {
    fn new(target: Target) -> Self {
        Self {
            row: Row::waiting(&target),
            target,
            since: Instant::now(),
            asked: None,
            is_asked: false,
            last: None,
            error: None,
            failures: 0,
            is_hopeless: false,
        }
    }

    fn code(&self) -> u8 {
        self.last.map_or(UNASKED, |(code, _)| code)
    }

    fn is_open(&self, timeout: Duration) -> bool {
        let is_given_time =
            if self.last.is_some() { self.failures < ATTEMPTS } else { self.since.elapsed() < timeout };
        is_given_time && !self.is_hopeless
    }
}

impl Guests {
    /// Adds new guests and removes missing ones. The others keep their state.
    fn are(&mut self, targets: Vec<Target>) {
        let mut before = std::mem::take(&mut self.of);
        for target in targets {
            let known = before.iter().position(|guest| guest.target == target);
            self.of.push(known.map_or_else(|| Guest::new(target), |at| before.swap_remove(at)));
        }
        self.worst = before.iter().map(Guest::code).fold(self.worst, u8::max);
    }

    /// Queries all guests without a pending query, the least recently queried first, up to the
    /// limit of parallel queries.
    fn ask(&mut self, sender: &Sender<News>) {
        let places = AT_ONCE.saturating_sub(self.of.iter().filter(|guest| guest.is_asked).count());
        let mut idle: Vec<_> = self.of.iter_mut().filter(|guest| !guest.is_asked).collect();
        idle.sort_by_key(|guest| guest.asked);
        for guest in idle.into_iter().take(places) {
            let (sender, target) = (sender.clone(), guest.target.clone());
            let (timeout, is_json) = (self.timeout, self.is_json);
            let ask = move || drop(sender.send(News::of(target, timeout, is_json)));
            // No thread is available, for example: the guest is queried in the next round.
            guest.is_asked = thread::Builder::new().spawn(ask).is_ok();
            guest.asked = Some(Instant::now());
        }
    }

    /// The line, if it has changed.
    fn hear(&mut self, news: News) -> Option<String> {
        let guest = self.of.iter_mut().find(|guest| guest.target == news.target)?;
        (guest.is_asked, guest.row) = (false, news.row);
        let is_new = match news.result {
            Ok((code, events)) => {
                let was_error = guest.error.take().is_some();
                (guest.failures, guest.is_hopeless) = (0, false);
                guest.last.replace((code, events)).is_none_or(|(_, before)| before != events) || was_error
            }
            Err(error) => {
                guest.failures += 1;
                let is_final = if guest.last.is_some() { error.is_nonsense() } else { !error.is_passing() };
                guest.is_hopeless = is_final;
                guest.error.replace(error.name()) != Some(error.name())
            }
        };
        (is_new && self.is_json).then_some(news.line)
    }

    fn rows(&self) -> Vec<Row> {
        self.of.iter().map(|guest| guest.row.clone()).collect()
    }

    fn have_all_come(&self) -> bool {
        self.of.iter().all(|guest| guest.last.is_some() || guest.failures > 0)
    }

    fn have_gone(&self) -> bool {
        !self.of.iter().any(|guest| guest.is_open(self.timeout))
    }

    fn code(&self) -> u8 {
        self.of.iter().map(Guest::code).fold(self.worst, u8::max)
    }
}
