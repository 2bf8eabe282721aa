//! Runs apt, follows its progress, and turns its error messages into errors with remedies.

use crate::common::error::{Doing, Error, Result};
use crate::common::interrupt;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// The remedy if the archive no longer has a locked package.
pub const RE_RESOLVE: &str = "the archive has moved on; resolve again: build-initrd --update-lock";
/// Longest time for an operation of apt on local files.
pub const LOCAL: Duration = Duration::from_mins(10);
/// Longest time for updating the package lists.
pub const LISTS: Duration = Duration::from_mins(20);
/// Minimum average speed in bytes per second; a slower archive counts as stalled.
const LEAST: u64 = 16 << 10;

/// Longest time for downloading `bytes`.
pub fn longest(bytes: u64) -> Duration {
    LOCAL + Duration::from_secs(bytes / LEAST)
}

/// Runs apt to completion, for at most `longest`. `progress` receives the percentage that apt
/// reports on its status descriptor.
pub fn run(
    command: &mut Command,
    what: &str,
    longest: Duration,
    progress: &mut dyn FnMut(u64),
) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (status_read, status_write) = std::io::pipe().doing("making a pipe for", Path::new(&program))?;
    let errors = tempfile::tempfile().doing("creating a temporary file for", Path::new(&program))?;
    // apt inherits the pipe's descriptor, so close-on-exec must be off for it.
    let number = status_write.as_raw_fd();
    nix::fcntl::fcntl(&status_write, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
        .map_err(|error| Error::new("preparing apt's status pipe").source(error))?;
    let stderr = errors.try_clone().doing("preparing the output of", Path::new(&program))?;
    command.args(["-o", &format!("APT::Status-Fd={number}")]);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = command.spawn().map_err(|error| {
        Error::new(format!("{what}: cannot run {program}"))
            .source(error)
            .hint("apt is needed: run this on Debian")
    })?;
    let _killed = interrupt::kills(&child);
    drop(status_write);
    let mut stdout = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let group = Pid::from_raw(child.id().cast_signed());
    let (done, ended) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = ended.recv_timeout(longest) == Err(RecvTimeoutError::Timeout);
        if late {
            let _ = killpg(group, Signal::SIGKILL);
        }
        late
    });
    for line in BufReader::new(status_read).lines().map_while(std::result::Result::ok) {
        if let Some(percent) = parse_status_line(&line) {
            progress(percent);
        }
    }
    let status = child.wait().doing("waiting for", Path::new(&program))?;
    drop(done);
    if watchdog.join().expect("the watchdog does not panic") {
        let seconds = longest.as_secs_f64();
        return Err(Error::new(format!("{what}: {program} did not finish within {seconds:.0} s"))
            .hint("use another mirror in the machine's apt sources; completed downloads are kept"));
    }
    let output = reader
        .join()
        .expect("the reader does not panic")
        .doing("reading the output of", Path::new(&program))?;
    if status.success() {
        return Ok(output);
    }
    Err(failure(what, &read_back(errors)))
}

fn read_back(mut file: fs::File) -> String {
    use std::io::Seek;
    let mut text = String::new();
    let _ = file.rewind();
    let _ = file.take(64 << 10).read_to_string(&mut text);
    text
}

/// Turns the error messages of apt into an error with a remedy.
fn failure(what: &str, stderr: &str) -> Error {
    let lines: Vec<_> =
        stderr.lines().filter(|line| line.starts_with("E:")).map(|line| line[2..].trim()).collect();
    let text = if lines.is_empty() { stderr.trim().to_owned() } else { lines.join("; ") };
    let text: String = text.chars().take(800).collect();
    let has = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
    // apt also says "failed to fetch" if it could not write.
    let hint = if has(&["No space"]) {
        "free some space in the cache directory, or set GPU_INITRD_CACHE to another place"
    } else if has(&["Mirror sync in progress"]) {
        "the mirror is being updated: try again in a few minutes, or use another mirror"
    } else if has(&["was not found", "Unable to locate", "has no installation candidate", "404"]) {
        RE_RESOLVE
    } else if has(&["resolve", "connect", "Network", "timed out", "Failed to fetch"]) {
        "check the network and the machine's apt sources; completed downloads are kept"
    } else if has(&["NO_PUBKEY", "not signed", "GPG"]) {
        "install the archive's keys (package debian-archive-keyring, or ubuntu-keyring for Ubuntu) in their current version; a profile with [apt] uri names them in signed_by"
    } else {
        "run the machine's own apt for more details"
    };
    Error::new(format!("{what} failed: {text}")).hint(hint)
}

/// `dlstatus:1:20.0:Retrieving …` or `pmstatus:…`
fn parse_status_line(line: &str) -> Option<u64> {
    let percent: f64 = line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(percent.clamp(0.0, 100.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_apt_get_a_remedy() {
        let gone = failure("x", "E: Version '9' for 'libcuda1' was not found\n");
        assert!(gone.remedy().unwrap().contains("--update-lock"));
        let offline = failure("x", "Err: Temporary failure resolving 'a.test'\nE: Failed to fetch\n");
        assert!(offline.remedy().unwrap().contains("network"));
        let syncing = failure(
            "x",
            "E: Failed to fetch http://a.test/P.xz  File has unexpected size. Mirror sync in progress?\n",
        );
        assert!(syncing.remedy().unwrap().contains("a few minutes"));
        let full = failure(
            "x",
            "E: Failed to fetch http://a.test/b.deb  Error writing to file - write (28: No space left on device)\n",
        );
        assert!(full.remedy().unwrap().contains("free some space"));
    }

    /// Replaces apt with a program that sends nothing and does not end; it ignores the options that
    /// apt receives.
    #[test]
    fn program_that_does_not_end_is_killed_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000; true"]);
        let error = run(&mut command, "waiting", Duration::from_millis(300), &mut |_| {}).unwrap_err();
        assert!(error.to_string().starts_with("waiting: sh did not finish within 0 s"), "{error}");
        assert!(error.remedy().unwrap().contains("another mirror"));
    }

    #[test]
    fn progress_is_read_from_the_status_descriptor() {
        assert_eq!(parse_status_line("dlstatus:3:42.9:Retrieving file 3 of 9"), Some(42));
        assert_eq!(parse_status_line("pmstatus:x"), None);
    }
}
