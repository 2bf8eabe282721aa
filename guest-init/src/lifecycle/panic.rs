//! Panics. Nothing unwinds: the panic hook parks the thread for ever, so that the process goes on, and another thread does what must
//! be done. The parked thread keeps its stack, its descriptors and its locks.
//!
//! A panic of a helper is a finding, and its work begins again ([`helper`]). A panic of any other thread of PID 1 is a panic of the
//! boot, and ends the guest as a failed boot does. A thread that panics with a lock blocks every other thread that needs the lock,
//! so the machine is ended at once, and only the kernel log has the reason. In the status keeper, a panic never ends the machine.

use super::shutdown::{self, Ending};
use super::{GuestTrouble, StopSwitch};
use crate::kernel::kmsg_writer;
use crate::locks::{self, Lock};
use crate::status::{Board, helper};
use image::config::Config;
use image::status::Code;
use std::cell::Cell;
use std::io;
use std::panic::{PanicHookInfo, set_hook};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Whether a thread ends the guest while another one may still boot it.
static ENDING: AtomicBool = AtomicBool::new(false);
/// Whether a thread carries out the end.
static HAS_BEGUN: AtomicBool = AtomicBool::new(false);
/// Whether a thread ends the machine at once after a panic.
static AT_ONCE: AtomicBool = AtomicBool::new(false);
/// The configuration of the boot, once it is known.
static CONFIG: Lock<Option<Arc<Config>>> = Lock::new(None);

thread_local! {
    /// Whether this thread ends the guest.
    static ENDS_HERE: Cell<bool> = const { Cell::new(false) };
}

/// From now on nothing starts any more.
pub fn begin_to_end() {
    ENDING.store(true, Ordering::Relaxed);
}

/// Returns only if no other thread ends the guest, since the shutdown would interrupt whatever starts now.
pub fn only_if_sound() {
    if ENDING.load(Ordering::Relaxed) {
        stay();
    }
}

/// Makes this thread the one that ends the guest. Returns only in the first one.
pub(super) fn end_here() {
    begin_to_end();
    if HAS_BEGUN.swap(true, Ordering::Relaxed) {
        stay();
    }
    helper::no_longer();
    ENDS_HERE.set(true);
}

/// Sets the configuration with which a panic ends the guest.
pub fn configure(config: &Config) {
    let config = Some(Arc::new(config.clone()));
    let previous = std::mem::replace(&mut *CONFIG.lock(), config);
    drop(previous);
}

/// Makes PID 1 survive panics of its helpers, and end the guest after any other panic.
pub fn end_on_panic(stop: &StopSwitch, board: &Board) {
    let (stop, board) = (stop.clone(), board.clone());
    set_hook(Box::new(move |info| {
        survive(&text(info), &stop, &board);
        stay();
    }));
}

/// Makes the status keeper only report panics: the machine belongs to the image's init, and the GPUs must stay open.
pub fn stay_on_panic(board: &Board) {
    let board = board.clone();
    set_hook(Box::new(move |info| {
        let text = text(info);
        if locks::is_held_here() || !helper::panicked_here(&text) {
            report(&text);
            let board = board.clone();
            // It waits for ever if this thread has locked the board.
            let _ = start(move || board.warn(trouble(&text)));
        }
        stay();
    }));
}

/// What PID 1 does after a panic.
#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    /// Restarts a helper, or ends the guest in order.
    Usual,
    /// Ends the machine without any lock.
    EndAtOnce,
    /// Ends the machine with the system call alone.
    Reboot,
    /// Only reports it: another thread ends the machine at once.
    Wait,
}

/// Decides what to do after a panic of a thread that holds a lock, or that ends the guest, and whether a thread ends the machine at
/// once.
fn reaction(holds_lock: bool, ends_here: bool, at_once: bool) -> Reaction {
    match (at_once, holds_lock || ends_here) {
        (false, false) => Reaction::Usual,
        (false, true) => Reaction::EndAtOnce,
        (true, _) if ends_here => Reaction::Reboot,
        (true, _) => Reaction::Wait,
    }
}

/// Does what must be done after a panic of this thread.
fn survive(text: &str, stop: &StopSwitch, board: &Board) {
    let (holds_lock, ends_here) = (locks::is_held_here(), ENDS_HERE.get());
    let reaction = reaction(holds_lock, ends_here, AT_ONCE.load(Ordering::Relaxed));
    if reaction == Reaction::Usual && helper::panicked_here(text) {
        return;
    }
    begin_to_end();
    report(text);
    match reaction {
        Reaction::Usual => {
            let (finding, stop, board) = (trouble(text).into(), stop.clone(), board.clone());
            let end = move || shutdown::end(Ending::Failed(Some(finding)), &stop, &board, &config());
            if start(end).is_ok() {
                return;
            }
        }
        Reaction::EndAtOnce => {}
        Reaction::Reboot => shutdown::reboot_only(config().on_failure),
        Reaction::Wait => return,
    }
    if AT_ONCE.swap(true, Ordering::Relaxed) {
        return;
    }
    let end = {
        let (reason, stop) = (format!("guest-init {text}"), stop.clone());
        move || {
            ENDS_HERE.set(true);
            shutdown::end_at_once(&reason, &stop, &config())
        }
    };
    if start(end.clone()).is_err() {
        end();
    }
}

fn start(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("panic".into()).spawn(work).map(drop)
}

/// Returns the configuration of the boot, or the default one until it is known.
fn config() -> Arc<Config> {
    CONFIG.lock().clone().unwrap_or_default()
}

/// Returns `panicked at FILE:LINE:COLUMN: MESSAGE`.
fn text(info: &PanicHookInfo) -> String {
    info.to_string().replace('\n', " ")
}

fn trouble(text: &str) -> GuestTrouble {
    GuestTrouble::Panic { text: format!("guest-init {text}") }
}

/// Reports a panic in the kernel log, directly, since it may have happened in the logger.
fn report(text: &str) {
    kmsg_writer::emergency(&format!("{}: guest-init {text}", Code::Internal.name()));
}

/// Parks this thread for ever.
pub(super) fn stay() -> ! {
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_with_a_lock_or_of_the_end_ends_the_machine_at_once() {
        for (holds_lock, ends_here, expected) in [
            (false, false, Reaction::Usual),
            (true, false, Reaction::EndAtOnce),
            (false, true, Reaction::EndAtOnce),
            (true, true, Reaction::EndAtOnce),
        ] {
            assert_eq!(reaction(holds_lock, ends_here, false), expected);
        }
    }

    #[test]
    fn a_second_panic_does_not_keep_the_machine_from_its_end() {
        for holds_lock in [false, true] {
            assert_eq!(reaction(holds_lock, true, true), Reaction::Reboot);
            assert_eq!(reaction(holds_lock, false, true), Reaction::Wait);
        }
    }
}
