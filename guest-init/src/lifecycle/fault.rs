//! Injects faults for tests that check how a defect of this program appears from outside. Only in a build with the feature
//! `fault-injection`.

use crate::status::{Board, helper};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Key of the kernel command line: `gpu_initrd_fault=panic`, `=panic-at-the-board`, `=panic-in-helper`, `=panic-in-keeper`, `=hang`,
/// or `=slow`.
const KEY: &str = "gpu_initrd_fault=";
/// How long a slow step takes: time for a test to change what comes next.
const SLOW: Duration = Duration::from_secs(10);

fn is_asked(fault: &str) -> bool {
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    text.split_whitespace().any(|word| word.strip_prefix(KEY) == Some(fault))
}

/// Panics if the kernel command line requests it: in this thread, or in a helper, with the board's lock or without it.
pub fn inject(board: &Board) {
    assert!(!is_asked("panic"), "a fault was injected");
    if is_asked("panic-at-the-board") {
        let shared = board.clone();
        start(board, move || shared.update(|_| panic!("a fault was injected")));
    }
    if is_asked("panic-in-helper") {
        panic_once(board);
    }
}

/// Panics in a helper of the status keeper if the kernel command line requests it.
pub fn inject_into_keeper(board: &Board) {
    if is_asked("panic-in-keeper") {
        panic_once(board);
    }
}

/// Starts a helper that panics once.
fn panic_once(board: &Board) {
    let is_first = AtomicBool::new(true);
    start(board, move || {
        assert!(!is_first.swap(false, Ordering::Relaxed), "a fault was injected");
        log::info!("the faulty helper works again");
    });
}

fn start(board: &Board, work: impl Fn() + Send + Sync + 'static) {
    helper::start("fault", board, work).expect("a guest of a test can have a thread");
}

/// Never returns if the kernel command line requests `hang`, and late if it requests `slow`.
pub fn hang() {
    while is_asked("hang") {
        std::thread::park();
    }
    if is_asked("slow") {
        std::thread::sleep(SLOW);
    }
}
