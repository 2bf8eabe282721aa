//! `extract`: an initramfs as a directory.

use super::list::warn;
use crate::common::error::Result;
use crate::common::ui::{megabytes, print_as_json, print_wrapped};
use crate::initramfs::extract;
use crate::initramfs::extract::How;
use crate::initramfs::{Archive, Want};
use clap::Args;
use std::path::PathBuf;

pub(crate) const EXTRACT_HELP: &str = "\
Examples:
  host-builder extract out/initrd.img --to /tmp/initrd
  sudo host-builder extract /boot/initrd.img --to /tmp/initrd --devices

Exit codes: 0 success, 2 the input is not an initramfs or the directory could not be written. After a failure there is
no directory.";

/// Arguments of `extract`.
#[derive(Debug, Args)]
pub struct Extract {
    /// The initramfs.
    pub image: PathBuf,
    /// Directory to create. It must not exist, or must be empty.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Also create device nodes, named pipes and sockets, instead of reporting how many were
    /// skipped.
    #[arg(long)]
    pub devices: bool,
    /// Keep set-user-ID and set-group-ID bits (as root), instead of reporting how many were
    /// removed.
    #[arg(long)]
    pub set_ids: bool,
    /// Print what was unpacked as JSON to standard output.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &Extract) -> Result<()> {
    let archive = Archive::open(&args.image)?;
    let contents = archive.read(&Want::NAMES)?;
    let tree = contents.tree();
    let how = How { devices: args.devices, set_ids: args.set_ids };
    let done = extract::extract(&archive, &contents, &tree, &args.to, how)?;
    warn(&args.image, &contents, &tree);
    if args.json {
        print_as_json(&done);
        return Ok(());
    }
    let mut text = format!(
        "{}: {} files with {}, {} directories, {} links\n",
        args.to.display(),
        done.files,
        megabytes(done.bytes),
        done.directories,
        done.links
    );
    if done.devices > 0 {
        text.push_str(&format!("{} device nodes, named pipes and sockets\n", done.devices));
    }
    if done.devices_left_out > 0 {
        let left_out = done.devices_left_out;
        text.push_str(&format!(
            "skipped: {left_out} device nodes, named pipes or sockets; --devices creates them\n"
        ));
    }
    if done.set_ids_left_out > 0 {
        let left_out = done.set_ids_left_out;
        text.push_str(&format!(
            "removed: set-user-ID and set-group-ID bits of {left_out} files; --set-ids keeps them, as root\n"
        ));
    }
    print_wrapped(&text);
    Ok(())
}
