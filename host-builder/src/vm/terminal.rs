//! The terminal that shows a guest's console, or a command in a guest. Its state is always restored at the end.

use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::stdin;

/// The state of the terminal on standard input, restored on drop. Empty if there is no terminal.
#[derive(Clone)]
pub struct Terminal(Option<Termios>);

impl Terminal {
    /// Saves the state.
    pub fn save() -> Self {
        Self(tcgetattr(stdin()).ok())
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Passes typed characters to the guest unbuffered, including Ctrl-C. Printed lines keep their line ends.
    pub fn raw(&self) {
        self.make_raw(|before| before | OutputFlags::OPOST | OutputFlags::ONLCR);
    }

    /// [`Terminal::raw`], where the other side ends its lines as a terminal does.
    pub fn raw_for_a_remote_terminal(&self) {
        self.make_raw(|before| before - OutputFlags::OPOST);
    }

    /// Makes input raw. `output` maps the output flags.
    fn make_raw(&self, output: impl FnOnce(OutputFlags) -> OutputFlags) {
        if let Some(mut state) = self.0.clone() {
            let before = state.output_flags;
            cfmakeraw(&mut state);
            state.output_flags = output(before);
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, &state);
        }
    }

    /// Restores the state.
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
