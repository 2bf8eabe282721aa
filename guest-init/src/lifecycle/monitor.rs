//! The kernel log monitor: reports GPU failures and out-of-memory conditions until the guest ends.

use super::error::GuestTrouble;
use super::kernel_lines::{Sign, Task, sign};
use super::reserve;
use crate::container::cgroup;
use crate::gpu::{driver_log, pci};
use crate::kernel::kmsg_writer::KernelLog;
use crate::kernel::sysinfo::uptime_ms;
use crate::status::limits::MAX_EVIDENCE;
use crate::status::{Board, helper};
use image::event::Happening;
use image::status::{Gpu, GpuState, Status, Xid};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Xid of a GPU that no longer responds on the bus.
const OFF_THE_BUS: u32 = 79;
/// Maximum number of different Xids that are counted per GPU.
const MAX_XIDS: usize = 32;
/// The parent of every thread of the kernel.
const KTHREADD: &str = "2";
/// Interval of bus checks while the log is quiet.
const LOOK: Duration = Duration::from_secs(10);

/// Starts the monitor. Without access to the kernel log, the guest continues with a warning.
pub fn start(board: &Board) {
    let (shared, log) = (board.clone(), KernelLog::here());
    if let Err(error) = helper::start("watch", board, move || follow(&log, &shared)) {
        log::warn!("cannot follow the kernel log: {error}");
    }
}

fn follow(log: &KernelLog, board: &Board) {
    loop {
        log.wait(Instant::now() + LOOK);
        for line in log.new_lines().into_iter().filter(|line| line.first) {
            match sign(&line.text) {
                Some(sign) => take(&sign, &line.text, board, &pci::answers),
                None => keep(&line.text, board),
            }
        }
        look_at_bus(board);
    }
}

/// Handles a sign. `answers` returns whether a GPU responds on the bus.
fn take(sign: &Sign, line: &str, board: &Board, answers: &dyn Fn(&str) -> bool) {
    match sign {
        Sign::Xid { bdf, code } => xid(bdf, *code, line, board, answers),
        Sign::OffTheBus { bdf } => off_the_bus(bdf, "", line, board, answers),
        Sign::GroupOutOfMemory => oom(line, board),
        Sign::GroupStuck => {
            cgroup::end_at_limit();
            oom(line, board);
        }
        Sign::OutOfMemory { pid } if reserve::is(*pid) => log::debug!("{line}"),
        Sign::OutOfMemory { .. } => {
            low_memory("the kernel ended a process because the guest ran out of memory", line, board);
            oom(line, board);
        }
        Sign::NoPages => low_memory("the kernel could not allocate memory that it needed", line, board),
        Sign::TaskHung(task) => {
            board.report(GuestTrouble::TaskHung { task: describe(*task), line: line.into() });
        }
        Sign::CpuStuck(task) => {
            let runs = task.map_or(String::new(), |task| format!(" while it runs {}", describe(task)));
            board.report(GuestTrouble::CpuStuck { runs, line: line.into() });
        }
    }
}

/// Describes a task by its name and by whose it is, where that is still known.
fn describe(Task { name, pid }: Task) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
    let is_drivers = ["nvidia", "nv_", "UVM "].iter().any(|start| name.starts_with(start))
        || name.starts_with("irq/") && name.contains("-nvidia");
    let whose = if Path::new("/proc/self/task").join(pid.to_string()).exists() {
        "guest-init's thread"
    } else if parent != Some(KTHREADD) {
        "process"
    } else if is_drivers {
        "the driver's thread"
    } else {
        "the kernel's thread"
    };
    format!("{whose} {name} (PID {pid})")
}

/// Keeps other lines of the driver about a working GPU as evidence for a later failure. During the initialisation, the
/// adapter code collects them.
fn keep(line: &str, board: &Board) {
    if !line.starts_with("NVRM: ") {
        return;
    }
    let is_about = |gpu: &Gpu| gpu.state == GpuState::Ready && driver_log::names(line, &gpu.bdf);
    if board.look(|status| status.gpus.iter().any(is_about)) {
        board.update(|status| {
            if let Some(gpu) = status.gpus.iter_mut().find(|gpu| is_about(gpu)) {
                note(gpu, line);
            }
        });
    }
}

/// Returns the GPU that a line names, with its function, or without it as in Xid lines.
fn gpu_of<'a>(status: &'a mut Status, named: &str) -> Option<&'a mut Gpu> {
    let is_it = |gpu: &&mut Gpu| {
        gpu.bdf == named || gpu.bdf.rsplit_once('.').is_some_and(|(short, _)| short == named)
    };
    status.gpus.iter_mut().find(is_it)
}

fn xid(named: &str, code: u32, line: &str, board: &Board, answers: &dyn Fn(&str) -> bool) {
    let was_ready = board.update(|status| {
        let gpu = gpu_of(status, named)?;
        let last_ms = uptime_ms();
        if let Some(xid) = gpu.xids.iter_mut().find(|xid| xid.code == code) {
            (xid.count, xid.last_ms) = (xid.count.saturating_add(1), last_ms);
        } else {
            make_room(gpu);
            gpu.xids.push(Xid { code, count: 1, last_ms });
        }
        let was_ready = gpu.state == GpuState::Ready;
        if was_ready {
            note(gpu, line);
        }
        was_ready.then(|| gpu.bdf.clone())
    });
    let bdf = image::pci::address(named).unwrap_or_else(|| named.to_owned());
    board.happened(Happening::Xid { bdf, code, line: line.into() });
    // During the initialisation, the failure of the adapter is the finding.
    let Some(bdf) = was_ready else { return };
    if code == OFF_THE_BUS {
        return off_the_bus(&bdf, " (Xid 79)", line, board, answers);
    }
    board.report(GuestTrouble::Xid { bdf, code, line: line.into() });
}

/// Drops the oldest Xid if there are too many.
fn make_room(gpu: &mut Gpu) {
    if gpu.xids.len() < MAX_XIDS {
        return;
    }
    let oldest = gpu.xids.iter().enumerate().min_by_key(|(_, xid)| xid.last_ms);
    if let Some((at, _)) = oldest {
        gpu.xids.remove(at);
        gpu.xids_left_out = gpu.xids_left_out.saturating_add(1);
    }
}

/// Handles a line that says that a GPU has fallen off the bus. The bus itself decides whether it is true.
fn off_the_bus(named: &str, how: &str, line: &str, board: &Board, answers: &dyn Fn(&str) -> bool) {
    let Some(bdf) = board.update(|status| gpu_of(status, named).map(|gpu| gpu.bdf.clone())) else { return };
    if !answers(&bdf) {
        let why = format!(
            "the driver reports that it has fallen off the bus{how}, and it does not respond on the bus"
        );
        return lost(&bdf, &why, line, board);
    }
    board.report(GuestTrouble::NotLost { bdf, how: how.into(), line: line.into() });
}

fn note(gpu: &mut Gpu, line: &str) {
    if gpu.evidence.len() >= MAX_EVIDENCE {
        gpu.evidence.remove(0);
    }
    gpu.evidence.push(line.into());
}

/// Reports a lost GPU, with `line` as evidence. Earlier lines of the driver are evidence only if the GPU worked until then.
fn lost(named: &str, why: &str, line: &str, board: &Board) {
    let lost = board.update(|status| {
        let gpu = gpu_of(status, named).filter(|gpu| gpu.state != GpuState::Lost)?;
        let worked = std::mem::replace(&mut gpu.state, GpuState::Lost) == GpuState::Ready;
        if !gpu.evidence.iter().any(|known| known == line) {
            note(gpu, line);
        }
        Some((gpu.bdf.clone(), if worked { gpu.evidence.clone() } else { vec![line.into()] }))
    });
    let Some((bdf, evidence)) = lost else { return };
    board.report(GuestTrouble::GpuLost { bdf, why: why.into(), lines: evidence });
}

/// Reports GPUs that the host has removed: they leave the bus, whatever the driver logs.
fn look_at_bus(board: &Board) {
    for gpu in board.snapshot().gpus {
        if gpu.state != GpuState::Lost && !pci::is_there(&gpu.bdf) {
            let line = format!("{} is gone", pci::path(&gpu.bdf).display());
            lost(&gpu.bdf, "it is no longer on the PCI bus", &line, board);
        }
    }
}

fn oom(line: &str, board: &Board) {
    let kills = cgroup::oom_kills();
    let is_ours = board.update(|status| {
        let Some(container) = &mut status.container else { return false };
        // With the image's init as PID 1, every process belongs to the container, and this is the only count.
        container.oom_kills = if container.pid == 1 { container.oom_kills + 1 } else { kills };
        container.oom_kills > 0
    });
    if is_ours {
        board.report(GuestTrouble::OomKilled { line: Some(line.into()) });
    }
}

fn low_memory(what: &str, line: &str, board: &Board) {
    let memory = crate::kernel::sysinfo::memory().map_or(0, |memory| memory.total >> 20);
    board.report(GuestTrouble::OutOfMemory { what: what.into(), memory, line: line.into() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status;
    use image::status::Code;

    const XID: &str = "NVRM: Xid (PCI:0000:01:00): 43, pid=812, name=python3, Ch 00000008";
    const LOST: &str = "NVRM: Xid (PCI:0000:01:00): 79, pid=812, name=python3, GPU has fallen off the bus.";

    fn board() -> Board {
        let board = Board::new("k".into());
        let gpu = |n| Gpu { bdf: format!("0000:0{n}:00.0"), state: GpuState::Ready, ..Gpu::default() };
        board.update(|status| status.gpus = vec![gpu(1), gpu(2)]);
        board
    }

    fn tell(board: &Board, line: &str) {
        take(&sign(line).unwrap(), line, board, &|_| false);
    }

    #[test]
    fn a_gpu_that_answers_on_the_bus_is_not_lost_whatever_a_line_says() {
        let board = board();
        for line in [LOST, "NVRM: GPU 0000:01:00.0: GPU has fallen off the bus."] {
            take(&sign(line).unwrap(), line, &board, &|_| true);
        }
        let status = board.snapshot();
        assert_eq!(status.gpus[0].state, GpuState::Ready);
        assert!(status.findings.iter().all(|finding| finding.code == Code::GpuXid), "{:?}", status.findings);
        assert!(status.findings[0].message.contains("the kernel log says"), "{:?}", status.findings);
    }

    #[test]
    fn the_newest_xids_are_kept_and_the_others_counted() {
        let board = board();
        for code in 0..MAX_XIDS + 5 {
            tell(&board, &format!("NVRM: Xid (PCI:0000:01:00): {}, x", 1000 + code));
        }
        let gpu = &board.snapshot().gpus[0];
        assert_eq!((gpu.xids.len(), gpu.xids_left_out), (MAX_XIDS, 5));
        assert_eq!(gpu.xids.last().unwrap().code as usize, 1000 + MAX_XIDS + 4);
    }

    #[test]
    fn an_xid_is_counted_and_told_and_makes_one_finding() {
        let board = board();
        tell(&board, XID);
        tell(&board, XID);
        let status = board.snapshot();
        assert_eq!(
            status.gpus[0].xids.iter().map(|xid| (xid.code, xid.count)).collect::<Vec<_>>(),
            [(43, 2)]
        );
        assert_eq!((status.gpus[0].state, status.gpus[1].xids.len()), (GpuState::Ready, 0));
        assert_eq!(status.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), [Code::GpuXid]);
        let events = board.events(0, Instant::now()).events;
        let xids = events.iter().filter(|event| matches!(event.what, Happening::Xid { code: 43, .. }));
        assert_eq!(xids.count(), 2);
    }

    #[test]
    fn what_the_driver_says_of_a_gpu_that_works_is_kept() {
        let board = board();
        keep("NVRM: GPU 0000:02:00.0: something odd", &board);
        keep("NVRM: nothing about a GPU", &board);
        keep("usb 0000:02:00.0: not the driver", &board);
        board.gpu("0000:01:00.0", |gpu| gpu.state = GpuState::Initialising);
        keep("NVRM: GPU 0000:01:00.0: while it starts", &board);
        let gpus = board.snapshot().gpus;
        assert_eq!(gpus[1].evidence, ["NVRM: GPU 0000:02:00.0: something odd"]);
        assert!(gpus[0].evidence.is_empty() && board.snapshot().findings.is_empty());
    }

    #[test]
    fn under_the_images_own_init_every_kill_is_the_containers() {
        let board = board();
        board.update(|status| status.container = Some(status::started(1, vec![], 0)));
        tell(&board, "Memory cgroup out of memory: Killed process 9 (x)");
        let status = board.snapshot();
        assert_eq!((status.container.unwrap().oom_kills, status.findings[0].code), (1, Code::OomKilled));
    }

    #[test]
    fn a_gpu_off_the_bus_is_lost_once() {
        let board = board();
        tell(&board, LOST);
        tell(&board, "NVRM: GPU 0000:01:00.0: GPU has fallen off the bus.");
        let status = board.snapshot();
        assert_eq!((status.gpus[0].state, status.gpus[1].state), (GpuState::Lost, GpuState::Ready));
        assert_eq!(status.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), [Code::GpuLost]);
        assert_eq!(status.findings[0].evidence, [LOST]);
    }

    #[test]
    fn what_a_gpu_that_never_worked_said_is_no_evidence_of_its_loss() {
        let board = board();
        let old = || vec!["NVRM: GPU 0000:01:00.0: RmInitAdapter failed!".to_owned()];
        board.gpu("0000:01:00.0", |gpu| (gpu.state, gpu.evidence) = (GpuState::Failed, old()));
        tell(&board, LOST);
        assert!(board.snapshot().findings.is_empty(), "its failure is the finding");
        lost("0000:01:00.0", "gone", "it is gone", &board);
        let status = board.snapshot();
        assert_eq!(status.findings[0].evidence, ["it is gone"]);
        assert_eq!(status.gpus[0].evidence, [old(), vec!["it is gone".into()]].concat());
    }

    #[test]
    fn a_task_that_hangs_is_told_once_with_whose_it_is() {
        let board = board();
        let own = std::process::id();
        for line in [
            format!("INFO: task watch:{own} blocked for more than 120 seconds."),
            format!("INFO: task watch:{own} blocked for more than 241 seconds."),
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [python3:4194305]".into(),
            "rcu: INFO: rcu_sched self-detected stall on CPU".into(),
        ] {
            tell(&board, &line);
        }
        let findings = board.snapshot().findings;
        let messages: Vec<_> = findings.iter().map(|finding| (finding.code, &*finding.message)).collect();
        let hung = format!("guest-init's thread watch (PID {own}) has waited in the kernel for too long");
        assert_eq!(messages[0], (Code::TaskHung, &*hung));
        let stuck = "a processor does not leave the kernel";
        let stuck_with = format!("{stuck} while it runs process python3 (PID 4194305)");
        assert_eq!(messages[1..], [(Code::CpuStuck, &*stuck_with), (Code::CpuStuck, stuck)]);
    }

    #[test]
    fn during_initialisation_an_xid_is_no_finding() {
        let board = board();
        board.gpu("0000:01:00.0", |gpu| gpu.state = GpuState::Initialising);
        tell(&board, XID);
        let status = board.snapshot();
        assert_eq!((status.findings.len(), status.gpus[0].xids.len()), (0, 1));
    }
}
