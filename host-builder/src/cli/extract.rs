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

Exit codes: 0 unpacked, 2 not an initramfs, or the directory could not be made; then there is none.";

/// Arguments of `extract`.
#[derive(Debug, Args)]
pub struct Extract {
    /// The initramfs.
    pub image: PathBuf,
    /// Directory to make; it must not be there, or be empty.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Make device nodes, named pipes and sockets too, instead of saying how many there are.
    #[arg(long)]
    pub devices: bool,
    /// Keep set-user-ID and set-group-ID bits, as root, instead of saying how many there are.
    #[arg(long)]
    pub set_ids: bool,
    /// Print what was unpacked as JSON on standard output.
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
            "left out: {left_out} device nodes, named pipes or sockets; --devices makes them\n"
        ));
    }
    if done.set_ids_left_out > 0 {
        let left_out = done.set_ids_left_out;
        text.push_str(&format!(
            "left out: set-user-ID and set-group-ID bits of {left_out}; --set-ids keeps them, as root\n"
        ));
    }
    print_wrapped(&text);
    Ok(())
}
