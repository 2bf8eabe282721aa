//! Layouts of other distributions. There is no `ldconfig` of theirs at hand, so the oracle is Debian's with the
//! directories built into it patched to the other layout, and the evidence for ours is Debian's loader patched
//! likewise. What differs otherwise between their glibcs and Debian's is not seen here.

// In a test, a panic is the report.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use guest_init::confined_fs::RootDir;
use guest_init::ldcache::{self, Machine, Platform};

use self::oracle::random::Pool;
use self::oracle::{Glibc, compare};

#[allow(dead_code, reason = "random roots are compared by another test")]
mod oracle;

static POOL: LazyLock<Pool> = LazyLock::new(Pool::new);

/// One after the other in every Debian loader and `ldconfig`, with their lengths in front in the latter.
const BUILT_IN: &[u8] = b"/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0";
/// The end of it stands once more in the loader.
const AGAIN: &[u8] = b"/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0";

struct Layout {
    /// Directories built into the loader.
    loader: &'static [&'static str],
    /// What upstream's `ldconfig` makes of them (`add_system_dir`), four at most.
    ldconfig: &'static [&'static str],
    /// Directories and links of the root; the first is that of libc and the loader.
    dirs: &'static [&'static str],
    links: &'static [(&'static str, &'static str)],
    conf: Option<&'static str>,
}

const FEDORA: Layout = Layout {
    loader: &["/lib64", "/usr/lib64"],
    ldconfig: &["/lib", "/lib64", "/usr/lib", "/usr/lib64"],
    dirs: &["usr/lib64", "usr/lib", "usr/sbin"],
    links: &[("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/sbin")],
    conf: Some("include ld.so.conf.d/*.conf\n"),
};
const RHEL_6: Layout =
    Layout { dirs: &["lib64", "lib", "usr/lib64", "usr/lib", "sbin"], links: &[], ..FEDORA };
const SUSE: Layout = Layout {
    dirs: &["lib64", "lib", "usr/lib64", "usr/lib", "usr/local/lib64", "usr/local/lib", "sbin"],
    links: &[],
    conf: Some("/usr/local/lib64\n/usr/local/lib\ninclude /etc/ld.so.conf.d/*.conf\n"),
    ..FEDORA
};
const ARCH: Layout = Layout {
    loader: &["/usr/lib"],
    ldconfig: &["/usr/lib", "/usr/lib64", "/usr/libx32"],
    dirs: &["usr/lib", "usr/libx32", "usr/bin"],
    links: &[("lib", "usr/lib"), ("lib64", "usr/lib"), ("usr/lib64", "lib"), ("sbin", "usr/bin")],
    conf: Some("include /etc/ld.so.conf.d/*.conf\n"),
};
const DEBIAN_UNMERGED: Layout = Layout {
    loader: &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"],
    ldconfig: &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"],
    dirs: &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib", "lib64", "sbin"],
    links: &[],
    conf: None,
};

/// The list of directories, filled up with NULs to the length of Debian's.
fn list(dirs: &[&str]) -> Vec<u8> {
    let mut bytes: Vec<u8> = dirs.iter().flat_map(|dir| [dir.as_bytes(), b"/\0"].concat()).collect();
    assert!(bytes.len() <= BUILT_IN.len());
    bytes.resize(BUILT_IN.len(), 0);
    bytes
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) -> usize {
    let places: Vec<_> =
        bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from).map(|(at, _)| at).collect();
    for at in &places {
        bytes[*at..*at + to.len()].copy_from_slice(to);
    }
    places.len()
}

fn lengths(lengths: impl Iterator<Item = usize>) -> Vec<u8> {
    lengths.flat_map(|len| (len as u64).to_ne_bytes()).collect()
}

fn ldconfig_for(layout: &Layout, original: &Path) -> Vec<u8> {
    let mut program = fs::read(original).unwrap();
    let own = layout.ldconfig.iter().map(|dir| dir.len() + 1).chain(std::iter::repeat(0)).take(4);
    let from = [lengths([22, 26, 5, 9].into_iter()), BUILT_IN.to_vec()].concat();
    let to = [lengths(own), list(layout.ldconfig)].concat();
    // The first copy is ldconfig's own, the second that of the loader in its static libc, which is particular.
    let at = program.windows(from.len()).position(|part| part == from);
    let at = at.expect("another ldconfig than expected: its directories are not found");
    program[at..at + to.len()].copy_from_slice(&to);
    program
}

fn loader_for(layout: &Layout, original: &Path) -> Vec<u8> {
    let mut loader = fs::read(original).unwrap();
    assert!(replace(&mut loader, BUILT_IN, &list(layout.loader)) > 0, "another loader than expected");
    if layout.loader.len() < 3 {
        replace(&mut loader, AGAIN, &vec![0; AGAIN.len()]);
    }
    loader
}

/// A root of this layout, with libraries of the same names in all of its directories.
fn root_of(layout: &Layout) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for dir in layout.dirs.iter().chain(&["etc/ld.so.conf.d", "opt/x"]) {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for (link, target) in layout.links {
        symlink(target, at(link)).unwrap();
    }
    let glibc = Glibc::of(Path::new("/"));
    fs::write(at("sbin/ldconfig"), ldconfig_for(layout, &glibc.ldconfig)).unwrap();
    fs::set_permissions(at("sbin/ldconfig"), fs::Permissions::from_mode(0o755)).unwrap();
    let lib = at(layout.dirs[0]);
    fs::copy(&glibc.libc, lib.join("libc.so.6")).unwrap();
    fs::write(lib.join("ld-linux-x86-64.so.2"), loader_for(layout, &glibc.loader)).unwrap();
    let usual = at("lib64/ld-linux-x86-64.so.2");
    if !usual.exists() {
        symlink(Path::new("/").join(layout.dirs[0]).join("ld-linux-x86-64.so.2"), usual).unwrap();
    }
    if let Some(conf) = layout.conf {
        fs::write(at("etc/ld.so.conf"), conf).unwrap();
        fs::write(at("etc/ld.so.conf.d/x.conf"), "/opt/x\n").unwrap();
    }
    for (index, dir) in layout.dirs.iter().filter(|dir| dir.contains("lib")).chain(&["opt/x"]).enumerate() {
        // Of each machine: the second has SONAME liba.so.1.
        for machine in 0..3 {
            let name = format!("lib{}.so.1.{index}", ["a", "a32", "ax32"][machine]);
            fs::write(at(dir).join(name), &POOL.files[machine * 9 + 1]).unwrap();
        }
    }
    root
}

fn check(layout: &Layout) -> Platform {
    let root = root_of(layout);
    compare(root.path());
    let dir = RootDir::open(root.path()).unwrap();
    let platform = Platform::detect(&dir).unwrap();
    assert_eq!(platform.loader_dirs, layout.loader.iter().map(PathBuf::from).collect::<Vec<_>>());
    assert!(platform.is_default_dir(&dir, &platform.lib_dir), "{platform:?}");
    assert!(!platform.is_default_dir(&dir, Path::new("/opt/x")));
    let entries = ldcache::build(&dir).unwrap().report.entries;
    assert!(entries > 4, "{entries} entries");
    platform
}

#[test]
fn fedora_by_a_patched_ldconfig() {
    let platform = check(&FEDORA);
    assert_eq!(platform.lib_dir, Path::new("/usr/lib64"));
    let dirs = ["/lib", "/lib64", "/libx32", "/usr/lib", "/usr/lib64", "/usr/libx32"];
    assert_eq!(platform.system_dirs, dirs.map(PathBuf::from));
}

#[test]
fn rhel_6_by_a_patched_ldconfig() {
    assert_eq!(check(&RHEL_6).lib_dir, Path::new("/lib64"));
}

#[test]
fn suse_by_a_patched_ldconfig() {
    assert_eq!(check(&SUSE).lib_dir, Path::new("/lib64"));
}

#[test]
fn arch_by_a_patched_ldconfig() {
    assert_eq!(check(&ARCH).lib_dir, Path::new("/usr/lib"));
}

#[test]
fn debian_before_the_merged_usr() {
    assert_eq!(check(&DEBIAN_UNMERGED).lib_dir, Path::new("/lib/x86_64-linux-gnu"));
}

/// No `ldconfig`, no configuration, no cache: what it would write is asked once one is put there.
#[test]
fn distroless() {
    let root = root_of(&DEBIAN_UNMERGED);
    let ldconfig = root.path().join("sbin/ldconfig");
    fs::rename(&ldconfig, root.path().join("kept")).unwrap();
    let dir = RootDir::open(root.path()).unwrap();
    let without = ldcache::build(&dir).unwrap();
    assert!(without.write(&dir).unwrap());
    fs::rename(root.path().join("kept"), &ldconfig).unwrap();
    assert_eq!(ldcache::build(&dir).unwrap().bytes, without.bytes);
    compare(root.path());
}

/// A glibc with a prefix of its own, that only programs lead to, beside another libc.
#[test]
fn a_glibc_in_its_own_prefix() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for dir in ["usr/bin", "lib", "usr/glibc-compat/lib", "usr/glibc-compat/etc", "opt/x"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    let glibc = Glibc::of(Path::new("/"));
    let layout = Layout { loader: &[], ..DEBIAN_UNMERGED };
    let mut loader = loader_for(&layout, &glibc.loader);
    replace(&mut loader, AGAIN, &vec![0; AGAIN.len()]);
    replace(&mut loader, b"/etc/ld.so.cache", &[0; 16]);
    loader.extend(b"\0/usr/glibc-compat/lib/\0x\0/usr/glibc-compat/etc/ld.so.cache\0");
    fs::write(at("usr/glibc-compat/lib/ld-linux-x86-64.so.2"), loader).unwrap();
    fs::copy(&glibc.libc, at("usr/glibc-compat/lib/libc.so.6")).unwrap();
    fs::write(at("usr/glibc-compat/etc/ld.so.conf"), "/opt/x\n").unwrap();
    fs::write(at("opt/x/liba.so.1"), &POOL.files[1]).unwrap();
    fs::write(at("lib/libc.musl-x86_64.so.1"), "").unwrap();
    let dir = RootDir::open(root.path()).unwrap();
    assert_eq!(Platform::detect(&dir), None, "nothing leads to it");

    let source = at("source.c");
    fs::write(&source, "void _start(void) {}\n").unwrap();
    let interp = "-Wl,--dynamic-linker,/usr/glibc-compat/lib/ld-linux-x86-64.so.2";
    let mut cc = std::process::Command::new("cc");
    cc.args(["-nostdlib", "-pie", "-fPIE", interp, "-o"]).arg(at("usr/bin/program")).arg(&source);
    assert!(cc.status().unwrap().success());
    let platform = Platform::detect_for(&dir, Machine::X86_64).unwrap();
    assert_eq!(platform.lib_dir, Path::new("/usr/glibc-compat/lib"));
    assert_eq!(platform.loader_dirs, [Path::new("/usr/glibc-compat/lib")]);
    assert_eq!(platform.cache, Path::new("/usr/glibc-compat/etc/ld.so.cache"));
    let cache = ldcache::build(&dir).unwrap();
    assert!(cache.write(&dir).unwrap() && at("usr/glibc-compat/etc/ld.so.cache").exists());
    let found = ldcache::resolve(&dir, "liba.so.1", &ldcache::SearchSettings::default()).unwrap();
    assert_eq!((found.via, found.path.as_path()), (ldcache::Via::Cache, Path::new("/opt/x/liba.so.1")));
}
