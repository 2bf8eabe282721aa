//! Builds NVIDIA's open kernel modules for a kernel, in the toolroot, reproducibly: fixed user, host, time and paths.
//! The result is cached by the digest of everything that went in.

use super::index::{Module, content, read_module};
use crate::cache::{Cache, sha256};
use crate::error::{Doing, Error, Result};
use crate::interrupt;
use crate::lock::{Lock, Set};
use crate::profile::{Modules, Patch};
use crate::toolroot::{Toolroot, explain};
use crate::trees::{Tree, read_json, write_json};
use crate::ui::{Ui, Unit};
use crate::unpack::{Unpacker, decompressor};
use regex::Regex;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Changes whenever the way of building does, so that no old result is taken.
const RECIPE: &str = "3";
/// Changes whenever what is kept about built modules does.
const FACTS: &str = "1";
const ABOUT: &str = "about.json";
/// A build compiles about this many files; only for the progress bar.
const STEPS: u64 = 190;
/// Lines of the compiler's output that an error shows.
const TAIL: usize = 15;

/// Built modules, stripped of debug sections.
pub struct Built {
    /// Where the `.ko` files are.
    pub dir: PathBuf,
    /// What they say about themselves; paths are file names.
    pub modules: Vec<Module>,
    /// Size and SHA-256 of each file, in the same order.
    pub contents: Vec<(u64, String)>,
    /// Where they come from, for the manifest.
    pub origin: String,
}

/// Builds the modules of the profile, or finds them in the cache. The toolroot is asked for only to build.
pub fn build(
    cache: &Cache,
    lock: &Lock,
    profile: &Modules,
    toolroot: impl FnOnce() -> Result<Toolroot>,
    ui: &Ui,
) -> Result<Built> {
    let (package, archive, subdir) = profile.source().ok_or_else(|| {
        Error::new("the profile has no source of the GPU's modules")
            .hint("add [modules] package, archive and subdir")
    })?;
    let source = format!("{archive} {subdir} {:?}", profile.patch);
    let inputs = [
        RECIPE,
        &lock.kernel_release,
        &lock.driver,
        &lock.digest(&[Set::ModuleSource, Set::Toolroot]),
        &source,
    ];
    let key = sha256(inputs.join("\n").as_bytes());
    let dir = cache.derived("modules", &key, |out| {
        let toolroot = toolroot()?;
        let source = Tree::of(cache, lock.package(Set::ModuleSource, package)?)?;
        let work = cache.scratch()?;
        let tree = unpack_source(&source, archive, subdir, work.path())?;
        for patch in &profile.patch {
            apply(patch, &tree, &headers_dir(&toolroot, &lock.kernel_release, true)?)?;
        }
        compile(&toolroot, &lock.kernel_release, work.path(), subdir, ui)?;
        collect(&toolroot, &tree, work.path(), subdir, out)
    })?;
    Built::read(cache, dir, format!("built from {package}"))
}

impl Built {
    /// The modules in a directory of the cache.
    pub fn read(cache: &Cache, dir: PathBuf, origin: String) -> Result<Self> {
        let (names, key) = files(&dir)?;
        let facts = cache.derived("module-facts", &key, |out| {
            let mut facts = Vec::new();
            for name in &names {
                let bytes = content(&dir.join(name))?;
                facts.push((read_module(&dir.join(name), name)?, (bytes.len() as u64, sha256(&bytes))));
            }
            facts.sort_by(|(a, _), (b, _): &(Module, _)| a.name.cmp(&b.name));
            write_json(&out.join(ABOUT), &facts)
        })?;
        let facts: Vec<(Module, (u64, String))> = read_json(&facts.join(ABOUT))?;
        let (modules, contents) = facts.into_iter().unzip();
        Ok(Self { dir, modules, contents, origin })
    }
}

/// The modules in a directory, and a key of its state: another one after any change of a file.
fn files(dir: &Path) -> Result<(Vec<String>, String)> {
    let (mut names, mut state) = (Vec::new(), vec![FACTS.to_owned(), dir.display().to_string()]);
    for entry in fs::read_dir(dir).doing("reading", dir)? {
        let name = entry.doing("reading", dir)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".ko") {
            let metadata = fs::metadata(dir.join(&name)).doing("reading", &dir.join(&name))?;
            let time = (metadata.mtime(), metadata.mtime_nsec());
            state.push(format!("{name} {} {time:?}", metadata.len()));
            names.push(name);
        }
    }
    state.sort();
    Ok((names, sha256(state.join("\n").as_bytes())))
}

/// Whether the locked source can be built for the locked kernel, as far as that can be told without compiling it: it has the
/// form that the profile says, and the profile's patches fit. Source and kernel headers are in the cache.
pub fn check_source(cache: &Cache, lock: &Lock, profile: &Modules) -> Result<()> {
    let Some((package, archive, subdir)) = profile.source() else { return Ok(()) };
    let source = Tree::of(cache, lock.package(Set::ModuleSource, package)?)?;
    let work = cache.scratch()?;
    let tree = unpack_source(&source, archive, subdir, work.path())?;
    let name = headers_name(&lock.kernel_release, true);
    let headers = Tree::of(cache, lock.package(Set::Toolroot, &name)?)?;
    let headers = headers.root.join("usr/src").join(&name);
    profile.patch.iter().try_for_each(|patch| apply(patch, &tree, &headers))
}

fn unpack_source(source: &Tree, name: &str, subdir: &str, work: &Path) -> Result<PathBuf> {
    let archive = source.path(source.file(name)?);
    let file = File::open(&archive).doing("opening", &archive)?;
    let mut unpacker = Unpacker::new(work);
    unpacker.tar(decompressor(name, BufReader::new(file))?, &archive)?;
    let tree = work.join(subdir);
    if tree.join("Kbuild").is_file() {
        return Ok(tree);
    }
    Err(Error::new(format!("{}: expected a module source tree in {subdir}", archive.display()))
        .hint("the profile's [modules] subdir names another layout"))
}

/// Makes one replacement, where the kernel's header asks for it.
fn apply(patch: &Patch, tree: &Path, headers: &Path) -> Result<()> {
    let header = headers.join(&patch.header);
    let text = fs::read_to_string(&header).doing("reading", &header)?;
    let matches = Regex::new(&patch.header_matches).map_err(|error| {
        Error::new("the profile's header_matches is not a regular expression").source(error)
    })?;
    if !matches.is_match(&text) {
        return Ok(());
    }
    let file = tree.join(&patch.file);
    let text = fs::read_to_string(&file).doing("reading", &file)?;
    let found = text.matches(&patch.find).count();
    if found != 1 {
        return Err(Error::new(format!(
            "{}: expected {:?} once, found it {found} times",
            patch.file, patch.find
        ))
        .hint("the driver's source has changed; adapt the profile's [[modules.patch]]"));
    }
    fs::write(&file, text.replace(&patch.find, &patch.replace)).doing("patching", &file)
}

/// Kernel headers in the toolroot: `common` is the source part, the other the configured part.
fn headers_dir(toolroot: &Toolroot, release: &str, common: bool) -> Result<PathBuf> {
    let name = headers_name(release, common);
    let path = toolroot.path().join("usr/src").join(&name);
    if path.is_dir() {
        return Ok(path);
    }
    Err(Error::new(format!("the toolroot has no /usr/src/{name}, which modules for kernel {release} need"))
        .hint("the locked headers belong to another kernel; resolve again: build-initrd --update-lock"))
}

/// Debian splits headers: `6.12.1+deb13-cloud-amd64` has its common part in `6.12.1+deb13-common`.
fn headers_name(release: &str, common: bool) -> String {
    if !common {
        return format!("linux-headers-{release}");
    }
    let abi = release.strip_suffix("-amd64").or(release.strip_suffix("-arm64")).unwrap_or(release);
    let abi = ["-cloud", "-rt"].iter().find_map(|flavour| abi.strip_suffix(flavour)).unwrap_or(abi);
    format!("linux-headers-{abi}-common")
}

fn compile(toolroot: &Toolroot, release: &str, work: &Path, subdir: &str, ui: &Ui) -> Result<()> {
    headers_dir(toolroot, release, false)?;
    let jobs = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut command = toolroot.command(&[(work, "/build")], "make");
    command.args(["-C", &format!("/build/{subdir}"), &format!("-j{jobs}"), "CC=gcc", "IGNORE_CC_MISMATCH=1"]);
    command.arg(format!("SYSSRC=/usr/src/{}", headers_name(release, true)));
    command.arg(format!("SYSOUT=/usr/src/{}", headers_name(release, false)));
    command.arg("modules");
    for (name, value) in [
        ("KBUILD_BUILD_USER", "gpu-initrd"),
        ("KBUILD_BUILD_HOST", "gpu-initrd"),
        ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
        ("SOURCE_DATE_EPOCH", "0"),
        ("TZ", "UTC"),
    ] {
        command.env(name, value);
    }
    let errors = tempfile::tempfile().doing("creating a temporary file for", Path::new("make"))?;
    let stderr = errors.try_clone().doing("preparing the output of", Path::new("make"))?;
    let bar = ui.bar("compiling the GPU's modules", STEPS, Unit::Count);
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|error| Error::new("cannot run unshare (package util-linux)").source(error))?;
    let _killed = interrupt::kills(&child);
    let output = child.stdout.take().expect("it is piped");
    let mut tail = Vec::new();
    for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
        if line.trim_start().starts_with("CC [M]") {
            bar.inc(1);
        }
        tail.push(line);
        if tail.len() > TAIL {
            tail.remove(0);
        }
    }
    let status = child.wait().doing("waiting for", Path::new("make"))?;
    bar.finish_and_clear();
    if status.success() {
        return Ok(());
    }
    let what = format!("building the GPU's modules for kernel {release}");
    Err(explain(&what, &format!("{}\n{}", last_lines(errors), tail.join("\n"))))
}

fn last_lines(mut file: File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind();
    let _ = file.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// Strips debug sections and moves the modules to `out`.
fn collect(toolroot: &Toolroot, tree: &Path, work: &Path, subdir: &str, out: &Path) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(tree).doing("reading", tree)? {
        let name = entry.doing("reading", tree)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".ko") {
            names.push(name);
        }
    }
    names.sort();
    let paths = names.iter().map(|name| format!("/build/{subdir}/{name}"));
    let output = toolroot
        .command(&[(work, "/build")], "strip")
        .arg("--strip-debug")
        .args(paths)
        .output()
        .doing("running strip in", toolroot.path())?;
    if !output.status.success() {
        return Err(explain("stripping the GPU's modules", &String::from_utf8_lossy(&output.stderr)));
    }
    for name in &names {
        fs::copy(tree.join(name), out.join(name)).doing("copying to the cache", &out.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_names_its_headers_so() {
        assert_eq!(headers_name("6.12.1+deb13-cloud-amd64", true), "linux-headers-6.12.1+deb13-common");
        assert_eq!(headers_name("6.1.0-9-amd64", true), "linux-headers-6.1.0-9-common");
        assert_eq!(headers_name("6.1.0-9-amd64", false), "linux-headers-6.1.0-9-amd64");
    }

    #[test]
    fn a_patch_is_made_once_and_only_where_the_header_asks() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let patch = Patch {
            file: "a.c".into(),
            find: "f(x)".into(),
            replace: "f(x, 0)".into(),
            header: "h.h".into(),
            header_matches: r"f\([^,)]*,[^,)]*\)".into(),
        };
        fs::write(path("a.c"), "y = f(x);").unwrap();
        fs::write(path("h.h"), "int f(int a);").unwrap();
        apply(&patch, dir.path(), dir.path()).unwrap();
        assert_eq!(fs::read_to_string(path("a.c")).unwrap(), "y = f(x);");
        fs::write(path("h.h"), "int f(int a,\n  int b);").unwrap();
        apply(&patch, dir.path(), dir.path()).unwrap();
        assert_eq!(fs::read_to_string(path("a.c")).unwrap(), "y = f(x, 0);");
        assert!(apply(&patch, dir.path(), dir.path()).unwrap_err().to_string().contains("found it 0 times"));
    }
}
