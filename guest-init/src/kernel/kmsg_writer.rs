//! Writes guest-init's log to the kernel log. The driver's lines there are the evidence for most failures.

pub use super::kmsg_reader::{KernelLog, Line, Records};

use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{CombinedLogger, Config, SharedLogger};
use std::fs::OpenOptions;
use std::io::Write;

pub(super) const DEVICE: &str = "/dev/kmsg";
/// Prefix of guest-init's lines.
const NAME: &str = "gpu-initrd";
/// Console log level of the kernel, which hides debug lines by default.
const CONSOLE_LEVEL: &str = "/proc/sys/kernel/printk";
/// Maximum length of a record in bytes, with priority, name and newline; the kernel's limit is about 1 KB.
const MAX_RECORD: usize = 899;
/// Marks a truncated line.
const CUT: &str = "…";

/// Sends the `log` crate's messages to the kernel log, and so to the console.
pub fn start_logging(level: &str) {
    let level = level.parse().unwrap_or(LevelFilter::Info);
    // A second call fails and changes only the level.
    let _ = CombinedLogger::init(vec![Box::new(Kmsg)]);
    log::set_max_level(level);
    if level >= LevelFilter::Debug
        && let Err(error) = std::fs::write(CONSOLE_LEVEL, "8\n")
    {
        log::warn!("cannot print debug lines on the console: {CONSOLE_LEVEL}: {error}");
    }
}

/// Writes one line to the kernel log without the `log` crate, for a panic, which may have happened inside it.
pub fn emergency(text: &str) {
    write(&record(Level::Error, text));
}

/// Writes one record; errors are ignored. The device is opened for each record: the kernel limits each open file to ten lines
/// in five seconds, and disabling that limit would disable it for the container too.
fn write(record: &str) {
    if let Ok(mut device) = OpenOptions::new().write(true).open(DEVICE) {
        let _ = device.write_all(record.as_bytes());
    }
}

/// The logger: each line of a message is one record, with the level of the message.
struct Kmsg;

impl Log for Kmsg {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, message: &Record<'_>) {
        for line in message.args().to_string().lines() {
            write(&record(message.level(), line));
        }
    }

    fn flush(&self) {}
}

impl SharedLogger for Kmsg {
    fn level(&self) -> LevelFilter {
        LevelFilter::Trace
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

/// Returns `<priority>gpu-initrd: text`, with the kernel's number of the level (linux/kern_levels.h).
fn record(level: Level, text: &str) -> String {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
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
        assert_eq!(record(Level::Error, "no"), "<3>gpu-initrd: no\n");
        assert_eq!(record(Level::Info, "[ERROR] yes"), "<6>gpu-initrd: [ERROR] yes\n");
        let long = record(Level::Warn, &"ä".repeat(2000));
        assert!(
            (890..900).contains(&long.len()) && long.starts_with("<4>") && long.ends_with("ä…\n"),
            "{long}"
        );
    }
}
