//! Failures after the boot, while the container runs. The stub has ready GPUs and prints the real
//! driver's lines on request.

use super::with_root;
use image::event::{Event, Happening};
use image::layout;
use image::status::{Code, GpuState, Outcome, Phase, Severity};
use image::wire::{Reply, Request};
use rig::phantom::Model;
use rig::scene::{PATIENCE, boot, file_disk, guest_with_stub, request, told, wait_for};

/// As nv.c and osapi.c of NVIDIA's open modules write them.
const XID_43: &str = "NVRM: Xid (PCI:0000:01:00): 43, pid=812, name=python3, Ch 00000008";
const XID_79: &str =
    "NVRM: Xid (PCI:0000:02:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.";

/// As kernel/hung_task.c, kernel/watchdog.c and kernel/rcu/tree_stall.h write them.
const HUNG: &str = "INFO: task nvidia-modeset/:4194305 blocked for more than 120 seconds.";
const STUCK: &str = "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [python3:4194306]";

/// A line that an unprivileged program forges.
const FORGED: &str = "NVRM: Xid (PCI:0000:03:00): 79, x";

#[test]
fn gpu_errors_and_kills_are_reported_during_the_run() {
    let dir = tempfile::tempdir().unwrap();
    // A name of a file that is a line of the driver's, behind a newline: the kernel prints it when
    // the program dies.
    let script = "cp $(command -v ending) \"/tmp/$FORGED\"
        (PATH=/tmp; \"$FORGED\" fault); echo it ended with $?; say() { echo \"$1\" > /proc/driver/nvidia/stub-says; }
        say \"$XID_43\"; say \"$XID_43\"; say \"$XID_79\"; say \"$HUNG\"; say \"$STUCK\"
        ending memory; echo the child ended with $?; exec sleep 1000";
    let env = serde_json::json!({ "XID_43": XID_43, "XID_79": XID_79, "HUNG": HUNG, "STUCK": STUCK, "FORGED": format!("x\n{FORGED}") });
    let config = serde_json::json!({ "entrypoint": ["/bin/sh", "-c", script], "env": env }).to_string();
    let setup = with_root(guest_with_stub())
        .disk(&file_disk(dir.path(), "config", layout::CONFIG_FILE, &config), "config")
        .gpu(Model::H100)
        .gpu(Model::H100)
        .gpu(Model::H100)
        .memory_mib(640)
        .cmdline("nvidia.gpus=3");
    let mut guest = boot(setup);
    guest.wait_for_console("the child ended with 137", PATIENCE).unwrap();
    let status = wait_for(&guest, "the out-of-memory kill", |status| {
        status.container.as_ref().is_some_and(|container| container.oom_kills > 0)
    });

    assert_eq!((status.outcome, status.phase), (Outcome::Ready, Phase::Running));
    assert_eq!(status.container.as_ref().unwrap().exit, None, "the program lives on");
    let killed =
        told(&status, Code::OomKilled, Severity::Error, "Memory cgroup out of memory: Killed process");
    assert!(killed.message.contains("ended a process of the container"), "{killed:?}");

    let states: Vec<_> = status.gpus.iter().map(|gpu| gpu.state).collect();
    // A line does not mean a loss while the GPU is on the bus.
    assert_eq!(states, [GpuState::Ready, GpuState::Ready, GpuState::Ready]);
    let xids: Vec<Vec<_>> =
        status.gpus.iter().map(|gpu| gpu.xids.iter().map(|xid| (xid.code, xid.count)).collect()).collect();
    assert_eq!(xids, [vec![(43, 2)], vec![(79, 1)], vec![]]);
    let xid = told(&status, Code::GpuXid, Severity::Warning, XID_43);
    assert!(xid.message.contains("0000:01:00.0") && xid.message.contains("Xid 43"), "{xid:?}");
    let said =
        status.findings.iter().find(|finding| finding.evidence.iter().any(|line| line == XID_79)).unwrap();
    assert_eq!((said.code, said.severity), (Code::GpuXid, Severity::Warning), "{said:?}");
    assert!(
        said.message.contains("0000:02:00.0 has fallen off the bus")
            && said.message.contains("it responds on the bus"),
        "{said:?}"
    );
    let hung = told(&status, Code::TaskHung, Severity::Warning, HUNG);
    assert!(hung.message.contains("nvidia-modeset/ (PID 4194305)"), "{hung:?}");
    let stuck = told(&status, Code::CpuStuck, Severity::Warning, STUCK);
    assert!(stuck.message.contains("python3 (PID 4194306)"), "{stuck:?}");
    assert!(guest.console().contains(FORGED), "the kernel has printed the name");

    let Reply::Events(events) = request(&guest, &Request::Events { from: 0, timeout_ms: 0 }) else {
        panic!("no events")
    };
    let count = |is_it: &dyn Fn(&Happening) -> bool| {
        events.events.iter().filter(|Event { what, .. }| is_it(what)).count()
    };
    assert_eq!(count(&|what| matches!(what, Happening::Xid { code: 43, .. })), 2);
    assert_eq!(count(&|what| matches!(what, Happening::Xid { code: 79, line, .. } if line == XID_79)), 1);
    assert_eq!(count(&|what| matches!(what, Happening::Gpu { state: GpuState::Lost, .. })), 0);
    for (code, expected) in [(Code::GpuXid, 2), (Code::GpuLost, 0), (Code::OomKilled, 1)] {
        let found = count(&|what| matches!(what, Happening::Finding { code: told, .. } if *told == code));
        assert_eq!(found, expected, "{code:?}");
    }

    // The host removes a working GPU.
    guest.unplug(2).unwrap();
    let status = wait_for(&guest, "the loss of a GPU", |status| status.gpus[2].state == GpuState::Lost);
    assert_eq!((status.outcome, status.phase), (Outcome::Ready, Phase::Running));
    assert_eq!(status.gpus[2].evidence, ["/sys/bus/pci/devices/0000:03:00.0 is gone"]);
    let lost: Vec<_> = status.findings.iter().filter(|finding| finding.code == Code::GpuLost).collect();
    assert_eq!((lost.len(), &lost[0].evidence), (1, &status.gpus[2].evidence));
    assert!(lost[0].message.contains("0000:03:00.0"), "{lost:?}");
}
