//! `pins verify`: hashes all cached artifacts again, compares their unpacked copies, and asks their
//! sources.

use super::options::Verify;
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::{Altered, Tree};
use crate::common::digest::sha256_file;
use crate::common::error::Result;
use crate::common::ui::{Ui, Unit, print_json, print_wrapped};
use crate::pins::lock::{Artifact, Digest, Lock, Set};
use crate::pins::profile::Profile;
use crate::programs::toolroot::Toolroot;
use crate::resolve;
use crate::resolve::sources::Offer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// Most differing paths that are reported for each unpacked copy.
const MOST: usize = 10;

/// The results.
#[derive(Debug, Default, Serialize)]
struct Report {
    artifacts: usize,
    hashed: usize,
    not_here: usize,
    /// Number of unpacked copies of artifacts and of sets of artifacts.
    unpacked: usize,
    recorded: usize,
    offered: Option<usize>,
    /// What differs or is no longer offered.
    problems: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Verify) -> Result<ExitCode> {
    let ui = Ui::new(args.how.quiet || args.how.json);
    let cache = Cache::open()?;
    let access = args.access.of(&cache, &ui);
    let (profile, lock) = args.which.load()?;
    let mut report = Report { artifacts: lock.artifact.len(), ..Report::default() };
    report.recorded = lock.artifact.iter().filter(|artifact| artifact.digest == Digest::Recorded).count();
    hash(&lock, &cache, access.mirror, &ui, &mut report)?;
    // An artifact that differs from the lock cannot be compared with its unpacked copy.
    if report.problems.is_empty() {
        compare(&profile, &lock, &cache, &ui, &mut report)?;
    }
    if !access.offline {
        let answers = resolve::offers(&profile, &lock, access)?;
        report.offered = Some(answers.iter().filter(|(_, offer)| *offer == Offer::Yes).count());
        for (name, offer) in answers {
            if let Offer::No(why) = offer {
                report.problems.push(format!("{name}: no longer offered: {why}"));
            }
        }
    }
    if args.how.json {
        print_json(&format!("{}\n", serde_json::to_string_pretty(&report).expect("texts are JSON")));
    } else if !args.how.quiet {
        print_wrapped(&text(&report));
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn hash(lock: &Lock, cache: &Cache, mirror: Option<&Path>, ui: &Ui, report: &mut Report) -> Result<()> {
    let total = lock.artifact.iter().map(|artifact| artifact.size).sum();
    let bar = ui.bar(&format!("hashing {} artifacts", lock.artifact.len()), total, Unit::Bytes);
    for artifact in &lock.artifact {
        let mut places = vec![cache.blob(&artifact.sha256)?];
        places.extend(mirror.map(|mirror| resolve::in_mirror(mirror, &artifact.sha256)));
        places.retain(|place| place.exists());
        if places.is_empty() {
            report.not_here += 1;
        } else {
            report.hashed += 1;
        }
        for place in places {
            report.problems.extend(differs(artifact, &place)?);
        }
        bar.inc(artifact.size);
    }
    drop(bar);
    Ok(())
}

/// Unpacks artifacts again and compares the unpacked copies, because programs are run from them and
/// files of them are packed.
fn compare(profile: &Profile, lock: &Lock, cache: &Cache, ui: &Ui, report: &mut Report) -> Result<()> {
    let is_here = |artifact: &&Artifact| cache.has_blob(&artifact.sha256, artifact.size).unwrap_or(false);
    let bar = ui.bar("comparing what was unpacked", lock.artifact.len() as u64, Unit::Count);
    for artifact in &lock.artifact {
        if is_here(&artifact) {
            report.kept(Tree::altered(cache, artifact)?);
        }
        bar.inc(1);
    }
    drop(bar);
    let none = BTreeMap::new();
    let links = profile.toolroot.as_ref().map_or(&none, |toolroot| &toolroot.links);
    for (set, links) in [(Set::Toolroot, links), (Set::Payload, &none), (Set::Vm, &none)] {
        if lock.set(set).iter().all(is_here) {
            report.kept(Toolroot::altered(cache, lock, set, links)?);
        }
    }
    Ok(())
}

impl Report {
    fn kept(&mut self, altered: Option<Altered>) {
        let Some(Altered { dir, differences }) = altered else { return };
        self.unpacked += 1;
        let more = differences.len().saturating_sub(MOST);
        let shown = differences.iter().take(MOST);
        self.problems.extend(shown.map(|what| format!("{}/{what}: remove that directory", dir.display())));
        if more > 0 {
            self.problems.push(format!("{}: {more} more paths differ", dir.display()));
        }
    }
}

fn differs(artifact: &Artifact, place: &Path) -> Result<Option<String>> {
    let found = sha256_file(place)?;
    let named = || format!("{} {}", artifact.name, artifact.version);
    Ok((found != artifact.sha256).then(|| {
        format!(
            "{}: {}: expected sha256 {}, found {found}: remove it",
            named(),
            place.display(),
            artifact.sha256
        )
    }))
}

fn text(report: &Report) -> String {
    let mut text: String = report.problems.iter().flat_map(|problem| [problem, "\n"]).collect();
    let offered = report
        .offered
        .map_or_else(|| "sources not asked".to_owned(), |count| format!("{count} still offered"));
    text.push_str(&format!(
        "{} artifacts: {} hashed, {} not in the cache, {} unpacked copies compared, {offered}, {} problems\n",
        report.artifacts,
        report.hashed,
        report.not_here,
        report.unpacked,
        report.problems.len()
    ));
    if report.recorded > 0 {
        text.push_str(&format!(
            "{} digests were recorded on first use: no publisher vouches for them\n",
            report.recorded
        ));
    }
    text
}
