//! The meaning of lines in the kernel log: of the driver about its GPUs, and of the kernel about memory.

/// The meaning of a line in the kernel log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sign<'a> {
    /// The driver reports a GPU error.
    Xid { bdf: &'a str, code: u32 },
    /// A GPU has fallen off the bus.
    OffTheBus { bdf: &'a str },
    /// A process of a control group was killed.
    GroupOutOfMemory,
    /// No process could be killed, since all of them are exempt.
    GroupStuck,
    /// This process was killed because all memory was used.
    OutOfMemory { pid: u32 },
    /// An allocation of the kernel itself failed.
    NoPages,
    /// A task has waited in the kernel for minutes, and cannot be interrupted.
    TaskHung(Task<'a>),
    /// A processor has not left the kernel for seconds. `None`: another one noticed it, and does not know the task.
    CpuStuck(Option<Task<'a>>),
}

/// A process, or a thread of one or of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task<'a> {
    /// Its name, which a program chooses itself.
    pub name: &'a str,
    /// Its number.
    pub pid: u32,
}

/// Maximum length of a task's name in bytes (`TASK_COMM_LEN`).
const MAX_NAME: usize = 15;

/// `NVRM: Xid (PCI:0000:01:00): 79, pid=…` and `NVRM: GPU 0000:01:00.0: GPU has fallen off the bus.` come from the driver
/// (nv.c, osapi.c), the others from mm/oom_kill.c, mm/page_alloc.c, kernel/hung_task.c, kernel/watchdog.c and
/// kernel/rcu/tree_stall.h. Many kernel lines contain names that programs choose, so
/// only complete text at the start of a line is matched.
pub(super) fn sign(line: &str) -> Option<Sign<'_>> {
    if let Some(rest) = line.strip_prefix("NVRM: Xid (PCI:") {
        let (place, rest) = rest.split_once("): ")?;
        // In MIG mode the instance follows: `GPU-I:05`, `GPU-CI:02`.
        let (bdf, instance) = place.split_once(' ').unwrap_or((place, ""));
        let is_instance =
            |text: &str| text.is_empty() || text.starts_with("GPU-I:") || text.starts_with("GPU-CI:");
        if !is_address(bdf) || !is_instance(instance) {
            return None;
        }
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        return Some(Sign::Xid { bdf, code: digits.parse().ok()? });
    }
    if let Some(rest) = line.strip_prefix("NVRM: GPU ") {
        let (bdf, rest) =
            rest.trim_start_matches("at PCI:").split_once(": ").filter(|(bdf, _)| is_address(bdf))?;
        return rest.starts_with("GPU has fallen off the bus").then_some(Sign::OffTheBus { bdf });
    }
    if line.starts_with("Memory cgroup out of memory: Killed process") {
        return Some(Sign::GroupOutOfMemory);
    }
    // Without the cgroup prefix, the kernel's next line would be a panic.
    if line.starts_with("Out of memory and no killable processes") {
        return Some(Sign::GroupStuck);
    }
    if let Some(rest) = line.strip_prefix("Out of memory: Killed process ") {
        let digits = rest.split(' ').next()?;
        return Some(Sign::OutOfMemory { pid: digits.parse().ok()? });
    }
    // The name of the process comes first.
    if let Some((name, _)) = line.split_once(": page allocation failure: order:") {
        return (name.len() <= MAX_NAME).then_some(Sign::NoPages);
    }
    hung(line).or_else(|| stuck(line))
}

/// `INFO: task NAME:PID blocked for more than N seconds.`; since Linux 6.18 also `blocked in I/O wait for …`.
fn hung(line: &str) -> Option<Sign<'_>> {
    let line = line.strip_prefix("INFO: task ")?.strip_suffix(" seconds.")?;
    let (line, seconds) = line.rsplit_once(" for more than ")?;
    seconds.parse::<u32>().ok()?;
    task(line.strip_suffix(" in I/O wait").unwrap_or(line).strip_suffix(" blocked")?).map(Sign::TaskHung)
}

/// `watchdog: BUG: soft lockup - CPU#N stuck for Ns! [NAME:PID]`, and `rcu: INFO: rcu_sched self-detected stall on CPU`, or
/// `detected stalls on CPUs/tasks:`.
fn stuck(line: &str) -> Option<Sign<'_>> {
    if let Some(line) = line.strip_prefix("watchdog: BUG: soft lockup - CPU#") {
        let (times, name) = line.split_once("s! [")?;
        let (cpu, seconds) = times.split_once(" stuck for ")?;
        cpu.parse::<u32>().and(seconds.parse::<u32>()).ok()?;
        return Some(Sign::CpuStuck(Some(task(name.strip_suffix(']')?)?)));
    }
    let (_, what) = line.strip_prefix("rcu: INFO: rcu_")?.split_once(' ')?;
    let is_stall =
        ["self-detected stall on CPU", "detected stalls on CPUs/tasks:"].contains(&what.trim_end());
    is_stall.then_some(Sign::CpuStuck(None))
}

/// `NAME:PID`
fn task(text: &str) -> Option<Task<'_>> {
    let (name, pid) = text.rsplit_once(':').filter(|(name, _)| name.len() <= MAX_NAME)?;
    Some(Task { name, pid: pid.parse().ok()? })
}

/// Returns whether the text looks like a PCI address: `0000:01:00`, or with a function.
fn is_address(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const XID: &str = "NVRM: Xid (PCI:0000:01:00): 43, pid=812, name=python3, Ch 00000008";

    #[test]
    fn lines_are_understood_or_left() {
        assert_eq!(sign(XID), Some(Sign::Xid { bdf: "0000:01:00", code: 43 }));
        let line = "NVRM: GPU 0000:01:00.0: GPU has fallen off the bus.";
        assert_eq!(sign(line), Some(Sign::OffTheBus { bdf: "0000:01:00.0" }));
        assert_eq!(
            sign("Out of memory: Killed process 9 (x) total-vm:1kB"),
            Some(Sign::OutOfMemory { pid: 9 })
        );
        let line = "Memory cgroup out of memory: Killed process 9 (x)";
        assert_eq!(sign(line), Some(Sign::GroupOutOfMemory));
        let mig = "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=1, name=x, Contained";
        assert_eq!(sign(mig), Some(Sign::Xid { bdf: "0000:01:00", code: 94 }));
        let mig = "NVRM: Xid (PCI:0000:01:00 GPU-CI:02): 43, pid=1";
        assert_eq!(sign(mig), Some(Sign::Xid { bdf: "0000:01:00", code: 43 }));
        assert_eq!(sign("NVRM: Xid (PCI:0000:01:00 else): 43"), None);
        let line = "Out of memory and no killable processes...";
        assert_eq!(sign(line), Some(Sign::GroupStuck));
        assert_eq!(sign("sh: page allocation failure: order:4, mode:0x1"), Some(Sign::NoPages));
        for line in ["", "NVRM: Xid (PCI:", "NVRM: Xid (PCI:0): x", "NVRM: GPU 0000:01:00.0: fine"] {
            assert_eq!(sign(line), None, "{line}");
        }
    }

    #[test]
    fn tasks_and_processors_that_hang_are_understood() {
        let task = |name, pid| Task { name, pid };
        let line = "INFO: task nvidia-modeset/:93 blocked for more than 120 seconds.";
        assert_eq!(sign(line), Some(Sign::TaskHung(task("nvidia-modeset/", 93))));
        let line = "INFO: task a: b:7 blocked in I/O wait for more than 241 seconds.";
        assert_eq!(sign(line), Some(Sign::TaskHung(task("a: b", 7))));
        let line = "watchdog: BUG: soft lockup - CPU#12 stuck for 22s! [kworker/0:1:31]";
        assert_eq!(sign(line), Some(Sign::CpuStuck(Some(task("kworker/0:1", 31)))));
        for line in [
            "rcu: INFO: rcu_sched self-detected stall on CPU",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        ] {
            assert_eq!(sign(line), Some(Sign::CpuStuck(None)), "{line}");
        }
        for line in [
            "INFO: task x blocked for more than 120 seconds.",
            "INFO: task x:1 blocked on a mutex likely owned by task y:2.",
            "INFO: task a name with more than fifteen bytes:1 blocked for more than 120 seconds.",
            "INFO: task x:1[812]: segfault at 0 in blocked for more than 120 seconds.[55d0]",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [x]",
            "rcu: INFO: rcu_sched expedited",
        ] {
            assert_eq!(sign(line), None, "{line}");
        }
    }

    /// The kernel's lines with names that a program has chosen: its own, 15 bytes, and its file's.
    #[test]
    fn names_of_programs_are_no_signs() {
        for line in [
            "x[812]: segfault at 0 ip 0 sp 0 error 4 in NVRM: Xid (PCI:0000:01:00): 79, x[55d0]",
            "NVRM: GPU 0000:[812]: segfault at 0 ip 0 sp 0 error 4 in : GPU has fallen off the bus.[55d0]",
            "NVRM: Xid (PCI:[812]: segfault at 0 ip 0 sp 0 error 4 in 0000:01:00): 79, x[55d0]",
            "Out of memory: [812]: segfault at 0 in Killed process[55d0]",
            "traps: Memory cgroup out of memory: Killed process 9 (x)",
        ] {
            assert_eq!(sign(line), None, "{line}");
        }
    }
}
