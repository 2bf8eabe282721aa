//! Derives events from changes on the board, except findings, whose events are recorded when they are added.

use image::event::Happening;
use image::status::{GpuState, Outcome, PhaseOutcome, Status};

/// The parts of a status whose changes become events.
pub(crate) struct Seen {
    outcome: Outcome,
    phases: Vec<PhaseOutcome>,
    gpus: Vec<GpuState>,
    started: Option<(u32, u32)>,
    exited: bool,
}

impl Seen {
    pub(crate) fn of(status: &Status) -> Self {
        Self {
            outcome: status.outcome,
            phases: status.phases.iter().map(|time| time.outcome).collect(),
            gpus: status.gpus.iter().map(|gpu| gpu.state).collect(),
            started: status.container.as_ref().map(|container| (container.pid, container.restarts)),
            exited: status.container.as_ref().is_some_and(|container| container.exit.is_some()),
        }
    }

    pub(crate) fn changes(&self, status: &Status) -> Vec<Happening> {
        let mut changes = Vec::new();
        for (at, time) in status.phases.iter().enumerate() {
            if self.phases.get(at) != Some(&time.outcome) {
                changes.push(Happening::Phase { phase: time.phase, outcome: time.outcome });
            }
        }
        for (at, gpu) in status.gpus.iter().enumerate() {
            if self.gpus.get(at) != Some(&gpu.state) {
                changes.push(Happening::Gpu { bdf: gpu.bdf.clone(), state: gpu.state });
            }
        }
        if let Some(container) = &status.container {
            let (pid, restarts) = (container.pid, container.restarts);
            let is_new = self.started != Some((pid, restarts));
            if is_new {
                changes.push(Happening::Started { pid, restarts });
            }
            if let Some(exit) = container.exit.filter(|_| is_new || !self.exited) {
                changes.push(Happening::Exited(exit));
            }
        }
        if status.outcome != self.outcome {
            changes.push(Happening::Outcome(status.outcome));
        }
        changes
    }
}
