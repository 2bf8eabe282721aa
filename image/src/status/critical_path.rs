//! What the program waited for: the steps of a boot that, one after the other, led to its start.

use super::{Gpu, Phase, Status};
use crate::text::name;
use serde::{Deserialize, Serialize};

/// A step that the start of the program waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Step {
    /// A phase, the driver's module `nvidia`, or the PCI address of a GPU whose adapter initialised.
    pub name: String,
    /// Milliseconds from the start of the kernel to its start.
    pub start_ms: u64,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What it consisted of, as far as that was waited for, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Step>,
}

/// The driver's module, as a step.
const MODULE: &str = "nvidia";

/// A period that has ended.
struct Span {
    name: String,
    start: u64,
    end: u64,
}

/// Returns the steps that the program waited for, from the start of guest-init on; empty before the program has started. From the start
/// of the program back, each step is the one that ended last before the next one began. The phase of the GPUs consists of the payload, the
/// driver's module and the adapters, which come up one after the other.
pub fn critical_path(status: &Status) -> Vec<Step> {
    let running = status.phases.iter().find(|time| time.phase == Phase::Running);
    let Some(program) = running.map(|time| time.start_ms) else { return Vec::new() };
    let mut phases = Vec::new();
    for time in status.phases.iter().filter(|time| time.phase < Phase::Running) {
        phases.extend(time.end_ms.map(|end| Span { name: name(time.phase), start: time.start_ms, end }));
    }
    let mut steps = back_from(program, &phases);
    let gpus = name(Phase::Gpu);
    if let Some(step) = steps.iter_mut().find(|step| step.name == gpus) {
        let payload = phases.into_iter().find(|span| span.name == name(Phase::Payload));
        let adapters: Vec<_> = status.gpus.iter().filter_map(adapter).collect();
        // It is loaded from the end of the payload until the first adapter begins.
        let first = adapters.iter().map(|span| span.start).min();
        let start = payload.as_ref().map_or(step.start_ms, |payload| payload.end);
        let module = first.map(|end| Span { name: MODULE.into(), start, end });
        let parts: Vec<_> = payload.into_iter().chain(module).chain(adapters).collect();
        step.parts = back_from(step.start_ms + step.ms, &parts);
    }
    steps
}

fn adapter(gpu: &Gpu) -> Option<Span> {
    let start = gpu.init_start_ms?;
    Some(Span { name: gpu.bdf.clone(), start, end: start.saturating_add(gpu.init_ms?) })
}

/// The chain of spans that ends at `end`.
fn back_from(end: u64, spans: &[Span]) -> Vec<Step> {
    let (mut steps, mut now) = (Vec::new(), end);
    // What took no time, such as a phase that was skipped, was not waited for.
    let before = |span: &&Span, now| span.end <= now && span.start < span.end.min(now);
    while let Some(span) = spans.iter().filter(|span| before(span, now)).max_by_key(|span| span.end) {
        let ms = span.end.saturating_sub(span.start);
        steps.push(Step { name: span.name.clone(), start_ms: span.start, ms, parts: Vec::new() });
        now = span.start;
    }
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{PhaseOutcome, PhaseTime};

    fn status(phases: &[(Phase, u64, u64)], gpus: &[(u64, u64)]) -> Status {
        let time = |&(phase, start_ms, end)| PhaseTime {
            phase,
            start_ms,
            end_ms: Some(end),
            outcome: PhaseOutcome::Done,
            progress: None,
        };
        let gpu = |(number, &(start, ms)): (usize, &(u64, u64))| Gpu {
            bdf: format!("gpu{number}"),
            init_start_ms: Some(start),
            init_ms: Some(ms),
            ..Gpu::default()
        };
        Status {
            phases: phases.iter().map(time).collect(),
            gpus: gpus.iter().enumerate().map(gpu).collect(),
            ..Status::default()
        }
    }

    fn shown(steps: &[Step]) -> String {
        let one = |step: &Step| {
            let parts =
                if step.parts.is_empty() { String::new() } else { format!(" ({})", shown(&step.parts)) };
            format!("{} {}{parts}", step.name, step.ms)
        };
        steps.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_longer_of_two_branches_is_what_was_waited_for() {
        let phases = [
            (Phase::Start, 100, 110),
            (Phase::Modules, 110, 200),
            (Phase::Gpu, 210, 5000),
            (Phase::Payload, 220, 300),
            (Phase::Root, 310, 350),
            (Phase::Inject, 350, 900),
            (Phase::Cache, 900, 1500),
            (Phase::Exec, 5001, 5100),
            (Phase::Running, 5100, 9000),
        ];
        let path = critical_path(&status(&phases, &[(800, 2000), (2800, 2150)]));
        assert_eq!(
            shown(&path),
            "start 10, modules 90, gpu 4790 (payload 80, nvidia 500, gpu0 2000, gpu1 2150), exec 99"
        );
        // The other branch has begun with the payload, too.
        let slow_cache = [
            &phases[..6],
            &[(Phase::Cache, 900, 6000), (Phase::Exec, 6000, 6001), (Phase::Running, 6001, 6001)],
        ]
        .concat();
        let path = critical_path(&status(&slow_cache, &[]));
        assert_eq!(shown(&path), "start 10, modules 90, payload 80, root 40, inject 550, cache 5100, exec 1");
        let slow_root = [
            (Phase::Gpu, 10, 20),
            (Phase::Root, 11, 500),
            (Phase::Exec, 500, 510),
            (Phase::Running, 510, 510),
        ];
        assert_eq!(shown(&critical_path(&status(&slow_root, &[]))), "root 489, exec 10");
        assert!(critical_path(&status(&phases[..3], &[])).is_empty(), "the program has not started");
    }

    proptest::proptest! {
        #[test]
        fn any_times_give_a_path_that_ends(spans: Vec<(u8, u8)>, gpus: Vec<(u64, u64)>) {
            let phase = |(number, &(start, length)): (usize, &(u8, u8))| {
                let phase = Phase::IN_ORDER[number % Phase::IN_ORDER.len()];
                (phase, u64::from(start), u64::from(start) + u64::from(length))
            };
            let phases: Vec<_> = spans.iter().enumerate().map(phase).collect();
            let gpus: Vec<_> = gpus.iter().take(20).copied().collect();
            let path = critical_path(&status(&phases, &gpus));
            proptest::prop_assert!(path.windows(2).all(|two| two[0].start_ms + two[0].ms <= two[1].start_ms));
        }
    }
}
