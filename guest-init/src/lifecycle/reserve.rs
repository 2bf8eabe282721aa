//! Memory for the moment in which the driver uses up what there is. It then fails and gives everything back, but until then PID 1 has work
//! to do, too, and the kernel panics if it needs memory while there is no process that it could kill. So there is one: it does nothing,
//! and has a little memory.

use crate::container::own_program::{self, inherited};
use crate::locks::Lock;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, PipeWriter, Read};
use std::os::fd::AsFd;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

/// First argument of the process.
pub const RESERVE: &str = "--memory-reserve";
/// Name of the process in `ps`.
const NAME: &str = "gpu-initrd-reserve";
/// Its memory in bytes.
const SIZE: usize = 4 << 20;
/// Size of the smallest page in bytes.
const PAGE: usize = 4096;
/// The process is killed before any other one (proc(5)).
const FIRST: &str = "1000";

/// The process, and what it waits for the end of.
static HELD: Lock<Option<(Child, PipeWriter)>> = Lock::new(None);

/// Its number, also after its end.
static PID: AtomicU32 = AtomicU32::new(0);

/// Returns whether a process is the one whose memory is reserved: what the kernel says of its end is no trouble.
pub fn is(pid: u32) -> bool {
    pid != 0 && pid == PID.load(Ordering::Relaxed)
}

/// Starts the process. Without it, a guest with too little memory may end in a panic of the kernel.
pub fn hold() {
    let start = || -> io::Result<(Child, PipeWriter)> {
        let (read, end) = io::pipe()?;
        let given = [read.as_fd()];
        let process = own_program::start(NAME, RESERVE, &given, |command| {
            command.args(own_program::numbers(&given));
        })?;
        Ok((process, end))
    };
    match start() {
        Ok(started) => {
            PID.store(started.0.id(), Ordering::Relaxed);
            *HELD.lock() = Some(started);
        }
        Err(error) => log::warn!("no memory is reserved: {error}"),
    }
}

/// Ends the process, if there is one.
pub fn release() {
    let Some((mut process, end)) = HELD.lock().take() else { return };
    drop(end);
    match process.wait() {
        Ok(status) if status.success() => {}
        Ok(status) => log::info!("the reserved memory was needed: {status}"),
        Err(error) => log::debug!("waiting for {NAME}: {error}"),
    }
}

/// Runs the process.
pub fn run(args: &[OsString]) -> i32 {
    let Some(end) = inherited(args, 0) else { return 2 };
    if fs::write("/proc/self/oom_score_adj", FIRST).is_err() {
        return 1;
    }
    let mut memory = vec![0_u8; SIZE];
    memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    let read = File::from(end).read(&mut [0]);
    std::hint::black_box(memory);
    i32::from(read.is_err())
}
