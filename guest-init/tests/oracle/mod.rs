//! Asks the real `ldconfig`, and compares. Also used by the rig, on whole distributions.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use guest_init::confined_fs::RootDir;
use guest_init::ldcache::{self, CacheContent};

pub mod random;

/// Runs the root's own `ldconfig` in the root.
pub fn ldconfig(root: &Path, args: &[&str]) -> Output {
    // It changes its root directory, which only root of a namespace may.
    let mut command = Command::new("timeout");
    command
        .args(["60", "unshare", "--map-root-user", "--", "chroot"])
        .arg(root)
        .arg("/sbin/ldconfig")
        .args(args);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").output().unwrap()
}

/// The cache that the root's own `ldconfig` writes. With `-X` it leaves all links alone.
pub fn ask(root: &Path, args: &[&str]) -> Vec<u8> {
    // With -C the auxiliary cache is not used.
    let output = ldconfig(root, &[&["-C", "/oracle-cache"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = root.join("oracle-cache");
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    bytes
}

/// The links of a root, sorted.
pub fn links(root: &Path) -> Vec<(PathBuf, PathBuf)> {
    let walk = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().filter_map(Result::ok);
    let links = walk.filter(|e| e.path_is_symlink() && !e.path().starts_with(root.join("proc")));
    links.map(|e| (e.path().to_owned(), fs::read_link(e.path()).unwrap())).collect()
}

/// Whether the link leads somewhere in its root.
fn leads(root: &Path, link: &Path) -> bool {
    let inside = Path::new("/").join(link.strip_prefix(root).unwrap());
    RootDir::open(root).unwrap().exists(&inside)
}

/// Without the name of its maker and that name's length; all else must be the same. Before glibc 2.33 there is
/// no such name.
fn without_generator(bytes: &[u8]) -> Vec<u8> {
    let CacheContent { generator, .. } = ldcache::read(bytes).unwrap();
    let Some(generator) = generator else { return bytes.to_vec() };
    assert!(bytes.ends_with(generator));
    let mut rest = bytes[..bytes.len() - generator.len()].to_vec();
    // The length of the generator, in its section header behind the extension directory's magic and count.
    let at = u32::from_ne_bytes(bytes[32..36].try_into().unwrap()) as usize + 8 + 12;
    rest[at..at + 4].fill(0);
    rest
}

/// What differs between two caches: an entry, since that is readable, else the bytes.
fn differ(ours: &[u8], theirs: &[u8]) -> Option<String> {
    let (our, their) = (ldcache::read(ours).unwrap(), ldcache::read(theirs).unwrap());
    let text = |entry: Option<&ldcache::Entry>| {
        entry.map(|e| {
            let names = [e.key, e.value].map(|name| OsString::from_vec(name.to_vec()));
            format!("{names:?} {:#x} {:?} {:#x} {:#x}", e.flags, e.hwcaps, e.hwcap, e.osversion)
        })
    };
    for index in 0..our.entries.len().max(their.entries.len()) {
        let (our, their) = (our.entries.get(index), their.entries.get(index));
        if our != their {
            return Some(format!("entry {index}: ours is {:?}, theirs {:?}", text(our), text(their)));
        }
    }
    let (ours, theirs) = (without_generator(ours), without_generator(theirs));
    let at = (0..ours.len().max(theirs.len())).find(|at| ours.get(*at) != theirs.get(*at));
    at.map(|at| format!("byte {at} of {} and {}", ours.len(), theirs.len()))
}

/// What differs between our work on `root` and that of its `ldconfig`: the cache of the root as it is; after our
/// links are made, the cache again, and no link that `ldconfig` still makes or changes. It removes links that
/// lead nowhere. We leave them: what they point to may be mounted later.
pub fn difference(root: &Path) -> Option<String> {
    let dir = RootDir::open(root).unwrap();
    let before = ask(root, &["-X"]);
    let first = ldcache::build(&dir).unwrap();
    if let Some(what) = differ(&first.bytes, &before) {
        return Some(format!("{what}; warnings: {:?}", first.report.warnings));
    }
    let after = links(root);
    let theirs = ask(root, &[]);
    let stale =
        |link: &Path| link.as_os_str().as_bytes().windows(4).any(|w| w == b".so.") && !leads(root, link);
    let kept = links(root);
    let expected: Vec<_> = after.into_iter().filter(|l| kept.contains(l) || !stale(&l.0)).collect();
    if kept != expected {
        let changed: Vec<_> = kept.iter().filter(|l| !expected.contains(l)).collect();
        let missing: Vec<_> = expected.iter().filter(|l| !kept.contains(l)).collect();
        return Some(format!(
            "links that ldconfig made or changed: {changed:?}; that it does not have: {missing:?}"
        ));
    }
    let second = ldcache::build(&dir).unwrap();
    if !second.report.links.is_empty() {
        return Some(format!("links after ldconfig: {:?}", second.report.links));
    }
    differ(&second.bytes, &theirs).map(|what| format!("the second time: {what}"))
}

/// Compares the cache and the links of a root with those of its `ldconfig`.
pub fn compare(root: &Path) {
    if let Some(what) = difference(root) {
        panic!("{}: {what}", root.display());
    }
    let cache = ldcache::build(&RootDir::open(root).unwrap()).unwrap();
    println!("{}: {} entries, same bytes", root.display(), cache.report.entries);
}

/// Where the parts of a glibc are: those of this machine, or of an unpacked distribution.
pub struct Glibc {
    pub ldconfig: PathBuf,
    pub libc: PathBuf,
    pub loader: PathBuf,
}

impl Glibc {
    /// That of the Debian root at `root`, which may be `/`.
    pub fn of(root: &Path) -> Self {
        let dir = RootDir::open(root).unwrap();
        let part = |path: &str| {
            let inside = dir.canonical(Path::new(path)).unwrap();
            root.join(inside.strip_prefix("/").unwrap())
        };
        Self {
            ldconfig: part("/sbin/ldconfig"),
            libc: part("/lib/x86_64-linux-gnu/libc.so.6"),
            loader: part("/lib64/ld-linux-x86-64.so.2"),
        }
    }

    /// Puts the parts into `root`: its `ldconfig` to be asked, libc and loader as the evidence for ours.
    pub fn install(&self, root: &Path) {
        let lib = root.join("usr/lib/x86_64-linux-gnu");
        for dir in [&lib, &root.join("sbin"), &root.join("lib64")] {
            fs::create_dir_all(dir).unwrap();
        }
        put(&self.ldconfig, &root.join("sbin/ldconfig"));
        put(&self.libc, &lib.join("libc.so.6"));
        put(&self.loader, &lib.join("ld-linux-x86-64.so.2"));
        let link = root.join("lib64/ld-linux-x86-64.so.2");
        std::os::unix::fs::symlink("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", link).unwrap();
    }
}

/// Hard-links where possible: the same files go into hundreds of roots.
fn put(from: &Path, to: &Path) {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).unwrap();
    }
}
