//! The guest's console. The complete output goes to a file, and the interesting part to the screen.
//!
//! Until the program runs, the screen shows guest-init's lines only; the kernel's hundreds of lines
//! are in the file. After that it shows everything, because the program may print anything.

use super::ending::{Ending, kernel_line, later, told};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};

/// How much of the console goes to the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Nothing until the program runs.
    Quiet,
    /// guest-init's own lines until then.
    Normal,
    /// All.
    Verbose,
}

/// Most bytes of a line. A longer line is processed in parts.
const MAX_LINE: usize = 4096;
/// Number of lines that are shown when a guest did not end normally.
const LAST_LINES: usize = 20;
/// guest-init's lines when the program starts, and when the init of the container image takes over.
const STARTS: [&str; 2] = ["gpu-initrd: exec done after ", "gpu-initrd: the image's init takes over"];

/// Processes a console byte by byte.
pub struct Screen<'a> {
    detail: Detail,
    file: File,
    out: &'a mut (dyn Write + Send),
    line: Vec<u8>,
    /// The program runs.
    pub started: bool,
    /// How the guest ended, according to the lines so far.
    pub ending: Option<Ending>,
    last: VecDeque<String>,
    hidden: bool,
}

impl<'a> Screen<'a> {
    /// Everything goes to `file`, some to `out`.
    pub fn new(detail: Detail, file: File, out: &'a mut (dyn Write + Send)) -> Self {
        let hidden = detail != Detail::Verbose;
        Self {
            detail,
            file,
            out,
            line: Vec::new(),
            started: false,
            ending: None,
            last: VecDeque::new(),
            hidden,
        }
    }

    /// Processes output of the guest.
    ///
    /// # Errors
    /// When the file or the screen cannot be written.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (part, after) = rest.split_at(end + 1);
            self.show(part)?;
            self.line.extend_from_slice(part);
            self.end_of_line()?;
            rest = after;
        }
        self.show(rest)?;
        self.line.extend_from_slice(rest);
        if self.line.len() > MAX_LINE {
            self.end_of_line()?;
        }
        self.out.flush()
    }

    /// The last lines, for a guest that did not end normally.
    pub fn last_lines(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }

    /// Shows a part of a line as it arrives. With `--quiet`, a line that may be guest-init's is
    /// held until its end.
    fn show(&mut self, bytes: &[u8]) -> io::Result<()> {
        let may_be_ours = self.detail == Detail::Quiet && self.line.first().or(bytes.first()) == Some(&b'[');
        if (self.started && !may_be_ours) || self.detail == Detail::Verbose {
            self.out.write_all(bytes)
        } else {
            Ok(())
        }
    }

    fn end_of_line(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end_matches(['\r', '\n']);
        let told = told(line);
        let is_last = told.is_some();
        if let Some(told) = told {
            self.ending = Some(later(self.ending.take(), told));
        }
        let text = kernel_line(line).unwrap_or(line);
        let was_held = self.detail == Detail::Quiet && self.started && bytes.first() == Some(&b'[');
        if was_held && !text.starts_with("gpu-initrd: ") {
            self.out.write_all(&bytes)?;
        }
        if self.hidden && !self.started && self.detail == Detail::Normal && text.starts_with("gpu-initrd: ") {
            writeln!(self.out, "{line}")?;
        }
        // If guest-init is configured to be quiet, the program's first line is the only sign that
        // it runs.
        let is_program = kernel_line(line).is_none() && !line.is_empty();
        if is_program && !self.started && self.hidden {
            self.out.write_all(&bytes)?;
        }
        self.started |= is_program || STARTS.iter().any(|start| text.starts_with(start));
        // What follows is the kernel's.
        self.started &= !is_last;
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const CONSOLE: &str = "[    0.000000] Linux version 6.12\r\n[    1.2] gpu-initrd: config done after 3 ms\r\n\
        [    1.3] sd 0: a disk\r\n[    2.2] gpu-initrd: exec done after 9 ms\r\n$ [    3.3] Xid\r\nprompt> ";

    /// The output for a console that arrives in pieces of this size.
    fn shown(detail: Detail, pieces: usize) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let mut out = Vec::new();
        let mut screen = Screen::new(detail, File::create(&path).unwrap(), &mut out);
        for piece in CONSOLE.as_bytes().chunks(pieces) {
            screen.take(piece).unwrap();
        }
        assert!(screen.started && screen.ending.is_none());
        let mut all = String::new();
        File::open(path).unwrap().read_to_string(&mut all).unwrap();
        assert_eq!(all, CONSOLE);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn kernel_lines_are_only_in_the_file_until_the_program_runs() {
        let program = "$ [    3.3] Xid\r\nprompt> ";
        for pieces in [1, 7, 1000] {
            assert_eq!(shown(Detail::Quiet, pieces), program);
            let own =
                "[    1.2] gpu-initrd: config done after 3 ms\n[    2.2] gpu-initrd: exec done after 9 ms\n";
            assert_eq!(shown(Detail::Normal, pieces), format!("{own}{program}"));
            assert_eq!(shown(Detail::Verbose, pieces), CONSOLE);
        }
    }

    #[test]
    fn a_programs_first_line_is_shown_whatever_guest_init_said() {
        let mut out = Vec::new();
        let mut screen = Screen::new(Detail::Normal, tempfile::tempfile().unwrap(), &mut out);
        screen.take(b"[    0.1] kernel\r\n\r\nhello\r\nand more").unwrap();
        assert_eq!(out, b"hello\r\nand more");
    }

    #[test]
    fn quiet_is_quiet_about_guest_init_and_about_nothing_else() {
        let mut out = Vec::new();
        let mut screen = Screen::new(Detail::Quiet, tempfile::tempfile().unwrap(), &mut out);
        let console = "[    2.2] gpu-initrd: exec done after 9 ms\r\n[1, 2]\r\nx\r\n[    3.3] gpu-initrd: running done\r\ny";
        for byte in console.as_bytes() {
            screen.take(&[*byte]).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), "[1, 2]\r\nx\r\ny");
    }

    #[test]
    fn behind_the_last_line_the_kernels_are_in_the_file_alone() {
        let mut out = Vec::new();
        let mut screen = Screen::new(Detail::Normal, tempfile::tempfile().unwrap(), &mut out);
        let last = "[    2.1] gpu-initrd: powering off: the container ended: exit code 0; exit status 0\r\n";
        screen.take(format!("hello\r\n{last}[    2.2] reboot: Power down\r\n").as_bytes()).unwrap();
        assert_eq!(screen.ending.take().unwrap().code(), 0);
        assert_eq!(String::from_utf8(out).unwrap(), format!("hello\r\n{last}"));
    }

    #[test]
    fn a_line_without_an_end_costs_no_memory() {
        let mut out = Vec::new();
        let mut screen = Screen::new(Detail::Normal, tempfile::tempfile().unwrap(), &mut out);
        for _ in 0..1000 {
            screen.take(&[b'x'; 1000]).unwrap();
        }
        assert!(screen.line.len() <= MAX_LINE + 1000 && screen.last_lines().count() == LAST_LINES);
    }
}
