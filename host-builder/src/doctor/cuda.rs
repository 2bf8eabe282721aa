//! Compares the CUDA runtimes of an image, detected from file names and NVIDIA's version files,
//! with the CUDA version of the packed driver.

use super::report::{Check, Verdict};
use image::requirement::Facts;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NAME: &str = "container-cuda";
/// Limits of the search: number of files and time.
const MAX_FILES: usize = 4_000_000;
const DEADLINE: Duration = Duration::from_mins(2);
/// Most runtimes that are kept.
const MAX_FOUND: usize = 256;
/// Most bytes of a version file.
const MAX_VERSION: u64 = 256 << 10;
/// Directories that do not belong to the image.
const SKIPPED: [&str; 3] = ["proc", "sys", "dev"];

/// A runtime in an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Runtime {
    /// Where, in the image.
    pub path: PathBuf,
    /// Major version.
    pub major: u32,
    /// Minor version, if it is known.
    pub minor: Option<u32>,
}

/// Finds all runtimes of a root, and returns whether the search was complete. Links are not
/// followed.
pub fn runtimes(root: &Path) -> (Vec<Runtime>, bool) {
    let start = Instant::now();
    let mut found = BTreeSet::new();
    let walk = walkdir::WalkDir::new(root)
        .into_iter()
        .filter_entry(|entry| entry.depth() != 1 || !SKIPPED.iter().any(|name| entry.file_name() == *name));
    let mut whole = true;
    for (at, entry) in walk.enumerate() {
        if at >= MAX_FILES || found.len() >= MAX_FOUND || start.elapsed() > DEADLINE {
            whole = false;
            break;
        }
        let Ok(entry) = entry else {
            whole = false;
            continue;
        };
        let Some(name) = entry.file_name().to_str() else { continue };
        let version = match name {
            _ if entry.file_type().is_dir() => None,
            "version.json" | "version.txt" => in_file(root, entry.path()),
            name => in_name(name),
        };
        if let (Some((major, minor)), Ok(path)) = (version, entry.path().strip_prefix(root)) {
            found.insert(Runtime { path: Path::new("/").join(path), major, minor });
        }
    }
    (distinct(&found), whole)
}

/// `libcudart.so.12.4.127`, `libcudart.so.12`, `libcudart-9335f6a2.so.12`.
fn in_name(name: &str) -> Option<(u32, Option<u32>)> {
    let rest = name.strip_prefix("libcudart")?;
    let (hash, version) = rest.split_once(".so.")?;
    let plain = hash.is_empty()
        || hash.starts_with('-') && hash.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric());
    plain.then(|| version_of(version)).flatten()
}

/// `/usr/local/cuda-12.4/version.json` and, until CUDA 11, `version.txt`.
fn in_file(root: &Path, path: &Path) -> Option<(u32, Option<u32>)> {
    let inside = path.strip_prefix(root).ok()?;
    let is_cuda =
        inside.starts_with("usr/local") && inside.parent()?.file_name()?.to_str()?.starts_with("cuda");
    if !is_cuda {
        return None;
    }
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = File::from(openat2(&File::open(root).ok()?, inside, how).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_VERSION).read_to_string(&mut text).ok()?;
    if let Some(version) = text.trim().strip_prefix("CUDA Version ") {
        return version_of(version);
    }
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    version_of(json.get("cuda")?.get("version")?.as_str()?)
}

fn version_of(text: &str) -> Option<(u32, Option<u32>)> {
    let mut numbers = text.trim().split('.').map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    Some((major, numbers.next().transpose().ok()?))
}

/// Removes `libcudart.so.12` next to `libcudart.so.12.4.127`: it is a link to it.
fn distinct(found: &BTreeSet<Runtime>) -> Vec<Runtime> {
    let told = |runtime: &Runtime| {
        found.iter().any(|other| {
            other.major == runtime.major
                && other.minor.is_some()
                && other.path.parent() == runtime.path.parent()
        })
    };
    found.iter().filter(|runtime| runtime.minor.is_some() || !told(runtime)).cloned().collect()
}

/// Compares the runtimes with the driver. `facts` is what is known about the driver, `compat` the
/// decisions about CUDA's compatibility libraries, and `used` whether some of them replace the
/// driver's.
pub fn check(runtimes: &[Runtime], whole: bool, facts: &Facts, compat: Vec<String>, used: bool) -> Check {
    let lines =
        runtimes.iter().map(|runtime| format!("{}: CUDA {}", runtime.path.display(), version(runtime)));
    let evidence: Vec<_> = compat.into_iter().chain(lines).collect();
    let driver = &facts.driver;
    let check = match facts.cuda {
        _ if runtimes.is_empty() => {
            Check::pass(NAME, "no CUDA runtime was found; statically linked runtimes cannot be detected")
        }
        None => Check::warn(
            NAME,
            format!("the CUDA version of driver {driver} is unknown"),
            "compare with NVIDIA's table of driver versions",
        ),
        Some([major, minor])
            if facts.or_newer
                && runtimes.iter().any(|found| (found.major, found.minor) > (major, Some(minor))) =>
        {
            Check::warn(
                NAME,
                format!("driver {driver} is newer than this tool: it supports at least CUDA {major}.{minor}"),
                "compare with NVIDIA's table of driver versions",
            )
        }
        Some(cuda) => against(runtimes, driver, cuda, used),
    };
    let check = if !whole && check.verdict == Verdict::Pass {
        Check::warn(
            NAME,
            format!("{}; part of the root could not be searched", check.found),
            "check a root whose directories can all be read",
        )
    } else {
        check
    };
    check.evidence(evidence)
}

fn against(runtimes: &[Runtime], driver: &str, [major, minor]: [u32; 2], used: bool) -> Check {
    let brings = format!("driver {driver} supports CUDA {major}.{minor}");
    let newest =
        runtimes.iter().max_by_key(|runtime| (runtime.major, runtime.minor)).map(version).unwrap_or_default();
    let newer = "build the initrd with a newer driver: host-builder pins update --driver VERSION; or use an image for this driver";
    if used {
        return Check::pass(
            NAME,
            format!(
                "the newest CUDA of the image is {newest}, {brings}; the image's compatibility libraries replace the driver's"
            ),
        );
    }
    if runtimes.iter().any(|runtime| runtime.major > major) {
        return Check::fail(
            NAME,
            format!(
                "the newest CUDA of the image is {newest}, {brings}: programs for a later major version do not start"
            ),
            newer,
        );
    }
    if runtimes
        .iter()
        .any(|runtime| runtime.major == major && runtime.minor.is_some_and(|found| found > minor))
    {
        return Check::warn(
            NAME,
            format!(
                "the newest CUDA of the image is {newest}, {brings}: programs for the same major version start, but PTX of a later minor version is not compiled, and new functions are missing"
            ),
            newer,
        );
    }
    let unsure = runtimes.iter().any(|runtime| runtime.major == major && runtime.minor.is_none());
    let unsure = if unsure { "; the minor version of some runtimes is unknown" } else { "" };
    Check::pass(NAME, format!("the newest CUDA of the image is {newest}, {brings}{unsure}"))
}

fn version(runtime: &Runtime) -> String {
    match runtime.minor {
        Some(minor) => format!("{}.{minor}", runtime.major),
        None => format!("{}.x", runtime.major),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in
            ["usr/local/cuda-12.4/lib64", "opt/site-packages/torch/lib", "proc", "usr/local/cuda-10.2"]
        {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::write(at("usr/local/cuda-12.4/lib64/libcudart.so.12.4.127"), "").unwrap();
        symlink("libcudart.so.12.4.127", at("usr/local/cuda-12.4/lib64/libcudart.so.12")).unwrap();
        fs::write(at("opt/site-packages/torch/lib/libcudart-9335f6a2.so.12"), "").unwrap();
        fs::write(at("usr/local/cuda-12.4/version.json"), r#"{"cuda": {"version": "12.4.1"}}"#).unwrap();
        fs::write(at("usr/local/cuda-10.2/version.txt"), "CUDA Version 10.2.89\n").unwrap();
        fs::write(at("proc/libcudart.so.99"), "").unwrap();
        dir
    }

    #[test]
    fn runtimes_are_told_by_names_and_by_version_files() {
        let dir = root();
        let (found, whole) = runtimes(dir.path());
        let found: Vec<_> = found.iter().map(|r| format!("{} {}", r.path.display(), version(r))).collect();
        let expected = [
            "/opt/site-packages/torch/lib/libcudart-9335f6a2.so.12 12.x",
            "/usr/local/cuda-10.2/version.txt 10.2",
            "/usr/local/cuda-12.4/lib64/libcudart.so.12.4.127 12.4",
            "/usr/local/cuda-12.4/version.json 12.4",
        ];
        assert!(whole);
        assert_eq!(found, expected);
    }

    #[test]
    fn no_link_of_a_root_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("usr/local/cuda-99")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("version.json"), r#"{"cuda": {"version": "99.0"}}"#).unwrap();
        fs::write(outside.join("libcudart.so.99.1"), "").unwrap();
        symlink(outside.join("version.json"), root.join("usr/local/cuda-99/version.json")).unwrap();
        symlink(&outside, root.join("usr/local/cuda")).unwrap();
        assert_eq!(runtimes(&root).0, []);
    }

    #[test]
    fn a_runtime_is_good_doubtful_or_too_new() {
        let one = |major, minor| vec![Runtime { path: "/x".into(), major, minor }];
        let verdict = |list: &[Runtime], used| {
            check(list, true, &Facts::of_driver("550.163.01", None), Vec::new(), used).verdict
        };
        assert_eq!(verdict(&[], false), Verdict::Pass);
        assert_eq!(verdict(&one(12, Some(4)), false), Verdict::Pass);
        assert_eq!(verdict(&one(11, Some(8)), false), Verdict::Pass);
        assert_eq!(verdict(&one(12, None), false), Verdict::Pass);
        assert_eq!(verdict(&one(12, Some(8)), false), Verdict::Warn);
        assert_eq!(verdict(&one(13, Some(0)), false), Verdict::Fail);
        assert_eq!(verdict(&one(13, Some(0)), true), Verdict::Pass);
        let of = |list: &[Runtime], whole, driver, told| {
            check(list, whole, &Facts::of_driver(driver, told), Vec::new(), false).verdict
        };
        assert_eq!(of(&one(12, Some(4)), true, "304.1", None), Verdict::Warn);
        assert_eq!(of(&[], false, "550.1", None), Verdict::Warn);
        // Of a branch that no table knows; then by the driver's own word.
        assert_eq!(of(&one(13, Some(6)), true, "999.1", None), Verdict::Warn);
        assert_eq!(of(&one(13, Some(6)), true, "999.1", Some("13.7")), Verdict::Pass);
    }

    #[test]
    fn other_names_are_no_runtimes() {
        for name in
            ["libcudart.so", "libcudart_static.a", "libcudartx.so.1", "libcuda.so.1", "libcudart.so.x"]
        {
            assert_eq!(in_name(name), None, "{name}");
        }
    }
}
