//! `inspect`: what an initramfs is, which versions are in it, and why.

mod modules;
mod report;
mod text;

use super::list::{files, names, warn};
use super::manifest_of::is_manifest;
use crate::archive::{Archive, Want, absolute};
use crate::cli::Inspect as Arguments;
use crate::error::Result;
use crate::ui::{print_as_json, print_bytes, print_wrapped};
pub use modules::releases;
use report::Report;
use serde::Serialize;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

/// A report with the entries, for `--json`.
#[derive(Serialize)]
struct WithFiles<F> {
    #[serde(flatten)]
    report: Report,
    files: F,
}

/// Runs the command.
pub fn run(args: &Arguments) -> Result<ExitCode> {
    if let Some(cache) = &args.ld_cache {
        super::ld_cache::print(cache, args.json)?;
    } else if let Some(image) = &args.image {
        initramfs(args, image)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn initramfs(args: &Arguments, path: &Path) -> Result<()> {
    let archive = Archive::open(path)?;
    let keep = |entry: &crate::archive::cpio::Entry| {
        is_manifest(entry) || modules::is_module(&entry.text()) || report::is_told_by(&absolute(&entry.name))
    };
    let contents = archive.read(&Want { digests: false, keep: &keep })?;
    let tree = contents.tree();
    let report = Report::of(&contents, &tree, path, archive.size())?;
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
