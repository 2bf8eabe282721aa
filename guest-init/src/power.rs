//! The end: nothing leaves PID 1 but through here.

use crate::report::Board;
use crate::{finish, kmsg};
use image::config::PowerAction;
use image::layout;
use image::status::Code;
use nix::mount::umount;
use nix::sys::reboot::{RebootMode, reboot};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the status of a panic can be asked for.
const PANIC_LINGER: Duration = Duration::from_secs(10);

/// Writes everything to the disks and ends the machine.
pub fn end(action: PowerAction) -> ! {
    // A disk that took the container's writes must not need its journal at the next boot.
    for path in [layout::ROOT_MERGED, layout::ROOT_SCRATCH, layout::ROOT_LOWER] {
        match umount(path) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => log::warn!("unmounting {path}: {errno}"),
        }
    }
    nix::unistd::sync();
    let mode = match action {
        PowerAction::Off => RebootMode::RB_POWER_OFF,
        PowerAction::Reboot => RebootMode::RB_AUTOBOOT,
    };
    let result = reboot(mode);
    kmsg::emergency(&format!("the machine could not be ended: {result:?}"));
    loop {
        std::thread::sleep(Duration::from_hours(1));
    }
}

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
        kmsg::emergency(&format!("{}: {text}", Code::Internal.name()));
        // In a thread of its own: the panicking one may hold the board's lock.
        let (board, told) = (board.clone(), text.clone());
        let _ = std::thread::Builder::new().spawn(move || finish::panicked(told, &board));
        std::thread::sleep(PANIC_LINGER);
        kmsg::emergency(&format!("powering off: {text}; exit status 1"));
        end(PowerAction::Off);
    }));
}
