//! Cleanup on an interrupt: temporary files and directories, child programs, a terminal in raw
//! mode.

use super::ui;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static ACTIONS: Mutex<BTreeMap<u64, Box<dyn FnOnce() + Send>>> = Mutex::new(BTreeMap::new());
static FIRST: Mutex<Option<Box<dyn FnOnce() -> bool + Send>>> = Mutex::new(None);
static IS_THE_END: AtomicBool = AtomicBool::new(false);
/// The message on an interrupt.
static WORDS: Mutex<&str> =
    Mutex::new("interrupted: no partial output was left; fetched and built files are kept");
/// The exit code after an interrupt.
static CODE: AtomicU8 = AtomicU8::new(2);

/// Registers a path for removal until it is dropped.
pub struct Guard(PathBuf);

impl Guard {
    /// Registers `path`.
    pub fn new(path: &Path) -> Self {
        UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(path.to_owned());
        Self(path.to_owned())
    }

    /// Everything that is registered.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.0);
    }
}

/// An action on an interrupt, registered until it is dropped.
pub struct Action(u64);

impl Action {
    /// Registers `action`. It runs before files are removed.
    pub fn new(action: impl FnOnce() + Send + 'static) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        ACTIONS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(number, Box::new(action));
        Self(number)
    }
}

/// Kills a program and its children. It must lead a process group (`Command::process_group(0)`).
pub fn kills(program: &std::process::Child) -> Action {
    let group = i32::try_from(program.id()).map(nix::unistd::Pid::from_raw);
    Action::new(move || {
        if let Ok(group) = group {
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        }
    })
}

impl Drop for Action {
    fn drop(&mut self) {
        ACTIONS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.0);
    }
}

/// A request on the first interrupt, which replaces the usual end if it returns true; registered until it is dropped.
pub struct FirstChance;

impl FirstChance {
    /// Registers `request`. At the next interrupt the usual end follows.
    pub fn new(request: impl FnOnce() -> bool + Send + 'static) -> Self {
        *FIRST.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Box::new(request));
        Self
    }
}

impl Drop for FirstChance {
    fn drop(&mut self) {
        *FIRST.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}

/// From now on an interrupt is the normal end of the command: no message, exit code 0.
pub fn is_the_end() {
    IS_THE_END.store(true, Ordering::Relaxed);
}

/// Sets the message and the exit code of an interrupt.
pub fn means(words: &'static str, code: u8) {
    *WORDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = words;
    CODE.store(code, Ordering::Relaxed);
}

/// For commands that write nothing: the message of an interrupt says only that it occurred.
pub fn makes_nothing() {
    means("interrupted", 2);
}

/// On SIGINT, SIGTERM and SIGHUP: runs a registered [`FirstChance`]. Without one, or if it fails, runs
/// registered actions, removes unfinished files, prints the message, and exits with 2 or the code
/// set by [`means`].
pub fn install() {
    let installed = ctrlc::set_handler(|| {
        let request = FIRST.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if request.is_some_and(|request| request()) {
            return;
        }
        act();
        remove_all();
        if IS_THE_END.load(Ordering::Relaxed) {
            std::process::exit(0);
        }
        ui::say(&format!("\n{}", WORDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)));
        std::process::exit(CODE.load(Ordering::Relaxed).into());
    });
    // Without a handler the default action applies, which ends the program too.
    drop(installed);
}

fn act() {
    // Held to the end, so that a thread that finishes now does not continue.
    let mut actions = ACTIONS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    while let Some((_, action)) = actions.pop_last() {
        action();
    }
    std::mem::forget(actions);
}

fn remove_all() {
    // Held to the end, so that nothing new is registered.
    let unfinished = UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for path in unfinished.iter() {
        // Other threads may still be writing below it.
        for _ in 0..20 {
            let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            if gone.is_ok() || !path.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    std::mem::forget(unfinished);
}
