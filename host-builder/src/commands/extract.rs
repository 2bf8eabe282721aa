//! `extract`: an initramfs as a directory.

use super::list::warn;
use crate::archive::extract::{self, How};
use crate::archive::{Archive, Want};
use crate::cli::Extract as Arguments;
use crate::error::Result;
use crate::ui::{megabytes, print_as_json, print_wrapped};

/// Runs the command.
pub fn run(args: &Arguments) -> Result<()> {
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
