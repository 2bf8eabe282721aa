//! Opens every GPU and keeps it open. The first open starts the GSP and asks for its firmware; the last close would
//! tear all of it down again. Each GPU has its own thread, deadline and outcome.

use super::procfs::Proc;
use crate::kmsg::KernelLog;
use crate::report::{self, Board, uptime_ms, with_evidence};
use image::status::{Code, Finding, GpuState};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Descriptors that keep adapters up for the guest's whole life.
static HELD: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// The descriptors that keep adapters up, to hand them to another process.
pub fn held() -> Vec<OwnedFd> {
    std::mem::take(&mut *HELD.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Opens GPUs (address, minor) at the same time. Returns whether all of them came up.
pub fn open_all(gpus: &[(String, u32)], timeout: Duration, board: &Board) -> bool {
    let deadline = Instant::now() + timeout;
    let mut log = KernelLog::here();
    let mut lines = Vec::new();
    let (sender, receiver) = mpsc::channel();
    for (bdf, minor) in gpus {
        board.gpu(bdf, |gpu| gpu.state = GpuState::Initialising);
        let (bdf, minor, sender) = (bdf.clone(), *minor, sender.clone());
        std::thread::spawn(move || {
            let start = uptime_ms();
            let result = OpenOptions::new().read(true).write(true).open(format!("/dev/nvidia{minor}"));
            // Nobody listens any more when the deadline is over.
            let _ = sender.send((bdf, result, uptime_ms() - start));
        });
    }
    let mut open: Vec<&str> = gpus.iter().map(|(bdf, _)| bdf.as_str()).collect();
    let mut good = true;
    while !open.is_empty() {
        let Ok((bdf, result, took)) =
            receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        else {
            break;
        };
        open.retain(|waiting| *waiting != bdf);
        board.gpu(&bdf, |gpu| gpu.init_ms = Some(took));
        lines.extend(log.lines());
        good &= settle(&bdf, result, &about(&lines, &bdf), board);
    }
    lines.extend(log.lines());
    for bdf in &open {
        let finding = report::error(
            Code::AdapterInitFailed,
            format!("GPU {bdf} did not initialise within {} s", timeout.as_secs()),
            "raise gpu_initrd.gpu_timeout if the adapter is only slow; else reset the GPU on the host",
        );
        fail(bdf, with_evidence(finding, about(&lines, bdf)), board);
    }
    good && open.is_empty()
}

fn settle(bdf: &str, result: io::Result<File>, evidence: &[String], board: &Board) -> bool {
    match result {
        Ok(file) => {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(file.into());
            let information = Proc::default().information(bdf).unwrap_or_default();
            board.gpu(bdf, |gpu| {
                gpu.state = GpuState::Ready;
                gpu.uuid = information.uuid;
                gpu.firmware = information.firmware;
            });
            log::info!("GPU {bdf} is ready");
            true
        }
        Err(error) => {
            fail(bdf, failure(bdf, &error, evidence), board);
            false
        }
    }
}

fn fail(bdf: &str, finding: Finding, board: &Board) {
    board.gpu(bdf, |gpu| {
        gpu.state = GpuState::Failed;
        gpu.evidence.clone_from(&finding.evidence);
    });
    board.finding(finding);
}

/// What a failed open means, from the kernel's lines.
fn failure(bdf: &str, error: &io::Error, evidence: &[String]) -> Finding {
    let has = |words: &[&str]| evidence.iter().any(|line| words.iter().any(|word| line.contains(word)));
    let firmware = evidence.iter().find_map(|line| {
        let name = line.split("Direct firmware load for ").nth(1)?;
        name.split(' ').next()
    });
    let finding = if let Some(name) = firmware {
        report::error(
            Code::FirmwareMissing,
            format!("GPU {bdf} needs firmware /lib/firmware/{name}, which the initrd does not have"),
            "build the initrd again with the driver's firmware package",
        )
    } else if has(&["Cannot initialize GSP firmware RM", "RmInitAdapter failed"]) {
        report::error(
            Code::AdapterInitFailed,
            format!("GPU {bdf}: the adapter did not initialise ({error})"),
            "reset the GPU on the host (unbind, reset, bind to vfio-pci again); if it stays so, look up the Xid and the RmInitAdapter code in NVIDIA's documentation",
        )
    } else {
        report::error(
            Code::AdapterInitFailed,
            format!("GPU {bdf}: opening its node failed: {error}"),
            "the kernel's lines say why",
        )
    };
    with_evidence(finding, evidence.to_vec())
}

/// What the driver says of itself at every load.
const CHATTER: [&str; 6] = [
    "NVRM: loading NVIDIA UNIX",
    "loading out-of-tree module",
    "module verification failed",
    "Nvlink Core is being initialized",
    "Loaded the UVM driver",
    "nvidia-modeset: Loading NVIDIA",
];

/// The driver's lines about one GPU. It names the address in the first line of a message and sometimes only there, and
/// some lines name none: those are kept when they follow one that does.
pub fn about(lines: &[String], bdf: &str) -> Vec<String> {
    // The driver writes 0000:01:00.0, and 0000:01:00 in Xid lines.
    let short = bdf.rsplit_once('.').map_or(bdf, |(short, _)| short);
    let mut ours = true;
    let mut list = Vec::new();
    for line in lines {
        let of_the_driver = ["NVRM", "nvidia", "firmware"].iter().any(|word| line.contains(word));
        if !of_the_driver || CHATTER.iter().any(|chatter| line.contains(chatter)) {
            continue;
        }
        if names_a_gpu(line) {
            ours = line.contains(short);
        }
        if ours && !list.contains(line) {
            list.push(line.clone());
        }
    }
    list
}

/// Whether a line contains a PCI address.
fn names_a_gpu(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_hexdigit() && c != ':').any(|word| {
        let parts: Vec<_> = word.trim_matches(':').split(':').collect();
        matches!(&parts[..], [domain, bus, device] if domain.len() == 4 && bus.len() == 2 && device.len() == 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_belong_to_the_gpu_that_was_named_last() {
        let log = lines(
            "usb 1-1: new device\nnvidia: loading out-of-tree module taints kernel.\nNVRM: GPU 0000:01:00.0: starts\nNVRM: a detail\n\
             NVRM: Xid (PCI:0000:02:00): 143, pid=1, name=x, Timeout\nNVRM: of the second\n",
        );
        assert_eq!(about(&log, "0000:01:00.0"), ["NVRM: GPU 0000:01:00.0: starts", "NVRM: a detail"]);
        assert_eq!(about(&log, "0000:02:00.0").len(), 2);
    }

    #[test]
    fn missing_firmware_is_told_from_a_dead_adapter() {
        let error = io::Error::from_raw_os_error(libc::EIO);
        let missing = lines(
            "nvidia 0000:01:00.0: Direct firmware load for nvidia/550.163.01/gsp_ga10x.bin failed with error -2\n\
             NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x61:0x56:1705)",
        );
        let finding = failure("0000:01:00.0", &error, &missing);
        assert_eq!(finding.code, Code::FirmwareMissing);
        assert!(finding.message.contains("/lib/firmware/nvidia/550.163.01/gsp_ga10x.bin"));
        assert_eq!(failure("0000:01:00.0", &error, &missing[1..]).code, Code::AdapterInitFailed);
    }
}
