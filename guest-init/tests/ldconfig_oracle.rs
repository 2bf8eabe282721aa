//! The loader cache against the real thing: the same root, once with `ldconfig`, once with ours.
//!
//! The roots are made here, with the C compiler and the glibc of this machine; its `ldconfig` runs in them, in a
//! user namespace. Other glibcs and whole distributions are compared with their own `ldconfig` by the rig's
//! tests.

// In a test, a panic is the report.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use guest_init::confined_fs::RootDir;
use guest_init::ldcache::{self, SearchSettings};

use self::oracle::random::{Pool, compare_roots};
use self::oracle::{Glibc, compare};

mod oracle;

/// Compiles a library without libc into `path`.
fn compile(path: &Path, args: &[&str]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let source = path.with_file_name("source.c");
    fs::write(&source, "int answer(void) { return 42; }\n").unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-nostdlib", "-o"])
        .arg(path)
        .arg(&source)
        .args(args)
        .status()
        .unwrap();
    assert!(status.success(), "cc {args:?}");
    fs::remove_file(source).unwrap();
}

fn root_with(conf: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["etc/ld.so.conf.d", "usr/lib/x86_64-linux-gnu", "opt/a", "opt/b"] {
        fs::create_dir_all(dir.path().join(sub)).unwrap();
    }
    symlink("usr/lib", dir.path().join("lib")).unwrap();
    fs::write(dir.path().join("etc/ld.so.conf"), conf).unwrap();
    Glibc::of(Path::new("/")).install(dir.path());
    dir
}

/// A question with this `LD_LIBRARY_PATH`.
fn with_path(library_path: &str) -> SearchSettings<'_> {
    SearchSettings { library_path: Some(library_path.as_ref()), ..SearchSettings::default() }
}

#[test]
fn soname_links_are_made_and_updated() {
    let dir = root_with("/opt/a\n");
    let a = dir.path().join("opt/a");
    compile(&a.join("libnew.so.1.2"), &["-Wl,-soname,libnew.so.1"]);
    compile(&a.join("libold.so.1.9"), &["-Wl,-soname,libold.so.1"]);
    compile(&a.join("libold.so.1.10"), &["-Wl,-soname,libold.so.1"]);
    symlink("libold.so.1.9", a.join("libold.so.1")).unwrap();
    symlink("libold.so.1", a.join("libold.so")).unwrap();
    compile(&a.join("libnone.so"), &[]);
    compile(&a.join("libimpl.so"), &["-Wl,-soname,libapi.so.3"]);
    symlink("libimpl.so", a.join("libapi.so")).unwrap();
    symlink("gone.so.4", a.join("libapi.so.3")).unwrap();
    // A file stands where the link belongs.
    compile(&a.join("libtaken-1.so"), &["-Wl,-soname,libtaken.so.1"]);
    compile(&a.join("libtaken.so.1"), &["-Wl,-soname,libtaken.so.0"]);
    compare(dir.path());
    assert_eq!(fs::read_link(a.join("libold.so.1")).unwrap(), Path::new("libold.so.1.10"));
    assert_eq!(fs::read_link(a.join("libnew.so.1")).unwrap(), Path::new("libnew.so.1.2"));
    compare(dir.path());
}

#[test]
fn what_is_no_library_is_left_out() {
    let dir = root_with("/opt/a\n/missing\n/opt/b/not-a-directory\n");
    let a = dir.path().join("opt/a");
    fs::write(dir.path().join("opt/b/not-a-directory"), "").unwrap();
    fs::write(a.join("libscript.so"), "/* GNU ld script */ GROUP ( libx.so.1 )\n").unwrap();
    fs::write(
        a.join("libx.so.1-gdb.py"),
        "import gdb # and enough bytes to fill a header, which is 64 long\n",
    )
    .unwrap();
    fs::write(a.join("libempty.so"), "").unwrap();
    fs::write(a.join("libshort.so"), b"\x7fELF\x02\x01\x01").unwrap();
    fs::create_dir(a.join("libdir.so")).unwrap();
    symlink("libdir.so", a.join("liblink-to-dir.so")).unwrap();
    compile(&a.join("libx.so.1"), &["-Wl,-soname,libx.so.1"]);
    for name in ["libx.so.1.#prelink#", "libx.so.1.#prelink#.abc123", "notlib.so.1", "libx.a", "plugin.so"] {
        fs::copy(a.join("libx.so.1"), a.join(name)).unwrap();
    }
    let whole = fs::read(a.join("libx.so.1")).unwrap();
    fs::write(a.join("libcut.so.1"), &whole[..200]).unwrap();
    compare(dir.path());
}

#[test]
fn order_of_directories_decides() {
    let dir = root_with("include /etc/ld.so.conf.d/*.conf\n/usr/lib # late\n");
    let conf =
        |name: &str, text: &str| fs::write(dir.path().join("etc/ld.so.conf.d").join(name), text).unwrap();
    conf("b.conf", "/opt/b/\n");
    conf("a.conf", "  /opt/a\t\ninclude sub/?.conf\n");
    fs::create_dir(dir.path().join("etc/ld.so.conf.d/sub")).unwrap();
    conf("sub/x.conf", "/opt/c\nHWCAP 0 nosegneg\n");
    conf(".hidden.conf", "/opt/hidden\n");
    symlink("/opt/a", dir.path().join("opt/alias")).unwrap();
    conf("aa.conf", "/opt/alias\n");
    for sub in ["opt/a", "opt/b", "opt/c", "opt/hidden", "usr/lib", "usr/lib/x86_64-linux-gnu"] {
        let at = dir.path().join(sub);
        compile(&at.join("libsame.so.1"), &["-Wl,-soname,libsame.so.1"]);
        compile(&at.join("libnum.so.01"), &["-Wl,-soname,libnum.so.01"]);
        compile(&at.join("libnum.so.1"), &["-Wl,-soname,libnum.so.1"]);
        compile(&at.join("libz9.so.10"), &["-Wl,-soname,libz9.so.10"]);
        compile(&at.join("libz10.so.9"), &["-Wl,-soname,libz10.so.9"]);
        compile(&at.join("libz-.so.9"), &["-Wl,-soname,libz-.so.9"]);
        compile(&at.join("libzä.so.9"), &["-Wl,-soname,libzä.so.9"]);
    }
    compare(dir.path());
}

#[test]
fn hwcaps_directories_are_indexed() {
    let dir = root_with("/opt/a\n/opt/b\n");
    for (sub, level) in [("x86-64-v2", "v2"), ("x86-64-v3", "v3"), ("zz", "v4"), ("empty", "v2")] {
        let at = dir.path().join("opt/a/glibc-hwcaps").join(sub);
        compile(&at.join("libh.so.1.2"), &["-Wl,-soname,libh.so.1", &format!("-Wl,-z,x86-64-{level}")]);
        if sub == "empty" {
            fs::remove_file(at.join("libh.so.1.2")).unwrap();
        }
    }
    symlink("x86-64-v2", dir.path().join("opt/a/glibc-hwcaps/alias")).unwrap();
    symlink("libh.so.1.2", dir.path().join("opt/a/glibc-hwcaps/x86-64-v3/odd-name")).unwrap();
    fs::create_dir_all(dir.path().join("opt/b/glibc-hwcaps/.hidden")).unwrap();
    fs::create_dir_all(dir.path().join("opt/b/glibc-hwcaps/a:b")).unwrap();
    compile(&dir.path().join("opt/a/libh.so.1.2"), &["-Wl,-soname,libh.so.1"]);
    compile(&dir.path().join("opt/b/libh.so.1"), &["-Wl,-soname,libh.so.1"]);
    compare(dir.path());
}

#[test]
fn the_loader_finds_what_we_resolve() {
    let dir = root_with("/opt/a\n");
    let root = RootDir::open(dir.path()).unwrap();
    compile(&dir.path().join("opt/a/libcuda.so.550"), &["-Wl,-soname,libcuda.so.1"]);
    compile(&dir.path().join("opt/b/libcuda.so.1"), &["-Wl,-soname,libcuda.so.1"]);
    assert!(
        ldcache::resolve(&root, "libcuda.so.1", &SearchSettings::default()).is_none(),
        "no link and no cache yet"
    );
    ldcache::build(&root).unwrap().write(&root).unwrap();
    let found = ldcache::resolve(&root, "libcuda.so.1", &SearchSettings::default()).unwrap();
    assert_eq!(found.path, Path::new("/opt/a/libcuda.so.1"));
    assert_eq!(found.file, Path::new("/opt/a/libcuda.so.550"));
    let found = ldcache::resolve(&root, "libcuda.so.1", &with_path("/none:/opt/b")).unwrap();
    assert_eq!(found.file, Path::new("/opt/b/libcuda.so.1"));
}

#[test]
fn a_cycle_of_configuration_files_ends() {
    let dir = root_with("/opt/a\ninclude /etc/ld.so.conf.d/*.conf\n/opt/b\n");
    fs::write(dir.path().join("etc/ld.so.conf.d/a.conf"), "/usr/lib\ninclude ../ld.so.conf\n").unwrap();
    for sub in ["opt/a", "opt/b", "usr/lib"] {
        compile(&dir.path().join(sub).join("liba.so.1"), &["-Wl,-soname,liba.so.1"]);
    }
    compare(dir.path());
}

/// The drop-in keeps a directory in the cache when the root's own `ldconfig` runs later, whatever its
/// configuration looked like.
#[test]
fn a_kept_directory_survives_ldconfig() {
    for conf in [None, Some(""), Some("/opt/b"), Some("include /etc/ld.so.conf.d/*.conf\n"), Some("/opt/a\n")]
    {
        let dir = root_with(conf.unwrap_or_default());
        let file = dir.path().join("etc/ld.so.conf");
        if conf.is_none() {
            fs::remove_file(&file).unwrap();
        }
        compile(&dir.path().join("opt/a/liba.so.1"), &["-Wl,-soname,liba.so.1"]);
        let root = RootDir::open(dir.path()).unwrap();
        assert!(ldcache::keep_directory(&root, Path::new("/opt/a")).unwrap());
        assert!(
            !ldcache::keep_directory(&root, Path::new("/opt/a")).unwrap(),
            "a second time changes nothing"
        );
        let after = fs::read_to_string(&file).unwrap_or_default();
        let includes = after.lines().filter(|line| line.starts_with("include")).count();
        assert_eq!(includes, usize::from(conf != Some("/opt/a\n")), "{conf:?} became {after:?}");
        let theirs = oracle::ask(dir.path(), &[]);
        let entries = ldcache::read(&theirs).unwrap().entries;
        assert!(entries.iter().any(|entry| entry.value == b"/opt/a/liba.so.1"), "{conf:?} became {after:?}");
        compare(dir.path());
        assert!(ldcache::keep_directory(&root, Path::new("/opt/b")).unwrap());
        let text = fs::read_to_string(dir.path().join("etc/ld.so.conf.d/00-gpu-initrd.conf")).unwrap();
        assert!(text.contains("/opt/a\n") && text.contains("/opt/b\n"), "{text}");
    }
    let dir = root_with("");
    let root = RootDir::open(dir.path()).unwrap();
    for bad in ["relative", "/", "/opt/a#b", "/opt/a\nb", "/opt/a "] {
        assert!(ldcache::keep_directory(&root, Path::new(bad)).is_err(), "{bad:?}");
    }
}

/// Root reads every file, so this is for runs as another user: what cannot be read is passed over and named.
#[test]
fn an_unreadable_library_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let dir = root_with("/opt/a\n");
    let path = dir.path().join("opt/a/liba.so.1");
    compile(&path, &[]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let readable = fs::read(&path).is_ok();
    let report = ldcache::build(&RootDir::open(dir.path()).unwrap()).unwrap().report;
    assert_eq!(report.warnings.iter().any(|warning| warning.contains("liba.so.1")), !readable);
}

#[test]
fn random_roots_agree() {
    compare_roots(1..=40, &Glibc::of(Path::new("/")), &Pool::new());
}
