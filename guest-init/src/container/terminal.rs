//! The container's terminal: a pseudo-terminal of its own. What the program writes goes to the console and is kept for the
//! host; what is typed on the console goes to the program.

use crate::status::Board;
use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

const CONSOLE: &str = "/dev/console";
/// A line is cut where it is longer, bytes.
const MAX_LINE: usize = 4096;
/// Longest wait for the last of the output to reach the console.
const DRAIN: Duration = Duration::from_secs(2);

/// Where typing goes: the terminal of the program that runs now.
static TYPED: Mutex<Option<Arc<PtyMaster>>> = Mutex::new(None);
static CONSOLE_IS_READ: Once = Once::new();

/// One run's terminal, PID 1's side.
pub struct Terminal {
    master: Arc<PtyMaster>,
    /// Keeps it from hanging up while the container has it closed: who closes its output may open the console later.
    slave: OwnedFd,
}

impl Terminal {
    /// A new one of this size, rows and columns, and the container's side of it. Nothing is read from it yet.
    ///
    /// # Errors
    /// When the kernel has no pseudo-terminals.
    pub fn open(size: Option<(u16, u16)>) -> io::Result<(Self, OwnedFd)> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave =
            File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(ptsname_r(&master)?)?;
        let kept = slave.try_clone()?.into();
        if let Some((ws_row, ws_col)) = size {
            let size = libc::winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
            // SAFETY: the descriptor is open, and the kernel reads one structure of this type, which lives on.
            let set = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
            if set != 0 {
                log::warn!("cannot set the terminal size: {}", io::Error::last_os_error());
            }
        }
        Ok((Self { master: Arc::new(master), slave: kept }, slave.into()))
    }

    /// Begins to copy: output to the console and the board, typing to the program.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn follow(self, board: &Board) -> io::Result<Followed> {
        let (sender, drained) = channel();
        let (board, output) = (board.clone(), self.master.clone());
        std::thread::Builder::new().name("output".into()).spawn(move || {
            copy_output(&output, &board);
            // Whoever waited for it may have given up.
            let _ = sender.send(());
        })?;
        *TYPED.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.master);
        CONSOLE_IS_READ.call_once(read_console);
        Ok(Followed { drained, slave: self.slave })
    }
}

/// A terminal that is being copied.
pub struct Followed {
    drained: Receiver<()>,
    slave: OwnedFd,
}

impl Followed {
    /// Waits until all that was written has reached the console; the container's processes have ended.
    pub fn finish(self) {
        drop(self.slave);
        *TYPED.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if self.drained.recv_timeout(DRAIN).is_err() {
            log::warn!("the console did not accept the container's output within {} s", DRAIN.as_secs());
        }
    }
}

/// Until nobody has the container's side open any more: the kernel says EIO then.
fn copy_output(mut master: &PtyMaster, board: &Board) {
    let mut console = File::options().write(true).open(CONSOLE).ok();
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    loop {
        match master.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                // The board first: a slow console must not hold it up.
                lines.take(&buffer[..length], |line| board.output(line));
                if let Some(console) = &mut console {
                    let _ = console.write_all(&buffer[..length]);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    lines.end(|line| board.output(line));
    // Or the kernel's next line would come into the middle of the last one.
    if let Some(console) = &console {
        let _ = tcdrain(console);
    }
}

/// Starts to pass on what is typed. The console becomes raw: the container's terminal does the editing and the signals.
fn read_console() {
    let Ok(mut console) = File::options().read(true).open(CONSOLE) else { return };
    if let Ok(mut settings) = tcgetattr(&console) {
        cfmakeraw(&mut settings);
        let _ = tcsetattr(&console, SetArg::TCSANOW, &settings);
    }
    let read = std::thread::Builder::new().name("input".into()).spawn(move || {
        let mut buffer = [0; 256];
        loop {
            match console.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    let typed = TYPED.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    if let Some(master) = typed {
                        let _ = (&*master).write_all(&buffer[..length]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    if let Err(error) = read {
        log::warn!("cannot read the console's input: {error}");
    }
}

/// Bytes into lines.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], mut line: impl FnMut(String)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") || self.begun.len() >= MAX_LINE {
                self.end(&mut line);
            }
        }
    }

    /// What has no line end is a line, too.
    fn end(&mut self, mut line: impl FnMut(String)) {
        let bytes = std::mem::take(&mut self.begun);
        if bytes.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        line(text.trim_end_matches(['\n', '\r']).to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for part in parts {
            lines.take(part, |line| found.push(line));
        }
        lines.end(|line| found.push(line));
        found
    }

    #[test]
    fn bytes_become_lines_wherever_they_are_cut() {
        assert_eq!(lines(&[b"a\r\nb", b"c\r", b"\n\r\nd"]), ["a", "bc", "", "d"]);
        assert_eq!(lines(&[b"\xff\n"]), ["\u{fffd}"]);
        let long = vec![b'x'; 3 * MAX_LINE];
        assert!(lines(&[&long]).iter().all(|line| line.len() <= 3 * MAX_LINE));
        assert_eq!(lines(&[]), Vec::<String>::new());
    }

    #[test]
    fn what_a_program_writes_is_on_the_board_when_it_has_ended() {
        let board = Board::new("k".into());
        let (terminal, slave) = Terminal::open(Some((24, 80))).expect("the kernel has pseudo-terminals");
        let path = ptsname_r(&terminal.master).unwrap();
        let mut slave = File::from(slave);
        slave.write_all(b"one\ntwo\n").unwrap();
        let followed = terminal.follow(&board).unwrap();
        let lines = |count| {
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            let read =
                || board.lines(0, deadline).lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
            while read().len() < count && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            read()
        };
        // Closed by everybody, and opened again.
        drop(slave);
        assert_eq!(lines(2), ["one", "two"]);
        File::options()
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(path)
            .unwrap()
            .write_all(b"three")
            .unwrap();
        followed.finish();
        assert_eq!(lines(3), ["one", "two", "three"]);
    }
}
