//! What we say the loader opens, against the loader itself: this machine's, in small roots of random shape.

// In a test, a panic is the report.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest_init::confined_fs::RootDir;
use guest_init::ldcache::{self, Machine, SearchSettings, Via};

use self::oracle::Glibc;
use self::oracle::random::Pool;

#[allow(dead_code, reason = "ldconfig is asked by another test")]
mod oracle;

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Where a copy may lie.
const DIRS: [&str; 13] = [
    "opt/path",
    "opt/run",
    "opt/run/glibc-hwcaps/x86-64-v3",
    "opt/conf",
    "opt/conf/glibc-hwcaps/x86-64-v2",
    "opt/conf/glibc-hwcaps/x86-64-v4",
    "opt/conf/tls",
    "opt/conf/haswell",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3",
    "usr/lib/x86_64-linux-gnu/tls",
    "usr/lib",
    "opt/path/haswell",
];
const RUNPATH: [&str; 2] = ["/opt/none", "/opt/run"];

/// A program that needs liba.so.1 and has that as its RUNPATH, or as an RPATH of old.
fn program(pool: &Pool, tags: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("liba.so.1"), &pool.files[1]).unwrap();
    fs::write(at("program.c"), "int answer(void); int _start(void) { return answer(); }\n").unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-nostdlib", "-pie", "-fPIE", tags, "-o"]).arg(at("program"));
    cc.arg(format!("-Wl,-rpath,{}", RUNPATH.join(":"))).arg(at("program.c")).arg(at("liba.so.1"));
    assert!(cc.status().unwrap().success());
    fs::read(at("program")).unwrap()
}

/// The path that the loader opens for liba.so.1.
fn ask(root: &Path, library_path: &str) -> Option<PathBuf> {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--", "chroot"]).arg(root).args([LOADER, "--list", "/program"]);
    let output = command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LD_LIBRARY_PATH", "");
    let output = output.env("LD_LIBRARY_PATH", library_path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with("liba.so.1 => "))?;
    let path = line.split("=> ").nth(1)?.split(" (").next()?;
    (path != "not found").then(|| path.into())
}

#[test]
fn the_loader_opens_what_we_say() {
    let pool = Pool::new();
    let programs = ["-Wl,--enable-new-dtags", "-Wl,--disable-new-dtags"].map(|tags| program(&pool, tags));
    let glibc = Glibc::of(Path::new("/"));
    let mut ways = std::collections::BTreeSet::new();
    for seed in 1..=100_u64 {
        let old = seed % 2 == 1;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut chance = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.is_multiple_of(n)
        };
        let tmp = tempfile::tempdir().unwrap();
        let at = |path: &str| tmp.path().join(path);
        for dir in ["etc", "usr/lib", "bin"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        std::os::unix::fs::symlink("usr/lib", at("lib")).unwrap();
        glibc.install(tmp.path());
        fs::write(at("program"), &programs[usize::from(old)]).unwrap();
        fs::write(at("etc/ld.so.conf"), "/opt/conf\n").unwrap();
        let mut placed = Vec::new();
        for dir in DIRS {
            if !chance(4) {
                continue;
            }
            fs::create_dir_all(at(dir)).unwrap();
            // Some for the wrong machine.
            let file = if chance(5) { 10 } else { 1 };
            fs::write(at(dir).join("liba.so.1"), &pool.files[file]).unwrap();
            placed.push((dir, file));
        }
        let root = RootDir::open(tmp.path()).unwrap();
        if !chance(4) {
            ldcache::build(&root).unwrap().write(&root).unwrap();
        }
        if chance(8) {
            // The cache names what is gone.
            let _ = fs::remove_file(at("opt/conf/liba.so.1"));
        }
        let library_path = if chance(2) { "/opt/path:/opt/$UNKNOWN" } else { "" };
        let listed = RUNPATH.map(PathBuf::from);
        let request = SearchSettings {
            library_path: Some(library_path.as_ref()),
            rpath: if old { &listed } else { &[] },
            runpath: if old { &[] } else { &listed },
            machine: Machine::X86_64,
            platform: None,
        };
        let ours = ldcache::resolve(&root, "liba.so.1", &request);
        let theirs = ask(tmp.path(), library_path);
        let what = format!("seed {seed}: {placed:?}, {library_path}: {theirs:?} and {ours:?}");
        match (&ours, &theirs) {
            (Some(ours), Some(theirs)) => {
                let one = ours.path == *theirs || ours.variants.iter().any(|v| v.path == *theirs);
                assert!(one, "{what}");
                ways.insert(format!("{:?}", ours.via));
            }
            // Only copies for better processors, of which this may be one.
            (None, Some(theirs)) => {
                let text = theirs.display().to_string();
                assert!(text.contains("hwcaps") || text.contains("haswell"), "{what}");
            }
            (None, None) => {}
            (Some(_), None) => panic!("{what}"),
        }
    }
    assert!(ways.len() >= 5, "the roots are too much alike: {ways:?}");
}

#[test]
fn paths_and_other_machines() {
    let pool = Pool::new();
    let tmp = tempfile::tempdir().unwrap();
    let at = |path: &str| tmp.path().join(path);
    for dir in ["etc", "opt/x", "usr/lib/i386-linux-gnu", "opt/x/lib/x86_64-linux-gnu"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    Glibc::of(Path::new("/")).install(tmp.path());
    fs::write(at("opt/x/liba.so.1"), &pool.files[1]).unwrap();
    fs::write(at("usr/lib/i386-linux-gnu/liba.so.1"), &pool.files[10]).unwrap();
    fs::write(at("opt/x/lib/x86_64-linux-gnu/liba.so.1"), &pool.files[1]).unwrap();
    fs::write(at("etc/ld.so.conf"), "/usr/lib/i386-linux-gnu\n").unwrap();
    let root = RootDir::open(tmp.path()).unwrap();
    ldcache::build(&root).unwrap().write(&root).unwrap();
    let find = |name: &str, request: &SearchSettings| {
        ldcache::resolve(&root, name, request).map(|found| (found.via, found.path.display().to_string()))
    };
    let native = SearchSettings::default();
    assert_eq!(find("/opt/x/liba.so.1", &native), Some((Via::Path, "/opt/x/liba.so.1".into())));
    assert_eq!(find("/opt/x/none", &native), None);
    assert_eq!(find("liba.so.1", &native), None, "the cache has it for i386 only");
    let i386 = SearchSettings { machine: Machine::I386, ..native };
    assert_eq!(find("liba.so.1", &i386), Some((Via::Cache, "/usr/lib/i386-linux-gnu/liba.so.1".into())));
    let with_lib = SearchSettings { library_path: Some("$ORIGIN/a:/opt/x/$LIB".as_ref()), ..native };
    let expected = "/opt/x/lib/x86_64-linux-gnu/liba.so.1".to_owned();
    assert_eq!(find("liba.so.1", &with_lib), Some((Via::LibraryPath, expected)));
}
