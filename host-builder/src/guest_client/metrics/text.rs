//! The text format of Prometheus, version 0.0.4.

use super::families::FAMILIES;
use super::sample::{Family, Sample, Value, Word};
use crate::common::clean::clean;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Longest value of a label, in characters.
const LABEL: usize = 200;
/// Most different label values from a guest. Further values become `other`.
const WORDS: usize = 64;
const OTHER: &str = "other";

/// The label values of one guest so far.
#[derive(Default)]
pub struct Labels(BTreeSet<String>);

impl Labels {
    fn word(&mut self, word: &Word) -> String {
        let text = match word {
            Word::Ours(text) => return text.clone(),
            Word::Guests(text) => label(text),
        };
        if self.0.contains(&text) || self.0.len() < WORDS && self.0.insert(text.clone()) {
            text
        } else {
            OTHER.into()
        }
    }
}

/// A label's value without control characters, of bounded length; not escaped yet.
pub fn label(text: &str) -> String {
    clean(text, LABEL)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Samples by family and by labels.
#[derive(Default)]
pub struct Page(BTreeMap<&'static str, BTreeMap<String, Value>>);

impl Page {
    /// Adds a sample of a target. The same labels again are the same series: counts add up.
    pub fn add(&mut self, target: &str, known: &mut Labels, sample: &Sample) {
        let mut labels = format!("{{target=\"{}\"", escaped(target));
        for (name, word) in &sample.labels {
            let _ = write!(labels, ",{name}=\"{}\"", escaped(&known.word(word)));
        }
        labels.push('}');
        let series = self.0.entry(sample.family.name).or_default();
        series.entry(labels).and_modify(|value| *value = value.plus(sample.value)).or_insert(sample.value);
    }

    /// The page: each family once, with its help and its type.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for family in FAMILIES {
            let Some(series) = self.0.get(family.name) else { continue };
            let Family { name, help, kind, .. } = family;
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in series {
                let _ = writeln!(out, "{name}{labels} {}", value.text());
            }
        }
        out
    }
}

impl Value {
    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Count(a), Self::Count(b)) => Self::Count(a.saturating_add(b)),
            (Self::Millis(a), Self::Millis(b)) => Self::Millis(a.saturating_add(b)),
            (value, _) => value,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Count(count) => count.to_string(),
            Self::Millis(ms) => format!("{}.{:03}", ms / 1000, ms % 1000),
        }
    }
}
