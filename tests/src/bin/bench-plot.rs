//! Draws the results of one part of the benchmark as bars: `bench-plot RESULTS PICTURE.svg`.
//!
//! Each line of the results has four fields, separated by tabs: a name and its microseconds, a peer
//! and its microseconds (`tests/bench/lib.sh` writes them). A bar is the time of the name divided
//! by that of its peer.

use host_builder::common::plot::{self, Bar, Tone};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [results, picture] = &args[..] else {
        eprintln!("usage: bench-plot RESULTS PICTURE.svg");
        return ExitCode::from(2);
    };
    match draw(results, picture) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn draw(results: &str, picture: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(results).map_err(|error| format!("reading {results}: {error}"))?;
    let rows = text.lines().map(Row::parse).collect::<Result<Vec<_>, _>>()?;
    let title = "Time, as a ratio to the peer below it";
    let svg = plot::svg(title, "ratio (shorter is faster; the peer is 1)", &bars(&rows))
        .map_err(|error| error.chain())?;
    std::fs::write(picture, svg).map_err(|error| format!("writing {picture}: {error}"))
}

/// One line of the results.
struct Row<'a> {
    name: &'a str,
    peer: &'a str,
    ratio: f64,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Result<Self, String> {
        let fields: Vec<_> = line.split('\t').collect();
        let problem =
            || format!("expected NAME, TIME, PEER and TIME in one line of the results, found {line:?}");
        let &[name, ours, peer, theirs] = &fields[..] else { return Err(problem()) };
        let number = |text: &str| text.parse::<f64>().ok().filter(|time| time.is_finite() && *time > 0.0);
        let (ours, theirs) = number(ours).zip(number(theirs)).ok_or_else(problem)?;
        Ok(Self { name, peer, ratio: ours / theirs })
    }
}

/// A bar for each row, and one for the peer after the last of the successive rows that have it.
fn bars(rows: &[Row]) -> Vec<Bar> {
    let bar = |label: &str, ratio: f64, tone| {
        let note = format!("{ratio:.2}");
        Bar { label: label.to_owned(), range: (0.0, ratio), tone, note }
    };
    let mut bars = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        bars.push(bar(row.name, row.ratio, Tone::Good));
        if rows.get(at + 1).is_none_or(|next| next.peer != row.peer) {
            bars.push(bar(row.peer, 1.0, Tone::Neutral));
        }
    }
    bars
}
