//! Compiles modules in a workshop, reproducibly: fixed user, host, time and paths.

use super::environment::{Room, Workshop};
use super::headers::Headers;
use super::source::SourceTree;
use super::steps;
use crate::common::digest::sha256_file;
use crate::common::error::{Doing, Error, Result};
use crate::common::halt::Halt;
use crate::common::interrupt;
use crate::common::ui::{Ui, Unit};
use crate::programs::toolroot::explain;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Lines of the compiler's output in an error.
const TAIL: usize = 15;

/// Compiles the modules of `tree`, which is below `work`, strips debug sections, and puts the
/// modules into `out`. `halt` ends it early.
pub fn compile(
    workshop: &Workshop,
    headers: &Headers,
    work: &Path,
    tree: &SourceTree,
    out: &Path,
    halt: &Halt,
    ui: &Ui,
) -> Result<()> {
    workshop.check()?;
    make(workshop, headers, work, tree, halt, ui)?;
    collect(workshop, work, tree, out)
}

/// Everything that the result of [`compile`] depends on, as text: the commands with their
/// environment, and the digest of every file below `work` before compilation. Paths of this machine
/// are replaced by names.
pub fn recipe(workshop: &Workshop, headers: &Headers, work: &Path, tree: &SourceTree) -> Result<String> {
    let mut lines = Vec::new();
    for command in [command(workshop, headers, work, tree), strip(workshop, work)] {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        lines.extend(words.map(|word| word.to_string_lossy().into_owned()));
        let variables = command.get_envs().map(|(name, value)| format!("{}={value:?}", name.display()));
        lines.extend(variables);
    }
    let mut text = lines.join("\n") + "\n";
    for (path, name) in [(Some(work), "WORK"), (workshop.root(), "TOOLROOT")] {
        if let Some(path) = path {
            text = text.replace(&*path.to_string_lossy(), name);
        }
    }
    for entry in walkdir::WalkDir::new(work).sort_by_file_name() {
        let entry = entry.map_err(|error| Error::new(format!("reading {}", work.display())).source(error))?;
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(work).unwrap_or(entry.path());
            text.push_str(&format!("{} {}\n", sha256_file(entry.path())?, name.display()));
        }
    }
    Ok(text)
}

fn command(workshop: &Workshop, headers: &Headers, work: &Path, tree: &SourceTree) -> Command {
    let jobs = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let seen = headers.seen_from(workshop);
    let mut binds = vec![(work, Room::Work)];
    binds.extend(seen.binds.iter().map(|(path, room)| (path.as_path(), *room)));
    let mut command = workshop.command(&binds, "make");
    let place = format!("{}/{}", workshop.place(Room::Work), tree.make);
    let compiler = format!("CC={}", workshop.compiler());
    command.args(["-C", &place, &format!("-j{jobs}"), &compiler, "IGNORE_CC_MISMATCH=1"]);
    command.arg(format!("SYSSRC={}", seen.source)).arg(format!("SYSOUT={}", seen.output)).arg("modules");
    // Debug sections are stripped anyway. But a kernel can compute the versions of symbols from them.
    if headers.has("CONFIG_GENDWARFKSYMS") != Some(true) {
        command.arg("KCFLAGS=-g0");
    }
    for (name, value) in [
        ("KBUILD_BUILD_USER", "gpu-initrd"),
        ("KBUILD_BUILD_HOST", "gpu-initrd"),
        ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
        ("SOURCE_DATE_EPOCH", "0"),
        ("TZ", "UTC"),
    ] {
        command.env(name, value);
    }
    if tree.is_whole() {
        // Variables of NVIDIA's own makefiles, in addition to the kernel's.
        command.envs([
            ("WHOAMI", "echo gpu-initrd"),
            ("HOSTNAME", "echo gpu-initrd"),
            ("DATE", "date -u -d @0"),
        ]);
    }
    command
}

fn make(
    workshop: &Workshop,
    headers: &Headers,
    work: &Path,
    tree: &SourceTree,
    halt: &Halt,
    ui: &Ui,
) -> Result<()> {
    let release = &headers.release;
    let errors = tempfile::tempfile().doing("creating a temporary file for", Path::new("make"))?;
    let stderr = errors.try_clone().doing("preparing the output of", Path::new("make"))?;
    let bar = ui.bar("compiling the GPU's modules", steps::expected(&work.join(&tree.make)), Unit::Count);
    let mut child = command(workshop, headers, work, tree)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|error| Error::new("cannot run unshare (package util-linux)").source(error))?;
    let _killed = interrupt::kills(&child);
    let covered = halt.covers(&child);
    let output = child.stdout.take().expect("it is piped");
    let mut tail = Vec::new();
    for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
        if steps::is_one(&line) {
            bar.inc(1);
            // The total was an estimate.
            bar.update(|state| state.set_len(state.pos().max(state.len().unwrap_or_default())));
        }
        tail.push(line);
        if tail.len() > TAIL {
            tail.remove(0);
        }
    }
    let status = child.wait().doing("waiting for", Path::new("make"))?;
    drop((covered, bar));
    halt.check()?;
    if status.success() {
        return Ok(());
    }
    let what = format!("building the GPU's modules for kernel {release}");
    let error = explain(&what, &format!("{}\n{}", telling(&read_all(errors)), tail.join("\n")));
    Err(if error.remedy().is_some() {
        error
    } else {
        error.hint("headers, compiler and driver must match: use the compiler that built the kernel, or a newer driver")
    })
}

fn read_all(mut file: File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind();
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Shortens a compiler's output to its first errors, regardless of the number of warnings after
/// them, and the last lines.
fn telling(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let last = lines.len().saturating_sub(TAIL);
    let is_error = |line: &&&str| ["error:", "error "].iter().any(|word| line.contains(word));
    let first = lines[..last].iter().filter(is_error).take(TAIL);
    first.chain(&lines[last..]).copied().collect::<Vec<_>>().join("\n")
}

/// The command that strips debug sections, without the files.
fn strip(workshop: &Workshop, work: &Path) -> Command {
    let mut command = workshop.command(&[(work, Room::Work)], "strip");
    command.arg("--strip-debug");
    command
}

/// Strips debug sections and moves the modules to `out`.
fn collect(workshop: &Workshop, work: &Path, tree: &SourceTree, out: &Path) -> Result<()> {
    let dir = work.join(&tree.modules);
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(&dir).doing("reading", &dir)? {
        let name = entry.doing("reading", &dir)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".ko") {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Err(Error::new(format!("building the modules in {} produced no .ko file", tree.modules))
            .hint("the source must be NVIDIA's open modules, with a Kbuild that names them"));
    }
    names.sort();
    let place = format!("{}/{}", workshop.place(Room::Work), tree.modules);
    let output = strip(workshop, work)
        .args(names.iter().map(|name| format!("{place}/{name}")))
        .output()
        .doing("running strip for", &dir)?;
    if !output.status.success() {
        return Err(explain("stripping the GPU's modules", &String::from_utf8_lossy(&output.stderr)));
    }
    for name in &names {
        fs::copy(dir.join(name), out.join(name)).doing("copying", &out.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_before_many_warnings() {
        let warnings = "x.c:2: warning: unused\n".repeat(100);
        let text = telling(&format!("x.c:1: error: no such field\n{warnings}make: *** [x.o] Error 1\n"));
        assert!(text.starts_with("x.c:1: error: no such field\n") && text.ends_with("Error 1"), "{text}");
        assert_eq!(text.lines().count(), TAIL + 1);
    }
}
