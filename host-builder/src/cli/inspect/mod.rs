//! `inspect`: shows what an initramfs contains, which versions, and why.

pub(crate) mod ld_cache;
mod modules;
mod report;
mod text;

pub use self::modules::releases;
use super::list::{files, names, warn};
use crate::common::error::Result;
use crate::common::files::{base_name, write_text};
use crate::common::plot::{self, Bar, Tone};
use crate::common::ui::{megabytes, print_as_json, print_bytes, print_wrapped};
use crate::initramfs::manifest::is_manifest;
use crate::initramfs::{Archive, Want, absolute};
use clap::Args;
use report::{InspectReport, LARGEST};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) const INSPECT_HELP: &str = "\
Examples:
  host-builder inspect out/initrd.img
  host-builder inspect --files /boot/initrd.img
  host-builder inspect out/initrd.img --plot initrd.svg
  host-builder inspect --ld-cache root/etc/ld.so.cache

Exit codes: 0 success, 2 the file does not exist, or is neither an initramfs nor a loader cache.";

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Initramfs to show, built by this or any other tool.
    #[arg(required_unless_present = "ld_cache")]
    pub image: Option<PathBuf>,
    /// Also print every entry, in order.
    #[arg(long, requires = "image")]
    pub files: bool,
    /// Also draw the sizes by origin and the largest files as an SVG file.
    #[arg(long, value_name = "FILE.svg", requires = "image")]
    pub plot: Option<PathBuf>,
    /// Loader cache (`ld.so.cache`) to print instead.
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub ld_cache: Option<PathBuf>,
    /// Print everything, including the entries, as JSON to standard output.
    #[arg(long)]
    pub json: bool,
}

/// A report with the entries, for `--json`.
#[derive(Serialize)]
struct WithFiles<F> {
    #[serde(flatten)]
    report: InspectReport,
    files: F,
}

/// Runs the command.
pub fn run(args: &Inspect) -> Result<ExitCode> {
    if let Some(cache) = &args.ld_cache {
        ld_cache::print(cache, args.json)?;
    } else if let Some(image) = &args.image {
        initramfs(args, image)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn initramfs(args: &Inspect, path: &Path) -> Result<()> {
    let archive = Archive::open(path)?;
    let keep = |entry: &crate::initramfs::cpio::Entry| {
        is_manifest(entry) || modules::is_module(&entry.text()) || report::is_told_by(&absolute(&entry.name))
    };
    let contents = archive.read(&Want { digests: false, keep: &keep })?;
    let tree = contents.tree();
    let report = InspectReport::of(&contents, &tree, path, archive.size())?;
    if let Some(picture) = &args.plot {
        write_text(picture, &plot(&report)?)?;
    }
    if args.json {
        print_as_json(&WithFiles { report, files: files(&contents, &tree) });
        return Ok(());
    }
    print_wrapped(&report.to_string());
    warn(path, &contents, &tree);
    if args.files {
        print_wrapped("\nfiles, in order:\n");
        print_bytes(&names(&contents, std::io::stdout().is_terminal()));
    }
    Ok(())
}

/// What fills an image: the bytes by origin or directory, then the largest files.
#[allow(clippy::cast_precision_loss, reason = "a picture has no single bytes")]
fn plot(report: &InspectReport) -> Result<String> {
    let bar = |label: &str, bytes: u64, tone: Tone| Bar {
        label: label.to_owned(),
        range: (0.0, bytes as f64 / 1e6),
        tone,
        note: megabytes(bytes),
    };
    let origins = report.sizes.iter().map(|size| bar(&size.of, size.bytes, Tone::Neutral));
    // Of a path its end says most.
    let files =
        report.largest.iter().map(|(path, bytes)| bar(&format!("  {}", base_name(path)), *bytes, Tone::Good));
    let bars: Vec<_> = origins.take(LARGEST).chain(files).collect();
    let title = format!("{}: {} unpacked", report.image, megabytes(report.unpacked_bytes));
    plot::svg(&title, "MB", &bars)
}
