//! `examine`: the segments of an initramfs.

use crate::archive::{Archive, Segment};
use crate::cli::Examine as Arguments;
use crate::error::Result;
use crate::ui::{print, print_as_json};
use std::fmt::Write;

/// Runs the command.
pub fn run(args: &Arguments) -> Result<()> {
    let archive = Archive::open(&args.image)?;
    let segments = archive.segments()?;
    if args.json {
        let report = serde_json::json!({ "image": args.image, "size": archive.size(), "segments": segments });
        print_as_json(&report);
    } else {
        print(&table(&segments));
    }
    Ok(())
}

/// A line for each segment.
pub fn table(segments: &[Segment]) -> String {
    let mut text = format!("{:>12} {:>12} {:>12}  compression\n", "offset", "size", "unpacked");
    for Segment { offset, size, compression, unpacked } in segments {
        let name = if compression.name() == "cpio" { "none" } else { compression.name() };
        let _ = writeln!(text, "{offset:>12} {size:>12} {unpacked:>12}  {name}");
    }
    text
}
