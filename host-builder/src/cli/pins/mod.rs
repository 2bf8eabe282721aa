//! `pins`: available kernels and drivers, and their exact artifacts.

mod add;
mod list;
pub mod options;
mod resolve;
mod show;
mod vendor;
mod verify;

use crate::common::error::{Error, Result};
use crate::pins::lock::Lock;
use crate::pins::profile::Profile;
use options::{Pins, PinsCommand, Which};
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

/// Loads the profile and its lock. The lock must exist and belong to the profile.
fn locked(which: &Which) -> Result<(Profile, Lock)> {
    let (profile, text) = Profile::load(&which.profile)?;
    let lock = Lock::read(&which.lock)?.ok_or_else(|| {
        Error::new(format!("{}: no such lock", which.lock.display()))
            .hint("create it: host-builder pins resolve; or pass an existing one: --lock FILE")
    })?;
    lock.check_profile(&profile.name, &text, &which.lock)?;
    Ok((profile, lock))
}
