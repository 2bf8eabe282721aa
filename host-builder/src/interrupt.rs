//! What must not stay behind when the program is interrupted: temporary files and directories.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Registers a path for removal until it is dropped.
pub struct Guard(PathBuf);

impl Guard {
    /// Registers `path`.
    pub fn new(path: &Path) -> Self {
        UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.0);
    }
}

/// On SIGINT, SIGTERM and SIGHUP: removes what is unfinished, says so, exits with 2.
pub fn install() {
    let installed = ctrlc::set_handler(|| {
        remove_all();
        eprintln!("\ninterrupted: nothing half-written was left; what was fetched and built is kept");
        std::process::exit(2);
    });
    // Without a handler the default action applies, which ends the program too.
    drop(installed);
}

fn remove_all() {
    // Held to the end: nobody registers anything new meanwhile.
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
