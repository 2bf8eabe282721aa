//! `pins`: available kernels and drivers, and their exact artifacts.

mod add;
mod list;
pub mod options;
mod resolve;
mod show;
mod vendor;
mod verify;

use crate::common::error::Result;
use options::{Pins, PinsCommand};
use std::process::ExitCode;

/// Runs the command.
pub fn run(args: &Pins) -> Result<ExitCode> {
    let good = |()| ExitCode::SUCCESS;
    match &args.command {
        PinsCommand::List(args) => list::run(args).map(good),
        PinsCommand::Show(args) => show::run(args).map(good),
        PinsCommand::Resolve(args) => resolve::run(args, None, None).map(good),
        PinsCommand::Update(args) => {
            resolve::run(&args.resolve, args.driver.as_deref(), args.kernel.as_deref()).map(good)
        }
        PinsCommand::Verify(args) => verify::run(args),
        PinsCommand::Add(args) => add::run(args).map(good),
        PinsCommand::Vendor(args) => vendor::run(args).map(good),
    }
}
