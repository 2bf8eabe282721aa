//! Metrics of guests for Prometheus (text format 0.0.4). The number of time series of a guest is
//! bounded, in one scrape and over the lifetime of this process.

mod families;
mod sample;
pub mod serve;
#[cfg(test)]
mod tests;
mod text;

pub use self::families::FAMILIES;
pub use self::sample::Family;
use super::error::QueryError;
use super::many::{Told, of_each};
use super::request::status_by;
use super::target::Target;

use families::samples;
use sample::Sample;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use text::{Labels, Page};

/// Asks guests, and remembers which words each has used.
#[derive(Default)]
pub struct Collector {
    known: BTreeMap<String, Labels>,
}

/// A page of metrics.
pub struct Scrape {
    /// The text.
    pub text: String,
    /// Number of guests that could not be queried.
    pub down: usize,
}

impl Collector {
    /// Asks each guest, and writes what they say in the order of `targets`. `timeout` is for all of
    /// them together.
    pub fn scrape(&mut self, targets: &[Target], timeout: Duration) -> Scrape {
        let mut answers: Vec<Option<Vec<Sample>>> = targets.iter().map(|_| None).collect();
        let work = |target: &Target, deadline: Instant| -> Result<Vec<Sample>, QueryError> {
            status_by(target, deadline).map(|status| samples(&status))
        };
        of_each(targets, timeout, work, |told| {
            if let Told::Came(index, result) = told {
                answers[index] = result.ok();
            }
        });
        let down = answers.iter().filter(|answer| answer.is_none()).count();
        let names: Vec<_> = targets.iter().map(|target| text::label(&target.to_string())).collect();
        self.known.retain(|name, _| names.contains(name));
        let mut page = Page::default();
        for (name, answer) in names.iter().zip(answers) {
            let known = self.known.entry(name.clone()).or_default();
            page.add(name, known, &Sample::up(answer.is_some()));
            for sample in answer.iter().flatten() {
                page.add(name, known, sample);
            }
        }
        Scrape { text: page.text(), down }
    }
}
