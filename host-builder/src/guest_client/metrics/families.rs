//! The metrics, and how they are computed from a status.

use super::sample::{Family, Sample, Value, Word};
use image::status::{Container, Finding, Gpu, GpuState, Outcome, Status};
use image::text::name;
use std::collections::BTreeMap;

/// Most GPUs of one guest with their own series. The others are only counted by state.
const GPUS: usize = 32;
/// Most series of Xids of one guest. More are left out.
const XIDS: usize = 256;

const fn gauge(name: &'static str, labels: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: "gauge", labels }
}

const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: "counter", labels }
}

/// Whether a guest could be queried.
pub const UP: Family = gauge("gpu_initrd_up", "", "Whether the guest could be queried.");
const INFO: Family = gauge("gpu_initrd_info", "driver, kernel, version", "Versions of the guest; always 1.");
const READY: Family = gauge("gpu_initrd_ready", "", "Whether the boot is ready.");
const FAILED: Family = gauge("gpu_initrd_failed", "", "Whether the boot has failed.");
const UPTIME: Family = gauge("gpu_initrd_uptime_seconds", "", "Time since the guest's kernel started.");
const PHASE: Family = gauge("gpu_initrd_phase_seconds", "phase", "Duration of a phase of the boot so far.");
const STATE: Family = gauge("gpu_initrd_gpus", "state", "GPUs by their state.");
const INIT: Family = gauge("gpu_initrd_gpu_init_seconds", "bdf", "Duration of the initialisation of a GPU.");
const FINDINGS: Family = gauge("gpu_initrd_findings", "code, severity", "Findings of the boot so far.");
const XID: Family = counter("gpu_initrd_xid_total", "bdf, xid", "Errors that the driver reported for a GPU.");
const RUNNING: Family =
    gauge("gpu_initrd_container_running", "", "Whether the container's program is running.");
const EXIT: Family = gauge(
    "gpu_initrd_container_exit_code",
    "",
    "Exit code of the container's program, or 128 plus the signal that killed it; after a restart, of the previous run.",
);
const RESTARTS: Family =
    counter("gpu_initrd_container_restarts_total", "", "Restarts of the container's program.");
const OOM: Family = counter(
    "gpu_initrd_container_oom_kills_total",
    "",
    "Processes of the container that the kernel killed because memory ran out.",
);
const MEMORY: Family = gauge(
    "gpu_initrd_memory_bytes",
    "kind",
    "Memory of the guest: total, available, and the peak resident memory of guest-init (init).",
);

/// All, in the order in which they are written.
pub const FAMILIES: &[Family] = &[
    UP, INFO, READY, FAILED, UPTIME, PHASE, STATE, INIT, FINDINGS, XID, RUNNING, EXIT, RESTARTS, OOM, MEMORY,
];

impl Sample {
    /// Whether a guest could be queried.
    pub fn up(is_up: bool) -> Self {
        Self { family: &UP, labels: Vec::new(), value: Value::Count(is_up.into()) }
    }
}

fn sample(family: &'static Family, labels: Vec<(&'static str, Word)>, value: Value) -> Sample {
    Sample { family, labels, value }
}

fn plain(family: &'static Family, value: impl Into<u64>) -> Sample {
    sample(family, Vec::new(), Value::Count(value.into()))
}

fn ours(value: impl serde::Serialize) -> Word {
    Word::Ours(name(value))
}

/// The samples of a status.
pub fn samples(status: &Status) -> Vec<Sample> {
    let guests = |text: &str| Word::Guests(text.to_owned());
    let driver = status.driver_loaded.as_deref().unwrap_or("none");
    let info = vec![
        ("driver", guests(driver)),
        ("kernel", guests(&status.kernel)),
        ("version", guests(&status.version)),
    ];
    let mut all = vec![
        sample(&INFO, info, Value::Count(1)),
        plain(&READY, status.outcome == Outcome::Ready),
        plain(&FAILED, status.outcome == Outcome::Failed),
        sample(&UPTIME, Vec::new(), Value::Millis(status.uptime_ms)),
    ];
    all.extend(phases(status));
    all.extend(gpus(&status.gpus));
    all.extend(findings(&status.findings));
    all.extend(container(status.container.as_ref()));
    if let Some(memory) = status.memory {
        let kinds = [("total", memory.total), ("available", memory.available), ("init", memory.init)];
        all.extend(kinds.map(|(kind, bytes)| {
            sample(&MEMORY, vec![("kind", Word::Ours(kind.into()))], Value::Count(bytes))
        }));
    }
    all
}

fn phases(status: &Status) -> Vec<Sample> {
    let mut by: BTreeMap<_, u64> = BTreeMap::new();
    for time in &status.phases {
        let took = time.end_ms.unwrap_or(status.uptime_ms).saturating_sub(time.start_ms);
        let sum = by.entry(time.phase).or_default();
        *sum = sum.saturating_add(took);
    }
    let of = |(phase, ms)| sample(&PHASE, vec![("phase", ours(phase))], Value::Millis(ms));
    by.into_iter().map(of).collect()
}

fn gpus(gpus: &[Gpu]) -> Vec<Sample> {
    const STATES: [GpuState; 7] = [
        GpuState::Found,
        GpuState::Unsupported,
        GpuState::Bound,
        GpuState::Initialising,
        GpuState::Ready,
        GpuState::Failed,
        GpuState::Lost,
    ];
    let mut all: Vec<Sample> = STATES
        .iter()
        .map(|state| {
            let count = gpus.iter().filter(|gpu| gpu.state == *state).count();
            sample(&STATE, vec![("state", ours(state))], Value::Count(count as u64))
        })
        .collect();
    let mut xids = 0;
    for gpu in gpus.iter().take(GPUS) {
        let bdf = || ("bdf", Word::Guests(gpu.bdf.clone()));
        all.extend(gpu.init_ms.map(|ms| sample(&INIT, vec![bdf()], Value::Millis(ms))));
        for xid in gpu.xids.iter().take(XIDS - xids) {
            let code = ("xid", Word::Guests(xid.code.to_string()));
            all.push(sample(&XID, vec![bdf(), code], Value::Count(xid.count.into())));
            xids += 1;
        }
    }
    all
}

fn findings(findings: &[Finding]) -> Vec<Sample> {
    let mut by: BTreeMap<(String, String), u64> = BTreeMap::new();
    for finding in findings {
        *by.entry((finding.code.name(), name(finding.severity))).or_default() += 1;
    }
    let of = |((code, severity), count)| {
        let labels = vec![("code", Word::Ours(code)), ("severity", Word::Ours(severity))];
        sample(&FINDINGS, labels, Value::Count(count))
    };
    by.into_iter().map(of).collect()
}

fn container(container: Option<&Container>) -> Vec<Sample> {
    let Some(container) = container else { return vec![plain(&RUNNING, false)] };
    let mut all = vec![
        plain(&RUNNING, container.exit.is_none()),
        plain(&RESTARTS, container.restarts),
        plain(&OOM, container.oom_kills),
    ];
    // As a shell says it.
    let exit = container.exit.or(container.last_exit);
    let code = exit.and_then(|exit| exit.code.or(exit.signal.map(|signal| signal.saturating_add(128))));
    let code = code.and_then(|code| u64::try_from(code).ok());
    all.extend(code.map(|code| plain(&EXIT, code)));
    all
}
