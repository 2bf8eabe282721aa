//! Reads the kernel log: lines as evidence, records for the host, new lines for the kernel log monitor.

use super::kmsg_writer::DEVICE;
use image::event::{LogLine, Logs};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

/// Buffer size in bytes. The kernel refuses reads shorter than a record.
const RECORD: usize = 8192;
/// Maximum number of lines per read.
const MAX_LINES: usize = 400;

/// Facility of the kernel's own records. Programs cannot write into the log under it (devkmsg_write in kernel/printk/printk.c).
const KERNEL: u64 = 0;

/// A line of the kernel log.
#[derive(Debug)]
pub struct Line {
    /// Whether it is the first line of its record. The kernel prints names that programs choose, which may contain newlines.
    pub first: bool,
    /// Its text.
    pub text: String,
}

/// A position in the kernel log, which returns the lines after it.
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// Begins at the end of the log.
    pub fn here() -> Self {
        Self(open().and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file)).ok())
    }

    /// Waits for lines, at most until `deadline`.
    pub fn wait(&self, deadline: Instant) {
        match &self.0 {
            Some(file) => drop(wait(file, deadline)),
            None => std::thread::sleep(deadline.saturating_duration_since(Instant::now())),
        }
    }

    /// Returns the first lines of the whole log that contain `text`.
    pub fn all_with(text: &str) -> Vec<String> {
        let log = Self(open().ok());
        let mut found = Vec::new();
        loop {
            let lines = log.lines();
            let end = lines.len() < MAX_LINES;
            found.extend(lines.into_iter().filter(|line| line.contains(text)));
            if end || found.len() >= MAX_LINES {
                return found;
            }
        }
    }

    /// Returns the text of kernel lines since the last call.
    pub fn lines(&self) -> Vec<String> {
        self.new_lines().into_iter().map(|line| line.text).collect()
    }

    /// Returns the kernel's lines since the last call, without lines that programs wrote to the log.
    pub fn new_lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let Some(file) = &self.0 else { return lines };
        while lines.len() < MAX_LINES
            && let Some(record) = next(file)
        {
            if record.facility == KERNEL {
                lines.extend(record.lines().enumerate().map(|(at, text)| Line { first: at == 0, text }));
            }
        }
        lines
    }
}

/// The kernel log from a record on, for the host. Only the kernel's bounded buffer stores it.
pub struct Records {
    file: Option<File>,
    next: u64,
    lost: u64,
    begun: bool,
}

impl Records {
    /// Begins at the record with this number.
    pub fn from(number: u64) -> Self {
        Self { file: open().ok(), next: number, lost: 0, begun: false }
    }

    /// Returns new records; waits for them until `deadline`.
    pub fn read(&mut self, deadline: Instant) -> Logs {
        let mut lines = Vec::new();
        loop {
            while lines.len() < MAX_LINES
                && let Some(record) = self.file.as_ref().and_then(next)
            {
                if record.sequence < self.next {
                    continue;
                }
                if !std::mem::replace(&mut self.begun, true) {
                    self.lost = record.sequence - self.next;
                }
                self.next = record.sequence + 1;
                let (sequence, at_ms, level) = (record.sequence, record.at_ms, Some(record.level));
                lines.extend(record.lines().map(|text| LogLine { sequence, at_ms, level, text }));
            }
            let over = Instant::now() >= deadline;
            if over || !lines.is_empty() || !self.file.as_ref().is_some_and(|file| wait(file, deadline)) {
                return Logs { lines, next: self.next, lost: self.lost };
            }
        }
    }
}

/// Waits until the file is readable.
fn wait(file: &File, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)
}

/// Reads the next record, if there is one.
fn next(mut file: &File) -> Option<Record> {
    let mut buffer = vec![0; RECORD];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return None,
            Ok(length) => return Some(Record::parse(&buffer[..length])),
            // EPIPE: older records were overwritten; the next read continues after them.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return None,
        }
    }
}

/// A record of `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg): `priority,sequence,microseconds,flags;text`, then lines
/// `key=value`.
struct Record {
    level: u8,
    facility: u64,
    sequence: u64,
    at_ms: u64,
    text: String,
}

impl Record {
    fn parse(bytes: &[u8]) -> Self {
        let whole = String::from_utf8_lossy(bytes);
        let (head, rest) = whole.split_once(';').unwrap_or_default();
        let mut fields = head.split(',').map(|field| field.parse::<u64>().unwrap_or_default());
        let mut field = || fields.next().unwrap_or_default();
        let (priority, sequence, at_us) = (field(), field(), field());
        let text = rest.lines().next().unwrap_or_default().to_owned();
        Self { level: (priority & 7) as u8, facility: priority >> 3, sequence, at_ms: at_us / 1000, text }
    }

    /// Returns the lines of the record. The kernel escapes newlines as `\x0a`, like every other non-printable byte.
    fn lines(&self) -> impl Iterator<Item = String> {
        let lines = self.text.split("\\x0a").map(|line| line.replace("\\x5c", "\\"));
        lines.filter(|line| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_record_are_taken() {
        let lines = |bytes: &[u8]| Record::parse(bytes).lines().collect::<Vec<_>>();
        assert_eq!(lines(b"6,339,5140900,-;NVRM: x\n SUBSYSTEM=pci\n"), ["NVRM: x"]);
        assert_eq!(lines(b"6,339,5140900,-;NVRM: a\\x0aNVRM: b\\x5c\n"), ["NVRM: a", "NVRM: b\\"]);
        assert!(lines(b"garbage").is_empty());
    }

    #[test]
    fn a_record_has_level_number_and_time() {
        let record = Record::parse(b"30,339,5140900,-;x\n");
        assert_eq!((record.level, record.facility, record.sequence, record.at_ms), (6, 3, 339, 5140));
    }
}
