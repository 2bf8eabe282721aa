//! Injects faults for tests that check how a defect of this program appears from outside. Only in a build with the feature
//! `fault-injection`.

use crate::status::{Board, helper};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Key of the kernel command line: `gpu_initrd_fault=panic`, `=panic-at-the-board`, `=panic-in-helper`, `=panic-in-keeper`, `=hang`,
/// `=slow`, or `=count`, which is no fault: it makes this program say what it uses.
const KEY: &str = "gpu_initrd_fault=";
/// How long a slow step takes: time for a test to change what comes next.
const SLOW: Duration = Duration::from_secs(10);

fn is_asked(fault: &str) -> bool {
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    text.split_whitespace().any(|word| word.strip_prefix(KEY) == Some(fault))
}

/// Logs what this process uses, every second, if the kernel command line requests it.
fn count(board: &Board) {
    if !is_asked("count") {
        return;
    }
    start(board, || {
        loop {
            let entries = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
            let pages: usize =
                statm.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
            let (fds, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
            log::info!("in use: {} KiB, {fds} descriptors, {threads} threads", pages * 4);
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

/// Panics if the kernel command line requests it: in this thread, or in a helper, with the board's lock or without it.
pub fn inject(board: &Board) {
    assert!(!is_asked("panic"), "a fault was injected");
    count(board);
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
