//! The differences between two locks, as text.

use super::lock::{Artifact, Lock};
use crate::common::ui::megabytes;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The differences between two locks.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Changed fields of the lock itself: name, old value, new value.
    pub fields: Vec<(&'static str, String, String)>,
    /// Added artifacts.
    pub added: Vec<String>,
    /// Removed artifacts.
    pub removed: Vec<String>,
    /// Changed artifacts, with their differences.
    pub changed: Vec<String>,
    /// Number of unchanged artifacts.
    pub unchanged: usize,
}

impl Changes {
    /// Compares `new` with `old`; `None`: there was no lock.
    pub fn between(old: Option<&Lock>, new: &Lock) -> Self {
        let mut changes = Self::default();
        let texts = |lock: &Lock| {
            [
                ("profile", lock.profile.clone()),
                ("profile_sha256", format!("{:.12}", lock.profile_sha256)),
                ("kernel", lock.kernel.clone().unwrap_or_default()),
                ("kernel_release", lock.kernel_release.clone()),
                ("driver", lock.driver.clone()),
            ]
        };
        let before = old.map_or_else(|| texts(new).map(|(name, _)| (name, String::new())), texts);
        for ((name, from), (_, to)) in before.into_iter().zip(texts(new)) {
            if from != to {
                changes.fields.push((name, from, to));
            }
        }
        let by_name = |lock: &Lock| -> BTreeMap<(String, String), Vec<Artifact>> {
            let mut map = BTreeMap::new();
            for artifact in &lock.artifact {
                let key = (artifact.name.clone(), artifact.arch.clone());
                map.entry(key).or_insert_with(Vec::new).push(artifact.clone());
            }
            map
        };
        let (old, new) = (old.map(by_name).unwrap_or_default(), by_name(new));
        let none = Vec::new();
        for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            changes.compare(old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none));
        }
        changes
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    /// Compares the artifacts of one name and architecture. There may be several.
    fn compare(&mut self, old: &[Artifact], new: &[Artifact]) {
        let gone: Vec<_> = old.iter().filter(|artifact| !new.contains(artifact)).collect();
        let come: Vec<_> = new.iter().filter(|artifact| !old.contains(artifact)).collect();
        self.unchanged += new.len() - come.len();
        if let ([old], [new]) = (&gone[..], &come[..]) {
            self.changed.push(format!("{} {}", named(new), differences(old, new)));
            return;
        }
        self.removed.extend(gone.into_iter().map(whole));
        self.added.extend(come.into_iter().map(whole));
    }
}

fn named(artifact: &Artifact) -> String {
    format!("{}:{}", artifact.name, artifact.arch)
}

fn whole(artifact: &Artifact) -> String {
    format!("{} {} ({})", named(artifact), artifact.version, megabytes(artifact.size))
}

fn differences(old: &Artifact, new: &Artifact) -> String {
    let mut parts = Vec::new();
    if old.version != new.version {
        parts.push(format!("{} -> {}", old.version, new.version));
    } else if old.sha256 != new.sha256 {
        parts.push(format!("{}, sha256 {:.12} -> {:.12}", new.version, old.sha256, new.sha256));
    } else {
        parts.push(new.version.clone());
    }
    if old.size != new.size {
        parts.push(format!("{} -> {}", megabytes(old.size), megabytes(new.size)));
    }
    if old.url != new.url {
        let text = |url: &Option<String>| url.clone().unwrap_or_else(|| "none".into());
        parts.push(format!("{} -> {}", text(&old.url), text(&new.url)));
    }
    for (name, before, after) in [
        ("suite", old.suite.clone(), new.suite.clone()),
        ("source", old.source.to_string(), new.source.to_string()),
        ("digest", old.digest.to_string(), new.digest.to_string()),
        ("sets", words(old), words(new)),
    ] {
        if before != after {
            parts.push(format!("{name} {before} -> {after}"));
        }
    }
    parts.join(", ")
}

fn words(artifact: &Artifact) -> String {
    artifact.sets.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
}

impl fmt::Display for Changes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, from, to) in &self.fields {
            if !from.is_empty() {
                writeln!(out, "- {name} {from}")?;
            }
            if !to.is_empty() {
                writeln!(out, "+ {name} {to}")?;
            }
        }
        for (sign, list) in [("-", &self.removed), ("~", &self.changed), ("+", &self.added)] {
            for line in list {
                writeln!(out, "{sign} {line}")?;
            }
        }
        writeln!(
            out,
            "{} added, {} removed, {} changed, {} unchanged",
            self.added.len(),
            self.removed.len(),
            self.changed.len(),
            self.unchanged
        )
    }
}
