//! `pins show`: shows a profile and its lock.

use super::options::Show;
use crate::artifacts::cache::Cache;
use crate::common::error::Result;
use crate::common::ui::{megabytes, print_json, print_wrapped};
use crate::pins::lock::Lock;
use crate::pins::profile::Profile;
use crate::resolve::is_of;
use image::requirement::Facts;
use std::fmt::Write;

/// Runs the command.
pub fn run(args: &Show) -> Result<()> {
    let cache = Cache::open()?;
    let (profile, lock) = args.which.load()?;
    let mut here = Vec::new();
    for artifact in &lock.artifact {
        here.push(cache.has_blob(&artifact.sha256, artifact.size)?);
    }
    if args.json {
        let mut value = serde_json::to_value(&lock).expect("a lock is JSON");
        for (artifact, here) in value["artifact"].as_array_mut().into_iter().flatten().zip(&here) {
            artifact["here"] = (*here).into();
        }
        print_json(&format!("{}\n", serde_json::to_string_pretty(&value).expect("a lock is JSON")));
    } else {
        print_wrapped(&text(&profile, &lock, &here));
    }
    Ok(())
}

fn text(profile: &Profile, lock: &Lock, here: &[bool]) -> String {
    let cuda = Facts::of_driver(&lock.driver, None).cuda_in_words().map(|cuda| format!(", CUDA {cuda}"));
    let mut text = format!("profile  {}: {}\n", profile.name, profile.description);
    let _ = writeln!(text, "driver   {}{}", lock.driver, cuda.unwrap_or_default());
    if !is_of(&lock.driver, &profile.driver) {
        let _ = writeln!(text, "         chosen with pins update; the profile has {}", profile.driver);
    }
    let _ =
        writeln!(text, "kernel   {}  {}", lock.kernel_release, lock.kernel.as_deref().unwrap_or_default());
    let _ = writeln!(
        text,
        "size     {} in {} artifacts, {} of them cached\n",
        megabytes(lock.artifact.iter().map(|artifact| artifact.size).sum()),
        here.len(),
        here.iter().filter(|here| **here).count()
    );
    for (artifact, here) in lock.artifact.iter().zip(here) {
        let sets: Vec<_> = artifact.sets.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "{} {}:{} {}  {}  sha256 {} ({})  {}  {}",
            if *here { "+" } else { "-" },
            artifact.name,
            artifact.arch,
            artifact.version,
            megabytes(artifact.size),
            artifact.sha256,
            artifact.digest,
            artifact.url.clone().unwrap_or_else(|| format!("{} {}", artifact.source, artifact.suite)),
            sets.join(" ")
        );
    }
    text
}
