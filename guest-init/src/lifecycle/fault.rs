//! Injects faults for tests that check how a defect of this program appears from outside. Only in a build with the feature
//! `fault-injection`.

use crate::status::Board;
use std::time::Duration;

/// Key of the kernel command line: `gpu_initrd_fault=panic`, `=panic-at-the-board`, `=hang`, or `=slow`.
const KEY: &str = "gpu_initrd_fault=";
/// How long a slow step takes: time for a test to change what comes next.
const SLOW: Duration = Duration::from_secs(10);

/// Panics in a separate thread if the kernel command line requests it: plainly, or while it holds the lock of the board.
pub fn inject(board: &Board) {
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let board = board.clone();
    let fault: Box<dyn FnOnce() + Send> =
        match text.split_whitespace().find_map(|word| word.strip_prefix(KEY)) {
            Some("panic") => Box::new(|| panic!("a fault was injected")),
            Some("panic-at-the-board") => Box::new(move || board.update(|_| panic!("a fault was injected"))),
            _ => return,
        };
    std::thread::spawn(fault);
}

/// Never returns if the kernel command line requests `hang`, and late if it requests `slow`.
pub fn hang() {
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    match text.split_whitespace().find_map(|word| word.strip_prefix(KEY)) {
        Some("hang") => loop {
            std::thread::park();
        },
        Some("slow") => std::thread::sleep(SLOW),
        _ => {}
    }
}
