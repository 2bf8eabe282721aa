//! Parts of the status: GPUs, nodes, files, libraries, the container, memory.

use super::screen::{ENTRIES, EVIDENCE, LINE, View, WORD, seconds, worst};
use crate::common::clean::clean;
use crate::common::files::base_name;
use crate::common::terminal::{DIM, GREEN, RED, YELLOW};
use image::status::{Gpu, GpuState, Node, Resolved, Status, Xid};
use image::text::name;
use std::fmt::Write;

impl View {
    pub(super) fn gpus(&mut self, status: &Status) {
        // Evidence of the finding in full is on the screen already.
        let shown: Vec<_> = worst(status).iter().flat_map(|worst| &worst.evidence).take(EVIDENCE).collect();
        if let (Some(expected), []) = (&status.gpus_expected, &status.gpus[..]) {
            self.rows("gpus", &[format!("none, expected {}", clean(expected, WORD))]);
        }
        for (at, gpu) in status.gpus.iter().take(ENTRIES).enumerate() {
            let row = self.gpu(gpu);
            self.rows(if at == 0 { "gpus" } else { "" }, &[row]);
            let new = gpu.evidence.iter().filter(|line| !shown.contains(line));
            self.evidence(&new.cloned().collect::<Vec<_>>());
        }
        self.more(status.gpus.len(), ENTRIES, "GPUs");
    }

    fn gpu(&self, gpu: &Gpu) -> String {
        let code = match gpu.state {
            GpuState::Ready => GREEN,
            GpuState::Failed | GpuState::Unsupported | GpuState::Lost => RED,
            GpuState::Found | GpuState::Bound | GpuState::Initialising => YELLOW,
        };
        let state = self.paint(code, &name(gpu.state));
        let mut row = format!("{}  {:04x}:{:04x}  {state}", clean(&gpu.bdf, WORD), gpu.vendor, gpu.device);
        if let Some(minor) = gpu.minor {
            let _ = write!(row, "  /dev/nvidia{minor}");
        }
        if let Some(ms) = gpu.init_ms {
            let _ = write!(row, "  {ms} ms");
        }
        for word in [&gpu.model, &gpu.uuid].into_iter().flatten() {
            let _ = write!(row, "  {}", clean(word, WORD));
        }
        if let Some(firmware) = &gpu.firmware {
            let _ = write!(row, "  GSP {}", clean(firmware, WORD));
        }
        if let Some(waits_for) = &gpu.waits_for {
            let _ = write!(row, "  waits for {}", clean(waits_for, WORD));
        }
        if !gpu.xids.is_empty() {
            let xid =
                |xid: &Xid| format!("{} ({} times, last at {})", xid.code, xid.count, seconds(xid.last_ms));
            let mut xids: Vec<_> = gpu.xids.iter().take(ENTRIES).map(xid).collect();
            if gpu.xids.len() > ENTRIES {
                xids.push("…".into());
            }
            if gpu.xids_left_out > 0 {
                xids.push(format!("{} older ones left out", gpu.xids_left_out));
            }
            let _ = write!(row, "  {}", self.paint(RED, &format!("Xid {}", xids.join(", "))));
        }
        row
    }

    pub(super) fn nodes(&mut self, status: &Status) {
        if status.nodes.is_empty() {
            return;
        }
        // Those with the numbers, modes and owners that most have need no words.
        let word = |node: &Node| {
            let path = clean(&node.path, WORD);
            let path = path.strip_prefix("/dev/").unwrap_or(&path).to_owned();
            match (node.mode & 0o7777, node.uid, node.gid) {
                (0o666, 0, 0) => path,
                (mode, uid, gid) => format!("{path} ({mode:04o} {uid}:{gid})"),
            }
        };
        let mut words: Vec<_> = status.nodes.iter().take(ENTRIES).map(word).collect();
        if status.nodes.len() > ENTRIES {
            words.push("…".into());
        }
        self.rows("nodes", &[format!("{}: {}", status.nodes.len(), words.join(" "))]);
    }

    pub(super) fn files(&mut self, status: &Status) {
        let last = |path: &str| clean(base_name(path), WORD);
        let links: Vec<_> = status.injected.iter().filter(|entry| entry.link.is_some()).collect();
        if !status.injected.is_empty() {
            let mut row = format!("{} files, {} links", status.injected.len() - links.len(), links.len());
            for (at, link) in links.iter().take(ENTRIES).enumerate() {
                let _ = write!(row, "{} {}", if at == 0 { ":" } else { "" }, last(&link.path));
            }
            if links.len() > ENTRIES {
                row.push_str(" …");
            }
            self.rows("injected", &[row]);
        }
        if let Some(cache) = &status.cache {
            let row =
                format!("{} entries, {} bytes, {} links changed", cache.entries, cache.bytes, cache.links);
            self.rows("cache", &[row]);
        }
    }

    pub(super) fn resolved(&mut self, status: &Status) {
        let row = |library: &Resolved| {
            let name = clean(&library.name, WORD);
            match &library.path {
                None => format!("{name} → {}", self.paint(RED, "not found")),
                Some(path) if library.ours => format!("{name} → {}", clean(path, LINE)),
                Some(path) => {
                    format!("{name} → {} {}", clean(path, LINE), self.paint(RED, "(not the injected file)"))
                }
            }
        };
        let rows: Vec<_> = status.resolved.iter().take(ENTRIES).map(row).collect();
        self.rows("loader", &rows);
        self.more(status.resolved.len(), ENTRIES, "names");
    }

    pub(super) fn container(&mut self, status: &Status) {
        let Some(container) = &status.container else { return };
        let words = container.command.iter().take(ENTRIES).map(|word| clean(word, WORD));
        let command: Vec<_> = words.collect();
        let mut state = match &container.exit {
            None => self.paint(GREEN, "running"),
            Some(exit) => self.paint(if exit.is_success() { GREEN } else { RED }, &exit.to_string()),
        };
        if container.restarts > 0 {
            let times =
                if container.restarts == 1 { "once".into() } else { format!("{} times", container.restarts) };
            let _ = write!(state, ", started again {times}");
        }
        if let Some(last) = container.last_exit {
            let _ = write!(state, " (the run before: {last})");
        }
        if container.oom_kills > 0 {
            let _ = write!(state, ", {} killed for memory", container.oom_kills);
        }
        let row = format!("pid {}, {state}: {}", container.pid, clean(&command.join(" "), LINE));
        self.rows("container", &[row]);
        // The last ones say most.
        let skipped = container.output.len().saturating_sub(EVIDENCE);
        for line in &container.output[skipped..] {
            let line = self.paint(DIM, &format!("    | {}", clean(line, LINE)));
            self.line(&line);
        }
    }

    pub(super) fn memory(&mut self, status: &Status) {
        if let Some(memory) = &status.memory {
            let (available, total) = (memory.available >> 20, memory.total >> 20);
            let row = format!(
                "{available} of {total} MiB available; guest-init had at most {} KiB",
                memory.init >> 10
            );
            self.rows("memory", &[row]);
        }
    }
}
