//! `pins vendor`: copies all artifacts of a lock into a directory.

use super::options::Vendor;
use crate::artifacts::cache::Cache;
use crate::common::digest::sha256_file;
use crate::common::error::{Doing, Result};
use crate::common::files::write_atomically;
use crate::common::ui::{Ui, Unit, megabytes, print_json, print_wrapped};
use crate::pins::lock::Lock;
use crate::resolve;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Runs the command.
pub fn run(args: &Vendor) -> Result<()> {
    let ui = Ui::new(args.how.quiet || args.how.json);
    let cache = Cache::open()?;
    let access = args.access.of(&cache, &ui);
    let (profile, lock) = args.which.load()?;
    let all: Vec<_> = lock.artifact.iter().collect();
    resolve::get(&profile, &lock, &all, access)?;
    let directory = &args.directory;
    fs::create_dir_all(directory.join("sha256")).doing("creating", directory)?;
    let copied = copy_all(&lock, &cache, directory, &ui)?;
    write(&directory.join(format!("{}.lock", lock.profile)), &lock.to_toml())?;
    write(&directory.join(format!("{}.txt", lock.profile)), &index(&lock))?;
    write(&directory.join("SHA256SUMS"), &sums(directory)?)?;
    let total = lock.artifact.iter().map(|artifact| artifact.size).sum();
    if args.how.json {
        let value = serde_json::json!({ "directory": directory, "artifacts": all.len(), "copied": copied, "bytes": total });
        print_json(&format!("{value}\n"));
    } else if !args.how.quiet {
        print_wrapped(&format!(
            "{}: {} artifacts, {}, {copied} of them new\nnext: host-builder build-initrd --offline --mirror {}\n",
            directory.display(),
            all.len(),
            megabytes(total),
            directory.display()
        ));
    }
    Ok(())
}

/// Copies missing and damaged artifacts. Returns the number of copies.
fn copy_all(lock: &Lock, cache: &Cache, directory: &Path, ui: &Ui) -> Result<usize> {
    let total = lock.artifact.iter().map(|artifact| artifact.size).sum();
    let bar = ui.bar(&format!("copying {} artifacts", lock.artifact.len()), total, Unit::Bytes);
    let mut copied = 0;
    for artifact in &lock.artifact {
        let place = resolve::in_mirror(directory, &artifact.sha256);
        let whole = place.exists() && sha256_file(&place)? == artifact.sha256;
        if !whole {
            let blob = cache.verified_blob(&artifact.sha256)?;
            write_atomically(&place, 0o644, |out| {
                let mut input = File::open(&blob).doing("opening", &blob)?;
                io::copy(&mut input, out).doing("copying", &blob).map(drop)
            })?;
            copied += 1;
        }
        bar.inc(artifact.size);
    }
    drop(bar);
    Ok(copied)
}

/// The list of names: digest, size, name and version, and source of each artifact.
fn index(lock: &Lock) -> String {
    let mut text =
        format!("profile {}, kernel {}, driver {}\n", lock.profile, lock.kernel_release, lock.driver);
    for artifact in &lock.artifact {
        let from = artifact.url.clone().unwrap_or_else(|| format!("{} {}", artifact.source, artifact.suite));
        text.push_str(&format!(
            "{}  {:>11}  {}:{} {}  {from}\n",
            artifact.sha256, artifact.size, artifact.name, artifact.arch, artifact.version
        ));
    }
    text
}

/// Digests of all files in the directory, whichever lock they belong to.
fn sums(directory: &Path) -> Result<String> {
    let room = directory.join("sha256");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&room).doing("reading", &room)? {
        let name = entry.doing("reading", &room)?.file_name().to_string_lossy().into_owned();
        if crate::pins::lock::is_digest(&name) {
            names.insert(name);
        }
    }
    Ok(names.iter().flat_map(|name| [name, "  sha256/", name, "\n"]).collect())
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, 0o644, |out| out.write_all(text.as_bytes()).doing("writing", path))
}
