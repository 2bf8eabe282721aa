//! Terminal output: size, colours, and text that is wrapped to the width. Lines wrap; nothing is
//! cut off silently.

use super::clean::clean_lines;
use std::io::{IsTerminal, Write};
use textwrap::core::display_width;
use textwrap::{Options, WordSplitter};

/// Red, for what has failed.
pub const RED: &str = "31";
/// Green, for what is good.
pub const GREEN: &str = "32";
/// Yellow, for what needs attention.
pub const YELLOW: &str = "33";
/// Bold, for names.
pub const BOLD: &str = "1";
/// Dim, for evidence.
pub const DIM: &str = "2";

/// Narrowest width for wrapping. A narrower terminal wraps by itself.
const NARROWEST: usize = 20;
/// Widest column of names for which continuation lines are indented below the text. Other
/// continuation lines start near the margin.
const WIDEST_NAME: usize = 16;

/// The style of text on standard output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether there is colour.
    pub colour: bool,
    /// Characters of a line; `None` if lines may have any length, as in a file.
    pub columns: Option<usize>,
}

impl Look {
    #[cfg(test)]
    pub(crate) const COLOURED: Self = Self { colour: true, columns: None };

    /// The style of this process's standard output (colour: <https://no-color.org>).
    pub fn of_stdout() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: is_terminal && !no_colour,
            columns: size().filter(|_| is_terminal).map(|(columns, _)| columns),
        }
    }

    /// `text` in a colour or weight.
    pub fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Wraps each line of `text` between words. Continuation lines start below the text after a
    /// column of names, else a little to the right of the start of the line. A word that is longer
    /// than a line, such as a path, is not broken, so that it can be copied.
    pub fn wrap(self, text: &str) -> String {
        self.wrapped(text, false)
    }

    /// Wraps text that is drawn in place: no line is longer than the width of the terminal.
    pub fn wrap_to_draw(self, text: &str) -> String {
        self.wrapped(text, true)
    }

    fn wrapped(self, text: &str, break_words: bool) -> String {
        let Some(columns) = self.columns else { return text.to_owned() };
        let columns = columns.max(NARROWEST);
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            if display_width(line) <= columns {
                out.push_str(line);
            } else {
                let indent = " ".repeat(indent(line).min(columns / 2));
                let options = Options::new(columns)
                    .subsequent_indent(&indent)
                    .break_words(break_words)
                    .word_splitter(WordSplitter::NoHyphenation);
                out.push_str(&textwrap::wrap(line, options).join("\n"));
            }
            out.push_str(end);
        }
        out
    }
}

/// Columns and rows of the terminal, if there is one on standard output, input or error.
pub fn size() -> Option<(usize, usize)> {
    terminal_size::terminal_size().map(|(columns, rows)| (usize::from(columns.0), usize::from(rows.0)))
}

/// Indentation of continuation lines: below the text after the first word and a gap, if the first
/// word is a name in a column.
fn indent(line: &str) -> usize {
    let bare = without_escapes(line);
    let margin = bare.len() - bare.trim_start_matches(' ').len();
    let gap = bare[margin..].find("  ").map(|at| margin + at);
    let column = gap.map(|gap| bare.len() - bare[gap..].trim_start_matches(' ').len());
    match column {
        Some(column) if display_width(&bare[..column]) <= WIDEST_NAME => display_width(&bare[..column]),
        _ if bare[margin..].starts_with("| ") => margin + 2,
        _ => margin + 4,
    }
}

/// Removes the escapes of [`Look::paint`], which are the only ones.
fn without_escapes(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Formats bytes, such as `83.4 MB`.
#[allow(clippy::cast_precision_loss)]
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Prints a cleaned message to standard error. All messages go through this function.
pub fn say(text: &str) {
    // If standard error fails, there is nowhere to report it.
    let _ = writeln!(std::io::stderr().lock(), "{}", clean_lines(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: Look = Look { colour: false, columns: Some(30) };

    #[test]
    fn lines_wrap_below_their_text() {
        for (line, expected) in [
            ("gpus       one two three four five six", "gpus       one two three four\n           five six"),
            ("    | evidence that is longer than that", "    | evidence that is longer\n      than that"),
            ("error code: a message that is long", "error code: a message that is\n    long"),
            ("short", "short"),
            ("    what to do: look there, or elsewhere", "    what to do: look there, or\n        elsewhere"),
        ] {
            assert_eq!(NARROW.wrap(line), expected);
            assert_eq!(Look::default().wrap(line), line);
        }
        assert_eq!(NARROW.wrap("a\n\nb\n"), "a\n\nb\n");
    }

    #[test]
    fn path_is_not_broken_except_when_drawn() {
        let path = "/a/path/that-is/longer/than/the/line.so";
        assert_eq!(NARROW.wrap(&format!("initrd    {path}")), format!("initrd\n          {path}"));
        let drawn = NARROW.wrap_to_draw(&format!("initrd    {path}"));
        assert!(drawn.lines().count() > 1 && drawn.lines().all(|line| display_width(line) <= 30), "{drawn}");
    }

    #[test]
    fn colour_takes_no_width() {
        let look = Look { colour: true, ..NARROW };
        let line = format!("{} {}", look.paint(BOLD, "gpus      "), look.paint(RED, "one two three four"));
        assert_eq!(look.wrap(&line), line);
        let wrapped = look.wrap(&format!("{line} five six"));
        assert!(wrapped.ends_with("\n           five six"), "{wrapped:?}");
    }
}
