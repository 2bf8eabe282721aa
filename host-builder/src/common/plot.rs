//! Bars as an SVG picture.

use super::clean::clean;
use super::error::{Error, Result};
use plotters::prelude::*;
use std::fmt::Display;

/// Width of a picture and height of a bar, in pixels.
const WIDTH: u32 = 1000;
const BAR: u32 = 22;
/// Pixels for the title and the axis, and for the labels.
const FRAME: u32 = 90;
const LABELS: u32 = 300;
/// Most characters of a label.
const MAX_LABEL: usize = 40;
/// Most bars of one picture, so that a hostile image cannot make it grow without limit.
const MAX_BARS: usize = 60;
/// Limits of the axis. The numbers come from a guest or an image, and the library's search for tick
/// marks takes longer for large ones.
const SMALLEST: f64 = 0.001;
const LARGEST: f64 = 1e9;
const FONT: (&str, i32) = ("sans-serif", 13);

/// Meaning of a bar's colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Success.
    Good,
    /// Failure.
    Bad,
    /// In progress.
    Open,
    /// Neutral.
    Neutral,
}

impl Tone {
    fn colour(self) -> RGBColor {
        match self {
            Self::Good => RGBColor(72, 150, 90),
            Self::Bad => RGBColor(196, 64, 56),
            Self::Open => RGBColor(216, 164, 48),
            Self::Neutral => RGBColor(84, 124, 176),
        }
    }
}

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// The text to its left.
    pub label: String,
    /// Its start and end.
    pub range: (f64, f64),
    /// Its colour.
    pub tone: Tone,
    /// The text to its right.
    pub note: String,
}

/// Draws bars from top to bottom on an axis that starts at 0 and counts `unit`.
///
/// # Errors
/// The library cannot draw the picture.
pub fn svg(title: &str, unit: &str, bars: &[Bar]) -> Result<String> {
    let bars = &bars[..bars.len().min(MAX_BARS)];
    let mut picture = String::new();
    draw(&mut picture, title, unit, bars)
        .map_err(|error| Error::new(format!("the picture cannot be drawn: {error}")))?;
    Ok(picture)
}

fn draw(
    picture: &mut String,
    title: &str,
    unit: &str,
    bars: &[Bar],
) -> std::result::Result<(), impl Display + use<>> {
    let count = bars.len().max(1);
    let height = FRAME + BAR * u32::try_from(count).unwrap_or(0);
    let bounded = |number: f64| number.clamp(0.0, LARGEST);
    let end = bars.iter().map(|bar| bounded(bar.range.1)).fold(SMALLEST, f64::max);
    let area = SVGBackend::with_string(picture, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    // Space for the note after the longest bar.
    let mut chart = ChartBuilder::on(&area)
        .caption(clean(title, 100), ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(LABELS)
        .build_cartesian_2d(0.0..end * 1.25, (0..count - 1).into_segmented())?;
    // The axis counts from the bottom.
    let of = |place: usize| (count - 1).checked_sub(place).and_then(|at| bars.get(at));
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc(unit)
        .y_labels(count)
        .label_style(FONT)
        .y_label_formatter(&|place| match place {
            SegmentValue::CenterOf(place) => {
                of(*place).map_or_else(String::new, |bar| clean(&bar.label, MAX_LABEL))
            }
            _ => String::new(),
        })
        .draw()?;
    chart.draw_series((0..count).filter_map(|place| {
        let bar = of(place)?;
        let (from, to) = (bounded(bar.range.0), bounded(bar.range.1));
        let corners = [(from, SegmentValue::Exact(place)), (to, SegmentValue::Exact(place + 1))];
        let mut rectangle = Rectangle::new(corners, bar.tone.colour().filled());
        rectangle.set_margin(3, 3, 0, 0);
        Some(rectangle)
    }))?;
    chart.draw_series((0..count).filter_map(|place| {
        let bar = of(place)?;
        let at = (bounded(bar.range.1), SegmentValue::CenterOf(place));
        Some(EmptyElement::at(at) + Text::new(clean(&bar.note, MAX_LABEL), (6, -6), FONT))
    }))?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picture_has_every_bar_and_no_foreign_markup() {
        let bar =
            |label: &str, range, tone| Bar { label: label.into(), range, tone, note: "0.4 s <b>".into() };
        let bars = [
            bar("start", (0.0, 0.4), Tone::Good),
            bar("</svg><script>alert(1)</script>", (0.4, 1.5), Tone::Bad),
            bar("\x1b[2Jroot", (0.4, 0.4), Tone::Open),
        ];
        let picture = svg("the boot", "seconds", &bars).unwrap();
        assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"), "{picture}");
        assert_eq!(picture.matches("</svg>").count(), 1);
        assert!(
            !picture.contains("<script") && !picture.contains("<b>") && !picture.contains('\x1b'),
            "{picture}"
        );
        for part in ["the boot", "seconds", "start", "root", "0.4 s"] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        assert!(svg("nothing", "", &[]).is_ok());
        let many = vec![bar("x", (0.0, f64::MAX), Tone::Neutral); 100_000];
        assert!(svg("many", "", &many).unwrap().len() < 100_000);
    }
}
