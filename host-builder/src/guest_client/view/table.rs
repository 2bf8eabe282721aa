//! A table of several guests, one row per guest.

use super::screen::{LINE, WORD, seconds, severity, state, worst};
use crate::common::clean::clean;
use crate::common::terminal::{BOLD, Look, RED, YELLOW};
use crate::guest_client::error::QueryError;
use crate::guest_client::target::Target;
use image::status::{GpuState, Status};
use image::text::name;
use std::ops::Range;

const HEAD: [&str; COLUMNS] = ["TARGET", "STATE", "PHASE", "GPUS", "DRIVER", "UP", "WORST FINDING"];
const COLUMNS: usize = 7;
const STATE: usize = 1;
const FINDING_AT: usize = COLUMNS - 1;
/// Space between two columns, and before a continuation line.
const GAP: &str = "  ";
/// Longest finding.
const FINDING: usize = 100;

/// The row of a guest, of bounded size.
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

    /// Sort key: the guests with the most serious problems come first.
    pub fn badness(&self) -> u8 {
        match self.code {
            RED => 0,
            YELLOW => 1,
            _ => 2,
        }
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

/// Number of ready and expected GPUs.
fn gpus(status: &Status) -> String {
    let ready = status.gpus.iter().filter(|gpu| gpu.state == GpuState::Ready).count();
    let expected = match status.gpus_expected.as_deref() {
        Some(text) => text.parse().unwrap_or_else(|_| text.split(',').count()),
        None => status.gpus.len(),
    };
    if ready == 0 && expected == 0 { "-".into() } else { format!("{ready}/{expected}") }
}

/// The table. If it is wider than the terminal, the findings move to separate lines below their
/// guests; if that is not enough, everything except the targets does.
pub fn table(rows: &[Row], look: Look) -> String {
    let (head, texts) = table_parts(rows, look);
    head + &texts.concat()
}

/// The head of the table, and each row as text.
pub fn table_parts(rows: &[Row], look: Look) -> (String, Vec<String>) {
    let mut widths = HEAD.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let width = |columns: Range<usize>| {
        widths[columns].iter().map(|width| width + GAP.len()).sum::<usize>() - GAP.len()
    };
    let fits = |width: usize| look.columns.is_none_or(|columns| width <= columns);
    // The columns at which a new line begins, and the end.
    let breaks: &[usize] = if fits(width(0..COLUMNS)) {
        &[0, COLUMNS]
    } else if fits(width(0..FINDING_AT)) {
        &[0, FINDING_AT, COLUMNS]
    } else {
        &[0, 1, FINDING_AT, COLUMNS]
    };
    let lines: Vec<Range<usize>> = breaks.windows(2).map(|pair| pair[0]..pair[1]).collect();
    let line = |columns: &Range<usize>, cell: &dyn Fn(usize) -> (String, &'static str)| {
        let mut line = if columns.start == 0 { String::new() } else { GAP.to_owned() };
        for at in columns.clone() {
            let (text, code) = cell(at);
            // The last one of a line needs no column.
            let width = if at + 1 == columns.end { 0 } else { widths[at] };
            let text = format!("{text:<width$}");
            line.push_str(&if code.is_empty() { text } else { look.paint(code, &text) });
            line.push_str(GAP);
        }
        line.trim_end().to_owned() + "\n"
    };
    let head: String = lines.iter().map(|columns| line(columns, &|at| (HEAD[at].to_owned(), BOLD))).collect();
    let text = |row: &Row| {
        let cell = |at: usize| (row.cells[at].clone(), if at == STATE { row.code } else { "" });
        let there =
            lines.iter().filter(|columns| columns.start < FINDING_AT || !row.cells[FINDING_AT].is_empty());
        look.wrap(&there.map(|columns| line(columns, &cell)).collect::<String>())
    };
    (look.wrap(&head), rows.iter().map(text).collect())
}
