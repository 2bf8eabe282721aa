//! QEMU takes the terminal into raw mode for its serial console. However it ends, the shell gets the terminal back.

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use std::io::stdin;

/// The state of the terminal on standard input, put back when dropped. Nothing, where there is no terminal.
#[derive(Clone)]
pub struct Terminal(Option<Termios>);

impl Terminal {
    /// Remembers the state.
    pub fn save() -> Self {
        Self(tcgetattr(stdin()).ok())
    }

    /// Puts it back.
    pub fn restore(&self) {
        if let Some(state) = &self.0 {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, state);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}
