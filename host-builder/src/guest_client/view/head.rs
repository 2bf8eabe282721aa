//! The first lines of the view: the state, and the findings.

use super::screen::{ENTRIES, EVIDENCE, LINE, View, WORD, seconds, severity, state};
use crate::common::clean::clean;
use crate::common::terminal::{BOLD, DIM};
use image::status::{Finding, Status};

impl View {
    pub(super) fn header(&mut self, status: &Status) {
        let (code, word) = state(status);
        let driver = match (&status.driver_planned, &status.driver_loaded) {
            (None, None) => "no driver".to_owned(),
            (Some(planned), None) => format!("driver {} (not loaded)", clean(planned, WORD)),
            (Some(planned), Some(loaded)) if planned == loaded => {
                format!("driver {} (loaded)", clean(loaded, WORD))
            }
            (planned, Some(loaded)) => {
                let planned = planned.as_deref().unwrap_or("none");
                format!("driver {} (loaded; planned {})", clean(loaded, WORD), clean(planned, WORD))
            }
        };
        let line = format!(
            "{}  phase {}, up {}, kernel {}, {driver}, guest-init {}",
            self.paint(&format!("{BOLD};{code}"), &word),
            image::text::name(status.phase),
            seconds(status.uptime_ms),
            clean(&status.kernel, WORD),
            clean(&status.version, WORD),
        );
        self.line(&line);
    }

    /// The most important finding in full, the others in short form.
    pub(super) fn findings(&mut self, findings: &[Finding]) {
        let mut sorted: Vec<_> = findings.iter().collect();
        sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        for (at, finding) in sorted.iter().take(ENTRIES).enumerate() {
            let (code, word) = severity(finding.severity);
            let head = self.paint(code, &format!("{word} {}", finding.code.name()));
            self.line(&format!("{head}: {}", clean(&finding.message, LINE)));
            if at == 0 {
                self.evidence(&finding.evidence);
            }
            if !finding.hint.is_empty() {
                self.line(&format!("    what to do: {}", clean(&finding.hint, LINE)));
            }
            if at == 0 {
                // By the code, which is ours, not by the guest's words.
                self.line(&format!("    more: host-builder explain {}", finding.code.name()));
            }
        }
        self.more(sorted.len(), ENTRIES, "findings");
    }

    pub(super) fn evidence(&mut self, lines: &[String]) {
        for line in lines.iter().take(EVIDENCE) {
            let line = self.paint(DIM, &format!("    | {}", clean(line, LINE)));
            self.line(&line);
        }
        self.more(lines.len(), EVIDENCE, "lines");
    }
}
