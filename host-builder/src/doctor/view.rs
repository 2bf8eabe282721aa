//! The report as text: failures first, with remedies. All text is cleaned, because some of it comes
//! from an image, and every list is limited; `--json` has everything.

use super::report::{Check, DoctorReport, Verdict};
use crate::common::clean::clean;
use crate::common::terminal::{BOLD, DIM, GREEN, Look, RED, YELLOW};

/// Longest sentence, and longest line of evidence.
const SENTENCE: usize = 600;
const LINE: usize = 240;
/// Most lines of evidence of one check.
const EVIDENCE: usize = 8;

/// The report as text.
pub fn screen(report: &DoctorReport, look: Look) -> String {
    let mut checks: Vec<&Check> = report.checks.iter().collect();
    checks.sort_by_key(|check| check.verdict);
    let mut out = String::new();
    for check in checks {
        write(&mut out, check, look);
    }
    let [fail, warn, pass] =
        [Verdict::Fail, Verdict::Warn, Verdict::Pass].map(|verdict| report.count(verdict));
    let line = format!("{fail} failed, {warn} warnings, {pass} passed");
    look.wrap(&(out + &look.paint(BOLD, &line) + "\n"))
}

fn write(out: &mut String, check: &Check, look: Look) {
    let (code, word) = match check.verdict {
        Verdict::Fail => (RED, "fail"),
        Verdict::Warn => (YELLOW, "warn"),
        Verdict::Pass => (GREEN, "pass"),
    };
    let of = check.of.as_ref().map(|of| format!(" {}", clean(of, LINE))).unwrap_or_default();
    let head = look.paint(code, &format!("{word}  {}{of}", check.name));
    out.push_str(&format!("{head}: {}\n", clean(&check.found, SENTENCE)));
    // Evidence of passed checks is not shown.
    if check.verdict != Verdict::Pass {
        for line in check.evidence.iter().take(EVIDENCE) {
            out.push_str(&look.paint(DIM, &format!("      | {}", clean(line, LINE))));
            out.push('\n');
        }
        if check.evidence.len() > EVIDENCE {
            out.push_str(&format!(
                "      … {} more lines; --json has them\n",
                check.evidence.len() - EVIDENCE
            ));
        }
    }
    if !check.remedy.is_empty() {
        out.push_str(&format!("      what to do: {}\n", clean(&check.remedy, SENTENCE)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> DoctorReport {
        let good = Check::pass("kvm", "good").evidence(["proof".into()]);
        let bad = Check::fail("gpu-driver", "bad\x1b[2J\nworse", "mend it").of("0000:01:00.0");
        let bad = bad.evidence((0..20).map(|at| format!("line {at}\u{202e}")));
        DoctorReport::new(None, vec![good, Check::warn("vsock", "doubtful", "look"), bad])
    }

    #[test]
    fn what_fails_comes_first_with_what_to_do() {
        let text = screen(&report(), Look::default());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "fail  gpu-driver 0000:01:00.0: bad worse");
        assert_eq!(lines[1], "      | line 0");
        assert_eq!(lines[9], "      … 12 more lines; --json has them");
        assert_eq!(lines[10], "      what to do: mend it");
        assert_eq!(lines[11], "warn  vsock: doubtful");
        assert_eq!(lines[13], "pass  kvm: good");
        assert_eq!(lines[14], "1 failed, 1 warnings, 1 passed");
        assert_eq!(lines.len(), 15);
    }

    #[test]
    fn escapes_are_only_our_own_and_only_with_colour() {
        assert!(!screen(&report(), Look::default()).contains('\x1b'));
        let colour = screen(&report(), Look::COLOURED);
        assert!(colour.starts_with("\x1b[31mfail") && !colour.contains("\x1b[2J"));
    }
}
