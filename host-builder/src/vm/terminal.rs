//! The terminal that a guest's console is shown on. However that ends, the shell gets the terminal back.

use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::stdin;

/// The state of the terminal on standard input, put back when dropped. Nothing, where there is no terminal.
#[derive(Clone)]
pub struct Terminal(Option<Termios>);

impl Terminal {
    /// Remembers the state.
    pub fn save() -> Self {
        Self(tcgetattr(stdin()).ok())
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Gives what is typed to the guest as it is typed, Ctrl-C and all. What is printed keeps its line ends.
    pub fn raw(&self) {
        if let Some(mut state) = self.0.clone() {
            let output = state.output_flags;
            cfmakeraw(&mut state);
            state.output_flags = output | OutputFlags::OPOST | OutputFlags::ONLCR;
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, &state);
        }
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
