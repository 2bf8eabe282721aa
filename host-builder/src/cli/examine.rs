//! `examine`: the segments of an initramfs.

use crate::common::error::Result;
use crate::common::ui::{print, print_as_json};
use crate::initramfs::{Archive, Segment};
use clap::Args;
use std::fmt::Write;
use std::path::PathBuf;

pub(crate) const EXAMINE_HELP: &str = "\
Examples:
  host-builder examine /boot/initrd.img
  dd if=initrd.img iflag=skip_bytes,count_bytes skip=OFFSET count=SIZE | zstd -d | cpio -t

Exit codes: 0 success, 2 the file does not exist or is not an initramfs.";

/// Arguments of `examine`.
#[derive(Debug, Args)]
pub struct Examine {
    /// The initramfs.
    pub image: PathBuf,
    /// Print the segments as JSON to standard output.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &Examine) -> Result<()> {
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

/// One line per segment.
pub fn table(segments: &[Segment]) -> String {
    let mut text = format!("{:>12} {:>12} {:>12}  compression\n", "offset", "size", "unpacked");
    for Segment { offset, size, compression, unpacked } in segments {
        let name = if compression.name() == "cpio" { "none" } else { compression.name() };
        let _ = writeln!(text, "{offset:>12} {size:>12} {unpacked:>12}  {name}");
    }
    text
}
