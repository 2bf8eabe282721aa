//! `status` of several guests: a table in which quick guests do not wait for slow ones.

use super::answer::{GOOD, UNASKED, ask, code, patience};
use super::options::Status as Arguments;
use crate::common::terminal;
use crate::common::terminal::Look;
use crate::common::ui::{json_line, print_on, print_painted};
use crate::guest_client;
use crate::guest_client::view;
use crate::guest_client::view::Row;
use crate::guest_client::{Answer, Target, Told};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time until a terminal shows the first rows. Later rows are added in their places.
const FIRST: Duration = Duration::from_secs(1);
/// Shortest time between two updates of the screen.
const AGAIN: Duration = Duration::from_millis(250);

/// Queries the guests, prints, and returns the highest exit code.
pub(super) fn ask_all(args: &Arguments, targets: &[Target]) -> u8 {
    // A status may be large, so each thread reduces what it received to a row.
    let work = |target: &Target, deadline: Instant| {
        let result = ask(args.wait, target, deadline);
        let code = result.as_ref().map_or(UNASKED, |status| code(status, args.wait));
        if args.json {
            let answer = match result {
                Ok(status) => Answer::of(target, Ok(status)),
                Err(error) => Answer::of(target, Err(&error)),
            };
            (code, None, json_line(&answer))
        } else {
            (code, Some(Row::of(target, result.as_ref())), String::new())
        }
    };
    let mut worst = GOOD;
    let mut table = (!args.json).then(|| Table::new(targets));
    guest_client::of_each(targets, patience(args), work, |told| {
        if let Told::Came(index, (code, row, line)) = told {
            worst = worst.max(code);
            print_painted(&line);
            if let (Some(table), Some(row)) = (&mut table, row) {
                table.put(index, row);
            }
        }
        if let Some(table) = &mut table {
            table.draw_what_there_is();
        }
    });
    if let Some(table) = table {
        print_painted(&table.last());
    }
    worst
}

/// A table that grows in place on a terminal while it fits, and otherwise is printed when it is
/// complete.
struct Table {
    rows: Vec<Row>,
    is_live: bool,
    /// When it may be drawn next.
    due: Instant,
    /// Whether a row has changed since the last drawing.
    is_new: bool,
    /// Number of lines on the screen.
    drawn: usize,
}

impl Table {
    fn new(targets: &[Target]) -> Self {
        Self {
            rows: targets.iter().map(Row::waiting).collect(),
            is_live: std::io::stdout().is_terminal(),
            due: Instant::now() + FIRST,
            is_new: true,
            drawn: 0,
        }
    }

    fn put(&mut self, index: usize, row: Row) {
        self.rows[index] = row;
        self.is_new = true;
    }

    fn draw_what_there_is(&mut self) {
        if self.is_live && self.is_new && Instant::now() >= self.due {
            let look = Look::of_stdout();
            let text = look.wrap_to_draw(&view::table(&self.rows, look));
            let lines = text.lines().count();
            self.is_live = terminal::size().is_some_and(|(_, rows)| lines < rows)
                && print_on(&live(&self.back(), &text));
            if self.is_live {
                self.drawn = lines;
            }
            (self.is_new, self.due) = (false, Instant::now() + AGAIN);
        }
    }

    /// The complete table, which replaces what is on the screen.
    fn last(&self) -> String {
        self.back() + &view::table(&self.rows, Look::of_stdout())
    }

    /// Moves to the first drawn line and clears everything below it.
    fn back(&self) -> String {
        if self.drawn > 0 { format!("\x1b[{}A\r\x1b[J", self.drawn) } else { String::new() }
    }
}

/// Turns line wrapping off, so that the number of lines stays known.
fn live(back: &str, text: &str) -> String {
    format!("{back}\x1b[?7l{text}\x1b[?7h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_replaced_from_its_first_line_on() {
        let targets = ["vsock:3", "vsock:4"].map(|text| text.parse().unwrap());
        let mut table = Table { is_live: true, ..Table::new(&targets) };
        assert!(table.back().is_empty() && !table.last().contains('\x1b'));
        assert_eq!(table.last().matches("waiting").count(), 2);
        table.drawn = 3;
        assert!(table.last().starts_with("\x1b[3A\r\x1b[JTARGET"), "{:?}", table.last());
        assert_eq!(live("b", "t\n"), "b\x1b[?7lt\n\x1b[?7h");
    }
}
