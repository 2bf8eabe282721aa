//! `cp`: copies files to and from the container of a guest.

use crate::common::error::{Error, Result};
use crate::common::progress::Unit;
use crate::common::terminal::megabytes;
use crate::common::ui::{Ui, say};
use crate::guest_client::Target;
use crate::guest_client::copy::{Copied, from_guest, to_guest};
use clap::Args;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub(crate) const CP_HELP: &str = "\
Examples:
  host-builder cp model.safetensors unix:out/vsock.sock:/models/
  host-builder cp vsock:5:/var/log/app.log .
  host-builder cp --user 1000:1000 ./data vsock:5:/data

One of the two paths is in a guest: TARGET:/PATH. Directories are copied with everything in them. A path that names a directory
receives the copy in it. A link given as SOURCE is followed; links in a directory are copied as links. Modes are kept without
set-user-ID and set-group-ID bits, times of files are kept, devices and sockets are left out. Each file appears whole or not at
all. In the guest, everything is done in the container's root, and is an event. A copy from a guest uses at most half of the free
space. The guest accepts it only if it was started with gpu_initrd.control=exec, and its initrd allows that.

Exit codes: 0 success, 2 usage error or failure.";

/// Arguments of `cp`.
#[derive(Debug, Args)]
pub struct Cp {
    /// What is copied: PATH, or TARGET:/PATH in a guest, such as vsock:5:/etc/hosts.
    pub source: Place,
    /// Where it goes: PATH, or TARGET:/PATH in a guest.
    pub destination: Place,
    /// Owner of what is created in a guest: NAME, UID, NAME:GROUP or UID:GID in the container [default: root].
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Print only errors.
    #[arg(long, short)]
    pub quiet: bool,
}

/// A path on this machine or in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Here(PathBuf),
    /// In the container of a guest.
    Guest(Target, String),
}

impl FromStr for Place {
    type Err = String;

    /// A guest's path begins at the first `:/` that has a target before it.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut ends = text.match_indices(":/").map(|(at, _)| at);
        let guest = ends.find_map(|at| Some(Self::Guest(text[..at].parse().ok()?, text[at + 1..].into())));
        match guest {
            Some(guest) => Ok(guest),
            None if text.is_empty() => Err("expected a path, found none".into()),
            None if text.parse::<Target>().is_ok() => {
                Err(format!("expected TARGET:/PATH, found a target without a path: {text}"))
            }
            None => Ok(Self::Here(text.into())),
        }
    }
}

/// Runs the command.
pub fn run(args: &Cp) -> Result<()> {
    let ui = Ui::new(args.quiet);
    let bar = |label: &str, total| ui.bar(label, total, Unit::Bytes);
    let copied = match (&args.source, &args.destination) {
        (Place::Here(from), Place::Guest(target, to)) => {
            let total = size_of(from);
            let bar = bar(&format!("copying {}", from.display()), total);
            to_guest(target, from, to, args.user.as_deref(), &|bytes| bar.inc(bytes))?
        }
        (Place::Guest(target, from), Place::Here(to)) => {
            if args.user.is_some() {
                let error = Error::new("--user is the owner in a guest, and the copy is made here");
                return Err(error.hint("leave out --user"));
            }
            // The guest does not say how much it will be.
            let bar = bar(&format!("copying {from}"), 0);
            from_guest(target, from, to, &|bytes| {
                bar.inc_length(bytes);
                bar.inc(bytes);
            })?
        }
        _ => {
            return Err(Error::new("expected one path here and one in a guest (TARGET:/PATH)")
                .hint("host-builder cp FILE vsock:CID:/PATH, or host-builder cp vsock:CID:/PATH FILE"));
        }
    };
    if !args.quiet {
        say(&summary(copied));
    }
    Ok(())
}

/// Size of a file in bytes, or 0.
fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map_or(0, |about| about.len())
}

fn summary(copied: Copied) -> String {
    let Copied { files, bytes, left_out } = copied;
    let word = if files == 1 { "file" } else { "files" };
    let left_out = match left_out {
        0 => String::new(),
        1 => "; 1 device, FIFO or socket was left out".into(),
        count => format!("; {count} devices, FIFOs and sockets were left out"),
    };
    format!("copied {files} {word}, {}{left_out}", megabytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_guest_follows_its_target() {
        let guest = |target: &str, path: &str| Ok(Place::Guest(target.parse().unwrap(), path.into()));
        assert_eq!("vsock:5:/etc/hosts".parse(), guest("vsock:5", "/etc/hosts"));
        assert_eq!("vsock:5:77:/".parse(), guest("vsock:5:77", "/"));
        assert_eq!("unix:/run/v.sock:/a:/b".parse(), guest("unix:/run/v.sock", "/a:/b"));
        assert_eq!("unix:v.sock:9:/a".parse(), guest("unix:v.sock:9", "/a"));
        for here in ["a", "./unix", "/a:/b", "a:b"] {
            assert_eq!(here.parse(), Ok(Place::Here(here.into())));
        }
        for wrong in ["", "vsock:5", "unix:/run/v.sock"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_line_says_what_was_copied() {
        let copied = |files, left_out| summary(Copied { files, bytes: 3 << 20, left_out });
        assert_eq!(copied(1, 0), "copied 1 file, 3.1 MB");
        assert!(
            copied(2, 1).ends_with("2 files, 3.1 MB; 1 device, FIFO or socket was left out"),
            "{}",
            copied(2, 1)
        );
    }
}
