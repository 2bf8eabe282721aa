//! Opens every GPU and keeps it open. The first open starts the GSP and requests its firmware; the last close would shut
//! it down again. Each GPU has its own thread, deadline and outcome.

use super::driver_log::{about, failure};
use super::error::{AdapterFailure, GpuError};
use super::procfs::{Information, Proc};
use crate::kernel::kmsg_writer::KernelLog;
use crate::kernel::sysinfo::uptime_ms;
use crate::locks::Lock;
use crate::status::Board;
use image::status::{Gpu, GpuState, Phase};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Descriptors that keep adapters initialised until the guest ends.
static HELD: Lock<Vec<OwnedFd>> = Lock::new(Vec::new());

/// Takes the descriptors that keep adapters initialised, to hand them to another process.
pub fn held() -> Vec<OwnedFd> {
    std::mem::take(&mut *HELD.lock())
}

/// What the thread of one GPU reports.
enum Message {
    /// The first open has returned.
    Opened { bdf: String, result: io::Result<File> },
    /// What the driver reports about a GPU that is open.
    Known { bdf: String, information: Information },
}

/// Opens a GPU, then reads the driver's information about it. Both block while another adapter initialises.
fn open(bdf: String, minor: u32, sender: &mpsc::Sender<Message>) {
    let result = OpenOptions::new().read(true).write(true).open(format!("/dev/nvidia{minor}"));
    let opened = result.is_ok();
    // After the deadline nothing receives the message.
    let _ = sender.send(Message::Opened { bdf: bdf.clone(), result });
    if opened {
        let information = Proc::default().information(&bdf).unwrap_or_default();
        let _ = sender.send(Message::Known { bdf, information });
    }
}

/// Starts to open each GPU in a thread of its own. The last message has come when the last thread has ended.
fn begin(gpus: &[(String, u32)], timeout: Duration, board: &Board) -> mpsc::Receiver<Message> {
    let (sender, receiver) = mpsc::channel();
    board.progress(Phase::Gpu, 0, gpus.len());
    for (bdf, minor) in gpus {
        board.gpu(bdf, |gpu| {
            gpu.state = GpuState::Initialising;
            // It may have been initialised while the module was loaded.
            gpu.init_start_ms.get_or_insert_with(uptime_ms);
            gpu.waits_for =
                Some(format!("the first open of /dev/nvidia{minor}, at most {} s", timeout.as_secs()));
        });
        let (own, minor, shared) = (bdf.clone(), *minor, sender.clone());
        let work = move || open(own, minor, &shared);
        if let Err(error) = std::thread::Builder::new().name(format!("nvidia{minor}")).spawn(work) {
            let _ = sender.send(Message::Opened { bdf: bdf.clone(), result: Err(error) });
        }
    }
    receiver
}

/// Opens GPUs (address, minor) in parallel. The driver initialises them one after the other, so the timeout of each starts when
/// the previous one has ended. `said` is what the driver said before, when it initialised adapters as it was loaded. Returns the driver's
/// information about initialised GPUs, by address, and whether all succeeded.
pub fn open_all(
    gpus: &[(String, u32)],
    said: Vec<String>,
    timeout: Duration,
    board: &Board,
) -> (BTreeMap<String, Information>, bool) {
    let mut deadline = Instant::now() + timeout;
    let log = KernelLog::here();
    let mut lines = said;
    let receiver = begin(gpus, timeout, board);
    let mut opening: Vec<&str> = gpus.iter().map(|(bdf, _)| bdf.as_str()).collect();
    let (mut known, mut good) = (BTreeMap::new(), true);
    while let Ok(message) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        match message {
            Message::Opened { bdf, result } => {
                opening.retain(|waiting| *waiting != bdf);
                deadline = Instant::now() + timeout;
                board.progress(Phase::Gpu, gpus.len() - opening.len(), gpus.len());
                board.gpu(&bdf, |gpu| (gpu.init_ms, gpu.waits_for) = (took(gpu), None));
                lines.extend(log.lines());
                good &= settle(&bdf, result, about(&lines, &bdf), board);
            }
            Message::Known { bdf, information } => {
                board.gpu(&bdf, |gpu| {
                    gpu.uuid.clone_from(&information.uuid);
                    gpu.firmware.clone_from(&information.firmware);
                });
                known.insert(bdf, information);
            }
        }
    }
    lines.extend(log.lines());
    let after = if gpus.len() > 1 { " after the previous one" } else { "" };
    for bdf in &opening {
        board.gpu(bdf, |gpu| gpu.init_ms = took(gpu));
        fail(bdf, AdapterFailure::Timeout { seconds: timeout.as_secs(), after }, about(&lines, bdf), board);
    }
    (known, good && opening.is_empty())
}

/// How long a GPU has been initialising, in milliseconds.
fn took(gpu: &Gpu) -> Option<u64> {
    Some(uptime_ms().saturating_sub(gpu.init_start_ms?))
}

fn settle(bdf: &str, result: io::Result<File>, log: Vec<String>, board: &Board) -> bool {
    match result {
        Ok(file) => {
            HELD.lock().push(file.into());
            board.gpu(bdf, |gpu| gpu.state = GpuState::Ready);
            log::debug!("GPU {bdf} is ready");
            true
        }
        Err(error) => {
            fail(bdf, failure(error, &log), log, board);
            false
        }
    }
}

fn fail(bdf: &str, why: AdapterFailure, log: Vec<String>, board: &Board) {
    board.gpu(bdf, |gpu| {
        gpu.state = GpuState::Failed;
        gpu.waits_for = None;
        gpu.evidence.clone_from(&log);
    });
    board.report(GpuError::Adapter { bdf: bdf.to_owned(), why, log });
}
