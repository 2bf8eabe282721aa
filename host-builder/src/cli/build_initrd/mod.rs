//! `build-initrd`: from a profile to an initrd.

pub(crate) mod options;
pub(crate) mod report;

use self::options::BuildInitrd;
use self::report::BuildReport;
use crate::artifacts::cache::Cache;
use crate::build::initrd::{self, InitrdRequest, Made};
use crate::build::outputs::Outputs;
use crate::build::plan::Plan;
use crate::build::select;
use crate::common::error::{Doing, Error, Result};
use crate::common::ui::{Ui, print, print_json, print_wrapped};
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

/// Runs the command.
pub fn run(args: &BuildInitrd) -> Result<()> {
    let ui = Ui::new(args.quiet || args.json);
    let capabilities = select::capabilities(&args.capabilities)?;
    check_outputs(args)?;
    let guest_init = match &args.guest_init {
        Some(path) => Cow::Owned(fs::read(path).doing("reading", path)?),
        None => Cow::Borrowed(crate::GUEST_INIT),
    };
    let cache = Cache::open()?;
    let (profile, text) = args.profile.load(&args.lock)?;
    let request = InitrdRequest {
        profile: (&profile, &text),
        update_lock: args.update_lock,
        capabilities: &capabilities,
        gpus: &args.gpu,
        payload: (args.payload, args.payload_compression),
        compression: args.compression,
        guest_memory: args.guest_memory,
        guest_init: &guest_init,
        control: args.control,
        outputs: outputs(args),
        is_dry: args.dry_run,
    };
    let Made { plan, packed, why } = initrd::make(&request, args.access.of(&cache, &ui))?;
    match packed {
        None => print_plan(&plan, args.json),
        Some(packed) => {
            let report = BuildReport::new(&plan, args, &packed, &why, &ui);
            if args.json {
                print_json(&format!("{}\n", report.json()));
            } else if !args.quiet {
                print_wrapped(&report.text(args.verbose));
            }
        }
    }
    Ok(())
}

fn outputs(args: &BuildInitrd) -> Outputs<'_> {
    Outputs {
        initrd: &args.output,
        kernel: &args.kernel_output,
        payload: &args.payload_output,
        lock: &args.lock,
    }
}

/// Outputs over each other would lose all but one of them.
fn check_outputs(args: &BuildInitrd) -> Result<()> {
    let outputs = [
        ("--output", &args.output),
        ("--kernel-output", &args.kernel_output),
        ("--payload-output", &args.payload_output),
        ("--lock", &args.lock),
    ];
    for (at, (option, path)) in outputs.iter().enumerate() {
        if path.is_dir() || path.file_name().is_none() {
            return Err(Error::new(format!(
                "{option} {}: expected a file, found a directory",
                path.display()
            ))
            .hint("name the file to write"));
        }
        if let Some((other, _)) = outputs[..at].iter().find(|(_, other)| place(other) == place(path)) {
            return Err(Error::new(format!("{other} and {option} are both {}", path.display()))
                .hint("give each its own file"));
        }
    }
    Ok(())
}

/// The same for every spelling of one path. The file itself may be a link: it is replaced, not
/// followed.
fn place(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

fn print_plan(plan: &Plan, json: bool) {
    if json {
        print_json(&String::from_utf8_lossy(&plan.manifest.to_json()));
    } else {
        print(&report::plan_text(plan));
    }
}
