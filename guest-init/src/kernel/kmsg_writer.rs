//! Writes guest-init's log to the kernel log. The driver's lines there are the evidence for most failures.

pub use super::kmsg_reader::{KernelLog, Line, Records};

use simplelog::{ConfigBuilder, LevelFilter, WriteLogger};
use std::fs::OpenOptions;
use std::io::{self, LineWriter, Write};

pub(super) const DEVICE: &str = "/dev/kmsg";
/// Prefix of guest-init's lines.
const NAME: &str = "gpu-initrd";
/// Console log level of the kernel, which hides debug lines by default.
const CONSOLE_LEVEL: &str = "/proc/sys/kernel/printk";
/// Maximum length of a record in bytes, with priority, name and newline; the kernel's limit is about 1 KB.
const MAX_RECORD: usize = 899;
/// Maximum length of a message in bytes that arrives as a whole; the logger writes longer ones in parts.
const MAX_LINE: usize = 64 << 10;
/// Marks a truncated line.
const CUT: &str = "…";

/// Sends the `log` crate's messages to the kernel log, and so to the console.
pub fn start_logging(level: &str) {
    let level = level.parse().unwrap_or(LevelFilter::Info);
    let config = ConfigBuilder::new()
        .set_time_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    // A second call fails and changes only the level.
    let _ = WriteLogger::init(LevelFilter::Trace, config, LineWriter::with_capacity(MAX_LINE, Kmsg));
    log::set_max_level(level);
    if level >= LevelFilter::Debug
        && let Err(error) = std::fs::write(CONSOLE_LEVEL, "8\n")
    {
        log::warn!("cannot print debug lines on the console: {CONSOLE_LEVEL}: {error}");
    }
}

/// Writes one line to the kernel log without the `log` crate, for a panic, which may have happened inside it.
pub fn emergency(text: &str) {
    write(&record(&format!("[ERROR] {text}")));
}

/// Writes one record; errors are ignored. The device is opened for each record: the kernel limits each open file to ten lines
/// in five seconds, and disabling that limit would disable it for the container too.
fn write(record: &str) {
    if let Ok(mut device) = OpenOptions::new().write(true).open(DEVICE) {
        let _ = device.write_all(record.as_bytes());
    }
}

struct Kmsg;

impl Write for Kmsg {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in String::from_utf8_lossy(bytes).lines() {
            write(&record(line));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Converts simplelog's `[LEVEL] text` to `<priority>gpu-initrd: text`.
fn record(line: &str) -> String {
    let (level, text) =
        line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).unwrap_or(("INFO", line));
    let priority = match level.trim() {
        "ERROR" => 3,
        "WARN" => 4,
        "INFO" => 6,
        _ => 7,
    };
    let start = format!("<{priority}>{NAME}: ");
    let most = MAX_RECORD - start.len() - 1;
    if text.len() <= most {
        return format!("{start}{text}\n");
    }
    let mut end = most - CUT.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{start}{}{CUT}\n", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_priority_name_and_bounded_text() {
        assert_eq!(record("[ERROR] no\n"), "<3>gpu-initrd: no\n\n");
        assert_eq!(record("[INFO] yes"), "<6>gpu-initrd: yes\n");
        let long = record(&format!("[WARN] {}", "ä".repeat(2000)));
        assert!((890..900).contains(&long.len()) && long.ends_with("ä…\n"), "{long}");
    }
}
