//! The kernel's log: ours goes into it, and the driver's lines in it are the evidence of most failures.

use simplelog::{ConfigBuilder, LevelFilter, WriteLogger};
use std::fs::{File, OpenOptions};
use std::io::{self, LineWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

const DEVICE: &str = "/dev/kmsg";
/// Whether programs may write as much as they want into the log.
const RATE_LIMIT: &str = "/proc/sys/kernel/printk_devkmsg";
/// A record holds about 1 KB; what is longer is cut.
const MAX_LINE: usize = 900;
/// The kernel refuses reads into less than one record.
const RECORD: usize = 8192;
/// Lines that one reading returns at most.
const MAX_LINES: usize = 400;

/// Sends the `log` crate's messages to the kernel log, and so to the console.
pub fn start_logging(level: &str) {
    // Left alone, the kernel drops what comes faster than ten lines in five seconds. It takes the word only as a line.
    if let Err(error) = std::fs::write(RATE_LIMIT, "on\n") {
        emergency(&format!("lines of this log may be dropped: {RATE_LIMIT}: {error}"));
    }
    let level = level.parse().unwrap_or(LevelFilter::Info);
    let config = ConfigBuilder::new()
        .set_time_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    if let Ok(device) = OpenOptions::new().write(true).open(DEVICE) {
        // A second call fails and changes nothing but the level.
        let _ = WriteLogger::init(LevelFilter::Trace, config, LineWriter::new(Kmsg(device)));
    }
    log::set_max_level(level);
}

/// One line to the kernel log, past the `log` crate: for a panic, which may happen inside it.
pub fn emergency(text: &str) {
    if let Ok(mut device) = OpenOptions::new().write(true).open(DEVICE) {
        let _ = device.write_all(record(&format!("[ERROR] {text}")).as_bytes());
    }
}

struct Kmsg(File);

impl Write for Kmsg {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in String::from_utf8_lossy(bytes).lines() {
            // One write is one record. A full log is no reason to stop.
            let _ = self.0.write(record(line).as_bytes());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `<priority>gpu-initrd: text`, from simplelog's `[LEVEL] text`.
fn record(line: &str) -> String {
    let (level, text) =
        line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).unwrap_or(("INFO", line));
    let priority = match level.trim() {
        "ERROR" => 3,
        "WARN" => 4,
        "INFO" => 6,
        _ => 7,
    };
    let mut end = text.len().min(MAX_LINE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("<{priority}>gpu-initrd: {}\n", &text[..end])
}

/// A position in the kernel log: gives the lines that came after it.
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// From now on.
    pub fn here() -> Self {
        Self(open().and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file)).ok())
    }

    /// The first lines of the whole log that contain `text`.
    pub fn all_with(text: &str) -> Vec<String> {
        let mut log = Self(open().ok());
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

    /// Lines that are new since the last call, without our own; text only.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(file) = &mut self.0 else { return lines };
        let mut buffer = vec![0; RECORD];
        while lines.len() < MAX_LINES {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => lines.extend(lines_of(&buffer[..length])),
                // EPIPE: older records were overwritten; the next read goes on behind them.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        lines
    }
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)
}

/// The lines of a record `priority,sequence,time,flags;text\n key=value…`. A record may hold several: the kernel writes
/// the line ends between them as `\x0a`, as it does with every other byte that is no text.
fn lines_of(record: &[u8]) -> Vec<String> {
    let record = String::from_utf8_lossy(record);
    let text = record.split_once(';').and_then(|(_, rest)| rest.lines().next()).unwrap_or_default();
    if text.starts_with("gpu-initrd: ") {
        return Vec::new();
    }
    let lines = text.split("\\x0a").map(|line| line.replace("\\x5c", "\\"));
    lines.filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_priority_name_and_bounded_text() {
        assert_eq!(record("[ERROR] no\n"), "<3>gpu-initrd: no\n\n");
        assert_eq!(record("[INFO] yes"), "<6>gpu-initrd: yes\n");
        assert!(record(&format!("[WARN] {}", "ä".repeat(2000))).len() < 1000);
    }

    #[test]
    fn the_lines_of_a_record_are_taken_and_our_own_left_out() {
        assert_eq!(lines_of(b"6,339,5140900,-;NVRM: x\n SUBSYSTEM=pci\n"), ["NVRM: x"]);
        assert_eq!(lines_of(b"6,339,5140900,-;NVRM: a\\x0aNVRM: b\\x5c\n"), ["NVRM: a", "NVRM: b\\"]);
        assert!(lines_of(b"6,339,5140900,-;gpu-initrd: x\n").is_empty());
        assert!(lines_of(b"garbage").is_empty());
    }
}
