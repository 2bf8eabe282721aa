//! Checks a container root before it boots: its libc, where driver files would go, which driver
//! files it has itself, and what its CUDA needs.

use super::cuda;
use super::guest::{self, Answer};
use super::packed::Packed;
use super::report::{Check, Verdict as Outcome};
use crate::common::error::{Doing, Error, Result};
use crate::initramfs::file_type::describe;
use image::config::Config;
use image::requirement::{self, Facts, Verdict};
use image::status::{Code, Finding, Severity};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most bytes of a `config.json`.
const MAX_CONFIG: u64 = 1 << 20;
/// Most directories in a message.
const SHOWN: usize = 6;

/// Findings that have a check of their own.
const SHOWN_ELSEWHERE: [Code; 3] = [Code::ImageHasNoGlibc, Code::ImageBundlesDriver, Code::ConfigInvalid];

/// The container to check.
pub struct Container<'a> {
    /// Its root, a directory.
    pub root: &'a Path,
    /// What could not be read from the disk that the directory was unpacked from; `None` if the
    /// root is a directory.
    pub unread: Option<Vec<String>>,
    /// The `config.json` of its config disk.
    pub config: Option<&'a Path>,
    /// The driver in the initrd.
    pub packed: &'a Packed,
    /// An empty directory, on the file system of the packed driver's files.
    pub work: &'a Path,
}

/// Runs all checks of a container.
pub fn check(container: Container) -> Result<Vec<Check>> {
    let Container { root, unread, config: file, packed, work } = container;
    let config = file.map(read_config).transpose()?;
    let answer = guest::ask(root, &packed.directory, file, work)?;
    let facts = packed.facts();
    let (runtimes, whole) = cuda::runtimes(root);
    let (compat, used) = compat(&answer);
    Ok(vec![
        read(unread, &answer),
        libc(&answer),
        files(&answer),
        driver_files(&answer),
        cuda::check(&runtimes, whole, &facts, compat, used),
        requires(config.as_ref(), &facts),
        devices(config.as_ref(), &answer),
    ])
}

fn read_config(path: &Path) -> Result<Config> {
    let mut bytes = Vec::new();
    File::open(path)
        .doing("opening", path)?
        .take(MAX_CONFIG)
        .read_to_end(&mut bytes)
        .doing("reading", path)?;
    let mut config = Config::default();
    config.apply_json(&bytes).map_err(|error| match describe(path) {
        "JSON" => Error::new(format!("{}: {error}", path.display()))
            .hint("correct it, because a boot with it would fail; docs/booting.md, section \"Config disk\""),
        other => {
            Error::new(format!("{}: expected a config.json or a config disk, found {other}", path.display()))
                .hint("pass the guest's config.json; docs/booting.md, section \"Config disk\"")
        }
    })?;
    Ok(config)
}

fn finding(answer: &Answer, code: Code) -> Option<&Finding> {
    answer.findings.iter().find(|finding| finding.code == code)
}

fn read(unread: Option<Vec<String>>, answer: &Answer) -> Check {
    const NAME: &str = "container-read";
    let lines: Vec<String> = unread.into_iter().flatten().chain(answer.warnings.iter().cloned()).collect();
    if lines.is_empty() {
        return Check::pass(NAME, "the root was read completely");
    }
    Check::warn(
        NAME,
        "part of the root could not be read, or is damaged",
        "the other checks may be incomplete: check the disk (fsck), or run doctor as a user who can read the whole directory",
    )
    .evidence(lines)
}

fn libc(answer: &Answer) -> Check {
    const NAME: &str = "container-libc";
    if let Some(found) = finding(answer, Code::ImageHasNoGlibc) {
        let libc = if answer.libc == "musl" {
            "musl, without glibc"
        } else {
            "none: found neither glibc nor the loader of musl"
        };
        return Check::warn(
            NAME,
            format!("{libc}; NVIDIA's libraries need glibc, so the container gets only the device nodes"),
            &found.hint,
        )
        .evidence([found.message.clone()]);
    }
    if answer.store {
        return Check::warn(
            NAME,
            format!(
                "{}; the root has a Nix or Guix store: its programs find the driver only if they were built to search /run/opengl-driver/lib",
                answer.libc
            ),
            "set LD_LIBRARY_PATH=/run/opengl-driver/lib for other programs",
        );
    }
    Check::pass(NAME, answer.libc.clone())
}

fn files(answer: &Answer) -> Check {
    const NAME: &str = "container-files";
    let failure = answer
        .findings
        .iter()
        .find(|finding| finding.severity == Severity::Error && !SHOWN_ELSEWHERE.contains(&finding.code));
    if let Some(failure) = failure {
        return Check::fail(NAME, &failure.message, &failure.hint).evidence(failure.evidence.iter().cloned());
    }
    let is_file = |item: &&guest::Item| item.kind == "file";
    let count = answer.items.iter().filter(is_file).count();
    let what = if answer.items.is_empty() {
        "no driver files are injected".to_owned()
    } else {
        let parent = |item: &guest::Item| Path::new(&item.path).parent().map(|dir| dir.display().to_string());
        let dirs: BTreeSet<String> = answer.items.iter().filter_map(parent).collect();
        let dirs = dirs.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
        format!(
            "{count} files and {} links, in {dirs}; the image itself is not changed",
            answer.items.len() - count
        )
    };
    let line = |item: &guest::Item| {
        if item.kind == "file" { item.path.clone() } else { format!("{} -> {}", item.path, item.target) }
    };
    // Warnings of guest-init without a check of their own.
    let warned: Vec<_> = answer
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Warning && !SHOWN_ELSEWHERE.contains(&finding.code))
        .collect();
    let check = match warned.first() {
        Some(first) => {
            let said: Vec<_> = warned.iter().map(|finding| finding.message.as_str()).collect();
            Check::warn(NAME, format!("{what}; {}", said.join("; ")), &first.hint)
        }
        None => Check::pass(NAME, what),
    };
    let proof = warned.iter().flat_map(|finding| finding.evidence.iter().cloned());
    check.evidence(proof).evidence(answer.items.iter().map(line))
}

fn driver_files(answer: &Answer) -> Check {
    const NAME: &str = "container-driver-files";
    let Some(found) = finding(answer, Code::ImageBundlesDriver) else {
        return Check::pass(NAME, "the image has none");
    };
    let evidence = if answer.masked.is_empty() { found.evidence.clone() } else { answer.masked.clone() };
    let check = match found.severity {
        Severity::Info => Check { remedy: found.hint.clone(), ..Check::pass(NAME, &found.message) },
        Severity::Warning => Check::warn(NAME, &found.message, &found.hint),
        Severity::Error => Check::fail(NAME, &found.message, &found.hint),
    };
    check.evidence(evidence)
}

/// The decisions about CUDA's compatibility libraries, and whether any of them are used.
fn compat(answer: &Answer) -> (Vec<String>, bool) {
    let said: Vec<String> = answer
        .findings
        .iter()
        .filter(|finding| finding.code == Code::CudaCompat)
        .map(|finding| finding.message.clone())
        .collect();
    (said, answer.compat_dir.is_some())
}

fn requires(config: Option<&Config>, facts: &Facts) -> Check {
    const NAME: &str = "container-requires";
    let Some(config) = config else {
        return Check::warn(
            NAME,
            "unknown: no config.json was given",
            "pass the config.json of the config disk: --config FILE; CUDA images state their requirements in the environment variable NVIDIA_REQUIRE_CUDA",
        );
    };
    let driver = &facts.driver;
    let list = requirement::requirements(&config.env);
    let cuda = facts.cuda_in_words().map_or("an unknown CUDA".into(), |cuda| format!("CUDA {cuda}"));
    let (mut unmet, mut unsure) = (Vec::new(), 0);
    for (name, value) in &list {
        match requirement::evaluate(value, facts) {
            Ok(Verdict::Met) => {}
            Ok(Verdict::Unknown) => unsure += 1,
            Ok(Verdict::Unmet) => unmet.push(name.clone()),
            Err(error) => unmet.push(format!("{name} ({error})")),
        }
    }
    let evidence: Vec<_> = list.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let check = if list.is_empty() {
        Check::pass(NAME, "no requirements")
    } else if unmet.is_empty() && unsure > 0 && facts.cuda.is_none() {
        Check::warn(
            NAME,
            format!("unknown: the CUDA version of driver {driver}"),
            "compare the conditions with NVIDIA's table of driver versions",
        )
    } else if unmet.is_empty() {
        let unsure =
            if unsure > 0 { "; conditions on brand and arch of the GPU are assumed to be met" } else { "" };
        Check::pass(NAME, format!("met by driver {driver} with {cuda}{unsure}"))
    } else {
        Check::fail(
            NAME,
            format!("driver {driver} with {cuda} does not meet {}: the boot will fail", unmet.join(", ")),
            "build the initrd with a newer driver, use an image for this driver, or set NVIDIA_DISABLE_REQUIRE=1",
        )
    };
    with_unknown_keys(check, config).evidence(evidence)
}

/// Which GPUs the container requests, as far as this is known before the boot.
fn devices(config: Option<&Config>, answer: &Answer) -> Check {
    const NAME: &str = "container-gpus";
    const VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";
    if let Some(refused) = finding(answer, Code::ConfigInvalid) {
        return Check::fail(NAME, &refused.message, &refused.hint);
    }
    let asked = config.and_then(|config| config.env.get(VARIABLE));
    Check::pass(NAME, asked.map_or_else(|| "all".to_owned(), |value| format!("{VARIABLE}={value}")))
}

/// Unknown keys of the configuration, which are a finding at boot.
fn with_unknown_keys(check: Check, config: &Config) -> Check {
    if config.unknown.is_empty() || check.verdict != Outcome::Pass {
        return check
            .evidence(config.unknown.iter().map(|key| format!("unknown key in the configuration: {key}")));
    }
    let found = format!("{}; unknown keys in the configuration: {}", check.found, config.unknown.join(", "));
    Check::warn(check.name, found, "correct or remove them; docs/booting.md, section \"Config disk\"")
}

#[cfg(test)]
mod tests;
