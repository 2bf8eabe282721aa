//! Handles a panic of PID 1: reports it everywhere, and shuts the guest down in order.

use super::GuestTrouble;
use super::shutdown::end_machine;
use crate::kernel::kmsg_writer;
use crate::status::Board;
use image::config::PowerAction;
use image::status::Code;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the status server answers after a panic.
const PANIC_LINGER: Duration = Duration::from_secs(10);

/// Whether a thread ends the guest while another one may still boot it.
static ENDING: AtomicBool = AtomicBool::new(false);

/// From now on nothing starts any more.
pub fn begin_to_end() {
    ENDING.store(true, Ordering::Relaxed);
}

/// Returns only if no other thread ends the guest, since the shutdown would interrupt whatever starts now.
pub fn only_if_sound() {
    while ENDING.load(Ordering::Relaxed) {
        std::thread::sleep(PANIC_LINGER);
    }
}

/// Makes a panic of any thread report itself in the log and on the board, and shut the guest down in order.
pub fn on_panic(board: &Board) {
    let board = board.clone();
    std::panic::set_hook(Box::new(move |info| {
        begin_to_end();
        let text = format!("guest-init panicked: {info}").replace('\n', " ");
        kmsg_writer::emergency(&format!("{}: {text}", Code::Internal.name()));
        // In a separate thread: the panicking one may hold the lock of the board.
        let (board, told) = (board.clone(), text.clone());
        let _ = std::thread::Builder::new().spawn(move || panicked(told, &board));
        std::thread::sleep(PANIC_LINGER);
        kmsg_writer::emergency(&format!("powering off: {text}; exit status 1"));
        end_machine(PowerAction::Off);
    }));
}

/// Reports a panic on the board. The kernel log has it already, written directly, since the panic may have happened in the
/// logger.
fn panicked(text: String, board: &Board) {
    board.fatal(GuestTrouble::Panic { text });
    board.fail();
}
