//! A panic of PID 1: said everywhere, and the machine ends in order.

use super::shutdown::end_machine;
use crate::kernel::kmsg_writer;
use crate::status::{self, Board};
use image::config::PowerAction;
use image::status::Code;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the status of a panic can be asked for.
const PANIC_LINGER: Duration = Duration::from_secs(10);

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Comes back only while no thread has panicked: what would start now would be ended in the middle.
pub fn only_if_sound() {
    while PANICKED.load(Ordering::Relaxed) {
        std::thread::sleep(PANIC_LINGER);
    }
}

/// Makes a panic of any thread say why, in the log and on the board, and end the machine in order.
pub fn on_panic(board: &Board) {
    let board = board.clone();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, Ordering::Relaxed);
        let text = format!("guest-init panicked: {info}").replace('\n', " ");
        kmsg_writer::emergency(&format!("{}: {text}", Code::Internal.name()));
        // In a thread of its own: the panicking one may hold the board's lock.
        let (board, told) = (board.clone(), text.clone());
        let _ = std::thread::Builder::new().spawn(move || panicked(told, &board));
        std::thread::sleep(PANIC_LINGER);
        kmsg_writer::emergency(&format!("powering off: {text}; exit status 1"));
        end_machine(PowerAction::Off);
    }));
}

/// Puts a panic on the board, whose log already has it: the kernel's, since the panic may have happened inside our own.
fn panicked(text: String, board: &Board) {
    let hint = "report this defect in guest-init, with the kernel log";
    board.fatal(status::error(Code::Internal, text, hint));
    board.fail();
}
