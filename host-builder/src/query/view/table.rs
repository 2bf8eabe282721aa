//! Several guests, one row for each.

use super::{BOLD, LINE, RED, WORD, YELLOW, clean, paint, seconds, severity, state, worst};
use crate::query::{QueryError, Target};
use image::status::{GpuState, Status, name};

const HEAD: [&str; COLUMNS] = ["TARGET", "STATE", "PHASE", "GPUS", "DRIVER", "UP", "WORST FINDING"];
const COLUMNS: usize = 7;
const STATE: usize = 1;
/// Longest finding.
const FINDING: usize = 100;

/// What the table says of one guest: little, however much the guest has said.
#[derive(Debug, Clone)]
pub struct Row {
    cells: [String; COLUMNS],
    code: &'static str,
}

impl Row {
    /// The row of a guest.
    pub fn of(target: &Target, result: Result<&Status, &QueryError>) -> Self {
        let target = clean(&target.to_string(), LINE);
        let (code, cells) = match result {
            Ok(status) => of_status(target, status),
            Err(error) => {
                let nothing = || "-".to_owned();
                let why = clean(&error.chain(), FINDING);
                let cells = [target, error.name().into(), nothing(), nothing(), nothing(), nothing(), why];
                (RED, cells)
            }
        };
        Self { cells, code }
    }

    /// The row of a guest that has not answered yet.
    pub fn waiting(target: &Target) -> Self {
        let mut cells: [String; COLUMNS] = std::array::from_fn(|_| "-".to_owned());
        (cells[0], cells[STATE]) = (clean(&target.to_string(), LINE), "waiting".into());
        cells[COLUMNS - 1].clear();
        Self { cells, code: YELLOW }
    }
}

fn of_status(target: String, status: &Status) -> (&'static str, [String; COLUMNS]) {
    let (code, word) = state(status);
    let driver = status.driver_loaded.as_ref();
    let finding = worst(status).map_or_else(String::new, |finding| {
        let (_, word) = severity(finding.severity);
        let more = match status.findings.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        format!("{word} {}: {}{more}", finding.code.name(), clean(&finding.message, FINDING))
    });
    let cells = [
        target,
        word,
        name(status.phase),
        gpus(status),
        driver.map_or_else(|| "-".into(), |version| clean(version, WORD / 4)),
        seconds(status.uptime_ms),
        finding,
    ];
    (code, cells)
}

/// Ready ones of those expected.
fn gpus(status: &Status) -> String {
    let ready = status.gpus.iter().filter(|gpu| gpu.state == GpuState::Ready).count();
    let expected = match status.gpus_expected.as_deref() {
        Some(text) => text.parse().unwrap_or_else(|_| text.split(',').count()),
        None => status.gpus.len(),
    };
    if ready == 0 && expected == 0 { "-".into() } else { format!("{ready}/{expected}") }
}

/// The table.
pub fn table(rows: &[Row], colour: bool) -> String {
    let mut widths = HEAD.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; COLUMNS], paint_cell: &dyn Fn(usize, &str) -> String| {
        let mut line = String::new();
        for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
            line.push_str(&paint_cell(at, &format!("{cell:<width$}")));
            line.push_str("  ");
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut out = line(HEAD, &|_, cell| paint(colour, BOLD, cell));
    for row in rows {
        let cells = std::array::from_fn(|at| row.cells[at].as_str());
        let paint_cell = |at: usize, cell: &str| {
            if at == STATE { paint(colour, row.code, cell) } else { cell.to_owned() }
        };
        out.push_str(&line(cells, &paint_cell));
    }
    out
}
