//! The timeline of the boot, from the start of the kernel.

use super::screen::{ENTRIES, View, WORD, exact};
use crate::common::clean::clean;
use crate::common::error::Result;
use crate::common::plot::{self, Bar, Tone};
use crate::common::terminal::{GREEN, RED, YELLOW};
use image::status::{Gpu, GpuState, Phase, PhaseOutcome, PhaseTime, Status, Step, critical_path};
use image::text::name;

/// Width of the line in characters, if there is room.
const WIDTH: usize = 32;
/// Width if there is not enough room.
const NARROW: usize = 8;
/// Width of everything next to the line: the column `boot`, start, length, `… 99 of 99`.
const BESIDE: usize = 11 + 2 + 1 + 9 + 9 + 2 + 10;

/// A period with a start and an optional end.
struct Span {
    name: String,
    start: u64,
    end: Option<u64>,
    code: &'static str,
    word: String,
}

impl Span {
    /// Its end, or now where it has none.
    fn last(&self, status: &Status) -> u64 {
        self.end.unwrap_or(status.uptime_ms).max(self.start)
    }
}

/// Every phase, and below that of the GPUs each GPU.
fn spans(status: &Status) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut gpus = status.gpus.iter().take(ENTRIES);
    for time in status.phases.iter().take(ENTRIES) {
        spans.push(of_phase(time));
        if time.phase == Phase::Gpu {
            spans.extend(gpus.by_ref().filter_map(|gpu| of_gpu(gpu, time)));
        }
    }
    spans
}

/// The boot as an SVG picture.
///
/// # Errors
/// When it cannot be drawn.
#[allow(clippy::cast_precision_loss, reason = "a picture has no milliseconds of years")]
pub fn plot(status: &Status) -> Result<String> {
    let second = |ms: u64| ms as f64 / 1000.0;
    let bar = |span: Span| {
        let last = span.last(status);
        let tone = match span.code {
            GREEN => Tone::Good,
            RED => Tone::Bad,
            _ => Tone::Open,
        };
        let note = format!("{} s {}", exact(last - span.start), span.word);
        Bar { label: span.name, range: (second(span.start), second(last)), tone, note }
    };
    // The program runs as long as it likes: the picture is that of the boot.
    let boot = spans(status).into_iter().filter(|span| span.name != name(Phase::Running));
    let bars: Vec<_> = boot.map(bar).collect();
    let title = format!("boot of kernel {}: {}", status.kernel, name(status.outcome));
    plot::svg(&title, "seconds since the kernel started", &bars)
}

impl View {
    pub(super) fn timeline(&mut self, status: &Status) {
        let spans = spans(status);
        let last = |span: &Span| span.last(status);
        let whole = spans.iter().map(last).max().unwrap_or_default();
        let width = spans.iter().map(|span| span.name.chars().count()).max().unwrap_or_default();
        let room = self.look.columns.map_or(WIDTH, |columns| columns.saturating_sub(BESIDE + width));
        let room = room.clamp(NARROW, WIDTH);
        let row = |span: &Span| {
            let took = last(span) - span.start;
            let bar = self.paint(span.code, &bar(span.start, last(span), whole, room));
            let word = if span.word.is_empty() { String::new() } else { format!("  {}", span.word) };
            format!("{:<width$}  {bar} {:>9} +{} s{word}", span.name, exact(span.start), exact(took))
        };
        let rows: Vec<_> = spans.iter().map(row).collect();
        self.rows("boot", &rows);
        self.more(status.phases.len(), ENTRIES, "phases");
        let path = critical_path(status);
        if !path.is_empty() {
            self.rows("waited for", &[waited_for(&path)]);
        }
    }
}

/// `start 0.219, gpu 5.100 (payload 0.300, 0000:01:00.0 4.600), exec 0.060 s`.
fn waited_for(path: &[Step]) -> String {
    let step = |step: &Step| format!("{} {}", clean(&step.name, WORD), exact(step.ms));
    let all = |steps: &[Step]| steps.iter().take(ENTRIES).map(step).collect::<Vec<_>>().join(", ");
    let whole = |found: &Step| match found.parts.as_slice() {
        [] => step(found),
        parts => format!("{} ({})", step(found), all(parts)),
    };
    path.iter().take(ENTRIES).map(whole).collect::<Vec<_>>().join(", ") + " s"
}

fn of_phase(time: &PhaseTime) -> Span {
    let progress = time.progress.map(|progress| format!("{} of {}", progress.done, progress.total));
    let (code, word) = match time.outcome {
        PhaseOutcome::Done => (GREEN, String::new()),
        PhaseOutcome::Skipped => (GREEN, "skipped".into()),
        PhaseOutcome::Failed => (RED, "failed".into()),
        PhaseOutcome::Running => (YELLOW, progress.map_or("…".into(), |progress| format!("… {progress}"))),
    };
    Span { name: name(time.phase), start: time.start_ms, end: time.end_ms, code, word }
}

/// The initialisation of one GPU, which is a part of the phase.
fn of_gpu(gpu: &Gpu, phase: &PhaseTime) -> Option<Span> {
    let start = gpu.init_start_ms?;
    let (code, end) = match gpu.state {
        GpuState::Ready | GpuState::Lost => (GREEN, Some(gpu.init_ms.unwrap_or_default())),
        GpuState::Failed | GpuState::Unsupported => (RED, Some(gpu.init_ms.unwrap_or_default())),
        GpuState::Found | GpuState::Bound | GpuState::Initialising => (YELLOW, gpu.init_ms),
    };
    let end = end.map(|took| start.saturating_add(took)).or(phase.end_ms);
    Some(Span { name: format!("  {}", clean(&gpu.bdf, WORD)), start, end, code, word: name(gpu.state) })
}

/// The part of the whole from `start` to `end` on a line of `width` characters, at least one of
/// them.
fn bar(start: u64, end: u64, whole: u64, width: usize) -> String {
    let place = |ms: u64| {
        let place = u128::from(ms) * width as u128 / u128::from(whole.max(1));
        usize::try_from(place).unwrap_or(usize::MAX).min(width)
    };
    let from = place(start).min(width - 1);
    let to = place(end).max(from + 1);
    format!("{}{}{}", "·".repeat(from), "━".repeat(to - from), "·".repeat(width - to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_one_width_whatever_the_numbers_are() {
        assert_eq!(bar(0, 16, 32, 32), "━".repeat(16) + &"·".repeat(16));
        assert_eq!(bar(31, 31, 32, 32), "·".repeat(31) + "━");
        for (start, end, whole) in [(0, 0, 0), (u64::MAX, u64::MAX, u64::MAX), (9, 9, 9), (5, u64::MAX, 6)] {
            assert_eq!(bar(start, end, whole, 32).chars().count(), 32, "{start} {end} {whole}");
        }
    }
}
