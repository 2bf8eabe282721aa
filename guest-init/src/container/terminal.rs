//! The container's pseudo-terminal. The program's output goes to the console and is kept for the host; input on the console
//! goes to the program.

use crate::locks::Lock;
use crate::status::{Board, helper};
use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Once};
use std::time::Duration;

const CONSOLE: &str = "/dev/console";
/// Maximum length of a line in bytes; longer lines are split.
const MAX_LINE: usize = 4096;
/// Maximum time to wait until the last output has reached the console.
const DRAIN: Duration = Duration::from_secs(2);

/// The terminal of the running program, which receives console input.
static TYPED: Lock<Option<Arc<PtyMaster>>> = Lock::new(None);
static CONSOLE_IS_READ: Once = Once::new();

/// PID 1's side of the terminal of one run.
pub struct Terminal {
    master: Arc<PtyMaster>,
    /// Prevents a hangup while the container has the terminal closed: a program may close its output and open it later.
    slave: OwnedFd,
}

impl Terminal {
    /// Opens a terminal of this size (rows, columns). Returns PID 1's and the container's side. Nothing is read from it yet.
    ///
    /// # Errors
    /// If the kernel does not support pseudo-terminals.
    pub fn open(size: Option<(u16, u16)>) -> io::Result<(Self, OwnedFd)> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave =
            File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(ptsname_r(&master)?)?;
        let kept = slave.try_clone()?.into();
        if let Some(Err(error)) = size.map(|size| set_size(&slave, size)) {
            log::warn!("cannot set the terminal size: {error}");
        }
        Ok((Self { master: Arc::new(master), slave: kept }, slave.into()))
    }

    /// Starts copying: output to the console and the board, console input to the program.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn follow(self, board: &Board) -> io::Result<Followed> {
        let (sender, drained) = channel();
        let (shared, output) = (board.clone(), self.master.clone());
        helper::start("output", board, move || {
            copy_output(&output, &shared);
            // The receiver may have timed out.
            let _ = sender.send(());
        })?;
        *TYPED.lock() = Some(self.master);
        CONSOLE_IS_READ.call_once(|| read_console(board));
        Ok(Followed { drained, slave: self.slave })
    }
}

/// Sets the size of a terminal: rows, columns. Its programs receive SIGWINCH if it changes.
///
/// # Errors
/// If it is not a terminal.
pub fn set_size(terminal: &impl AsRawFd, (ws_row, ws_col): (u16, u16)) -> io::Result<()> {
    let size = libc::winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and the kernel reads one structure of this type, which lives on.
    nix::Error::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// A terminal that is being copied.
pub struct Followed {
    drained: Receiver<()>,
    slave: OwnedFd,
}

impl Followed {
    /// Waits until all output has reached the console. The container's processes have ended already.
    pub fn finish(self) {
        drop(self.slave);
        *TYPED.lock() = None;
        if self.drained.recv_timeout(DRAIN).is_err() {
            log::warn!("the console did not accept the container's output within {} s", DRAIN.as_secs());
        }
    }
}

/// Copies until no process has the container's side open any longer, when the kernel returns EIO.
fn copy_output(mut master: &PtyMaster, board: &Board) {
    let mut console = File::options().write(true).open(CONSOLE).ok();
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    loop {
        match master.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                // The board first, so that a slow console does not delay it.
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
    // Otherwise the kernel's next line would continue the last one.
    if let Some(console) = &console {
        let _ = tcdrain(console);
    }
}

/// Starts to forward console input. The console becomes raw: the container's terminal handles line editing and signals.
fn read_console(board: &Board) {
    let Ok(console) = File::options().read(true).open(CONSOLE) else { return };
    if let Ok(mut settings) = tcgetattr(&console) {
        cfmakeraw(&mut settings);
        let _ = tcsetattr(&console, SetArg::TCSANOW, &settings);
    }
    let read = helper::start("input", board, move || {
        let mut buffer = [0; 256];
        loop {
            match (&console).read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    let typed = TYPED.lock().clone();
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

/// Splits bytes into lines.
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

    /// Emits the rest without a line end as a line.
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
