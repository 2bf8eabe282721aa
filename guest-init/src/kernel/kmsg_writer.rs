//! The kernel's log: ours goes into it, and the driver's lines in it are the evidence of most failures.

pub use super::kmsg_reader::{KernelLog, Line, Records};

use simplelog::{ConfigBuilder, LevelFilter, WriteLogger};
use std::fs::OpenOptions;
use std::io::{self, LineWriter, Write};

pub(super) const DEVICE: &str = "/dev/kmsg";
/// What our own lines begin with.
const NAME: &str = "gpu-initrd";
/// Lines of lower priority than this number do not reach the console, and of debug lines the kernel shows none by default.
const CONSOLE_LEVEL: &str = "/proc/sys/kernel/printk";
/// A record with its priority, name and newline is not longer, bytes; the kernel's own bound is about 1 KB.
const MAX_RECORD: usize = 899;
/// A message is written in parts, and only one that is longer than this reaches us in parts, too, bytes.
const MAX_LINE: usize = 64 << 10;
/// Where a line was cut.
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
    // A second call fails and changes nothing but the level.
    let _ = WriteLogger::init(LevelFilter::Trace, config, LineWriter::with_capacity(MAX_LINE, Kmsg));
    log::set_max_level(level);
    if level >= LevelFilter::Debug
        && let Err(error) = std::fs::write(CONSOLE_LEVEL, "8\n")
    {
        log::warn!("cannot print debug lines on the console: {CONSOLE_LEVEL}: {error}");
    }
}

/// One line to the kernel log, past the `log` crate: for a panic, which may happen inside it.
pub fn emergency(text: &str) {
    write(&record(&format!("[ERROR] {text}")));
}

/// One write is one record. A full log is no reason to stop. The device is opened for each: the kernel drops what comes faster
/// than ten lines in five seconds through one opening, and lifting that for us would lift it for the container, too.
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
