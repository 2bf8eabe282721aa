//! `explain`: what a finding means, what usually causes it, and what to do.

use crate::common::error::{Error, Result};
use crate::common::interrupt;
use crate::common::ui::{json_line, print};
use crate::guest_client::SCHEMA;
use clap::Args;
use image::config::KEYS;
use image::status::Code;
use image::status::finding::CODES;
use serde::Serialize;
use std::fmt::Write;

pub(crate) const EXPLAIN_HELP: &str = "\
Examples:
  host-builder explain adapter-init-failed
  host-builder explain --json gpu-xid

Without a code, lists every code with its meaning.

Exit codes: 0 success, 2 there is no such code.";

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Code of a finding, as `status` shows it.
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// Print one line of JSON per code: `schema`, `code`, `meaning`, `causes`, `remedy`, `keys`, `metrics`.
    #[arg(long)]
    pub json: bool,
}

/// Everything about one code, as the tables of the crate `image` have it.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The code.
    pub code: String,
    /// Its meaning, in one sentence.
    pub meaning: &'static str,
    /// Usual causes, the most frequent first.
    pub causes: &'static [&'static str],
    /// What to do, in Markdown.
    pub remedy: &'static str,
    /// Keys of the kernel command line that belong to it.
    pub keys: &'static [&'static str],
    /// Metrics that show it.
    pub metrics: &'static [&'static str],
}

impl Explanation {
    /// Every code, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        CODES.iter().map(|row| Self::of(row.code))
    }

    fn of(code: Code) -> Self {
        let (row, background) = (&CODES[code as usize], code.background());
        Self {
            schema: SCHEMA,
            code: code.name(),
            meaning: row.meaning,
            causes: background.causes,
            remedy: row.remedy,
            keys: background.keys,
            metrics: background.metrics,
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{}: {}\n\nusual causes\n", self.code, self.meaning);
        for cause in self.causes {
            let _ = writeln!(text, "  - {cause}");
        }
        let _ = writeln!(text, "\nwhat to do\n  {}", self.remedy);
        if !self.keys.is_empty() {
            text.push_str("\nkeys of the kernel command line\n");
            for key in KEYS.iter().filter(|key| self.keys.contains(&key.name)) {
                let _ = writeln!(text, "  {}={}\n      {}", key.name, key.expects, key.help);
            }
        }
        if !self.metrics.is_empty() {
            let _ = writeln!(text, "\nmetrics\n  {}", self.metrics.join("\n  "));
        }
        text
    }
}

/// Runs the command.
pub fn run(args: &Explain) -> Result<()> {
    interrupt::makes_nothing();
    let codes = match &args.code {
        None => CODES.iter().map(|row| row.code).collect(),
        Some(name) => vec![Code::named(name).ok_or_else(|| unknown(name))?],
    };
    for explanation in codes.into_iter().map(Explanation::of) {
        if args.json {
            print(&json_line(&explanation));
        } else if args.code.is_some() {
            print(&explanation.text());
        } else {
            print(&format!("{:<26} {}\n", explanation.code, explanation.meaning));
        }
    }
    Ok(())
}

fn unknown(name: &str) -> Error {
    let name = crate::common::clean::clean(name, 80);
    let like = CODES
        .iter()
        .map(|row| row.code.name())
        .find(|code| name.split('-').any(|word| word.len() > 2 && code.split('-').any(|part| part == word)));
    let hint = match like {
        Some(code) => format!("did you mean {code}? `host-builder explain` lists every code"),
        None => "`host-builder explain` lists every code".into(),
    };
    Error::new(format!("no finding has the code {name:?}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_client::metrics::FAMILIES;

    #[test]
    fn every_code_is_explained_with_metrics_that_exist() {
        for (row, explanation) in CODES.iter().zip(Explanation::all()) {
            let text = explanation.text();
            assert!(text.starts_with(&format!("{}: {}", row.code.name(), row.meaning)), "{text}");
            assert!(text.contains("\n  - ") && text.contains(row.remedy), "{text}");
            for metric in explanation.metrics {
                assert!(FAMILIES.iter().any(|family| family.name == *metric), "{metric}");
            }
        }
    }

    #[test]
    fn unknown_code_suggests_a_similar_one() {
        let text = format!("{:?}", unknown("xid").remedy());
        assert!(text.contains("gpu-xid"), "{text}");
        assert!(!format!("{:?}", unknown("zz").remedy()).contains("did you mean"));
    }
}
