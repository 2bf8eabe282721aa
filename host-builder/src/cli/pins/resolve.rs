//! `pins resolve` and `pins update`: write a new lock, and show what it changes.

use super::options::Resolve;
use crate::artifacts::cache::Cache;
use crate::cli::arguments::profile_or_locks;
use crate::common::error::{Error, Result};
use crate::common::ui::{Ui, print_json, print_wrapped};
use crate::pins::lock::Lock;
use crate::pins::lock_diff::Changes;
use crate::resolve;

/// Runs either command; `driver` and `kernel` are the new choices.
pub fn run(args: &Resolve, driver: Option<&str>, kernel: Option<&str>) -> Result<()> {
    let ui = Ui::new(args.how.quiet || args.how.json);
    let cache = Cache::open()?;
    let access = args.access.of(&cache, &ui);
    let (profile, text) = profile_or_locks(args.which.profile.as_deref(), &args.which.lock)?;
    let path = &args.which.lock;
    let old = match Lock::read(path) {
        Ok(old) => old,
        // The lock has another format or is damaged: it is replaced, and its content is unknown.
        Err(error) if driver.is_none() => {
            ui.line(format!("{}; the lock is replaced", error.chain()));
            None
        }
        Err(error) => return Err(error),
    };
    if let Some(other) = old.as_ref().filter(|lock| lock.profile != profile.name) {
        return Err(Error::new(format!(
            "{} is the lock of profile {}, not of {}",
            path.display(),
            other.profile,
            profile.name
        ))
        .hint("use a separate lock for each profile: --lock FILE"));
    }
    let choice = resolve::choose(&profile, driver, kernel, old.as_ref(), access)?;
    if !resolve::is_of(&choice.driver, &profile.driver) && driver.is_none() {
        ui.line(format!("keeping driver {} of the lock (the profile has {})", choice.driver, profile.driver));
    }
    let new = resolve::resolve(&profile, &text, &choice, access)?;
    let changes = Changes::between(old.as_ref(), &new);
    if args.how.json {
        print_json(&format!("{}\n", serde_json::to_string_pretty(&changes).expect("texts are JSON")));
    } else if !args.how.quiet {
        print_wrapped(&changes.to_string());
    }
    if args.dry_run {
        ui.line(format!("{} is unchanged (--dry-run)", path.display()));
    } else if old.as_ref() != Some(&new) {
        new.stage(path)?.commit()?;
        ui.line(format!("written: {}", path.display()));
    }
    Ok(())
}
