//! Random roots: libraries of three machines, links, configuration, in all places that `ldconfig` treats in a
//! special way. A failure is made smaller before it is shown.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Glibc, difference};

/// Libraries, compiled once and copied around.
pub struct Pool {
    pub files: Vec<Vec<u8>>,
}

impl Pool {
    /// Compiles them with this machine's C compiler.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source.c");
        fs::write(&source, "int answer(void) { return 42; }\n").unwrap();
        let libc = dir.path().join("libc.so.6");
        let mut files = Vec::new();
        for machine in ["-m64", "-m32", "-mx32"] {
            compile(&libc, &source, &[machine, "-Wl,-soname,libc.so.6"]);
            for soname in
                ["", "liba.so.1", "liba.so.2", "libb-1.so", "sub/libs.so.1", "ld.so.1", "libä.so.10"]
            {
                let named = format!("-Wl,-soname,{soname}");
                let mut args = vec![machine];
                args.extend(Some(named.as_str()).filter(|_| !soname.is_empty()));
                files.push(compile(&dir.path().join("lib.so"), &source, &args));
            }
            let with_libc = [machine, "-Wl,-soname,liba.so.1", "-Wl,--no-as-needed", libc.to_str().unwrap()];
            files.push(compile(&dir.path().join("lib.so"), &source, &with_libc));
            let for_v3 = [machine, "-Wl,-soname,liba.so.1", "-Wl,-z,x86-64-v3"];
            files.push(compile(&dir.path().join("lib.so"), &source, &for_v3));
        }
        files.push(b"/* GNU ld script */ GROUP ( libx.so.1 )".repeat(4));
        // No a.out: ldconfig leaves their ISA level at whatever it was for the file before.
        files.push(b"\x7fELF\x02\x01\x01".repeat(12));
        files.push(Vec::new());
        Self { files }
    }
}

fn compile(path: &Path, source: &Path, args: &[&str]) -> Vec<u8> {
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-nostdlib", "-o"]).arg(path).arg(source).args(args);
    assert!(cc.status().unwrap().success(), "cc {args:?}");
    fs::read(path).unwrap()
}

/// One thing in a root.
#[derive(Clone, Debug)]
pub enum Thing {
    /// A file of the pool, cut to this number of bytes if that is less.
    Library(PathBuf, usize, usize),
    Link(PathBuf, PathBuf),
    Directory(PathBuf),
    Line(&'static str),
}

/// A small generator is enough, and the seeds make a failure repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }

    fn of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

const DIRS: [&[u8]; 17] = [
    b"opt/a",
    b"opt/b",
    b"opt/a/sub",
    b"opt/a/glibc-hwcaps/x86-64-v3",
    b"opt/a/glibc-hwcaps/zz",
    b"opt/b/glibc-hwcaps/x86-64-v2",
    b"opt/b/glibc-hwcaps/.hidden",
    b"opt/b/glibc-hwcaps/a:b",
    b"opt/a/haswell",
    b"opt/a/tls/x86_64",
    b"opt/b/tls",
    b"opt/b/x86_64",
    b"opt/haswell",
    b"opt/\xff\xe4",
    b"usr/lib",
    b"usr/lib/x86_64-linux-gnu",
    b"usr/lib/i386-linux-gnu/i686",
];
const NAMES: [&[u8]; 26] = [
    b"liba.so",
    b"liba.so.1",
    b"liba.so.2",
    b"liba.so.1.2",
    b"liba.so.1.10",
    b"liba.so.01",
    b"liba.so.1.2.dpkg-new",
    b"liba.so.1;5f00",
    b"liba.so.1.#prelink#",
    b"liba.so.1.#prelink#.abcdef",
    b"libb.so",
    b"libb-1.so",
    b"libb.so.1",
    b"libb9.so.10",
    b"libb10.so.9",
    b"lib\xc3\xa4.so.9",
    b"lib\xff.so.1",
    b"libs.so.1",
    b"ld-2.31.so",
    b"ld.so.1",
    b"ld.so.2",
    b"ld64.so.1",
    b"plugin.so",
    b"haswell",
    b"tls",
    b"x86-64-v3",
];
const LINES: [&str; 13] = [
    "/opt/a",
    "/opt/b/",
    "  /opt/a/haswell \t",
    "/opt/haswell",
    "/opt/missing",
    "/usr/lib # late",
    "include /etc/ld.so.conf.d/*.conf",
    "include /etc/none.conf sub/?.conf",
    "/opt/b=libc6",
    "/opt/a = libc5",
    "/opt/a=nonsense",
    "/opt/alias",
    "hwcap 0 nosegneg",
];

/// The things of the root with this seed.
fn things(seed: u64, pool: &Pool) -> Vec<Thing> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let path = |random: &mut Random| {
        let (dir, name) = (random.of(&DIRS), random.of(&NAMES));
        PathBuf::from(OsString::from_vec([dir, b"/", name].concat()))
    };
    let count = 3 + random.below(30);
    let mut things: Vec<Thing> = (0..count)
        .map(|_| match random.below(12) {
            0..6 => {
                let place = path(&mut random);
                let file = random.below(pool.files.len());
                let whole = random.below(8) != 0;
                Thing::Library(place, file, if whole { usize::MAX } else { random.below(13_000) })
            }
            6..9 => {
                let target = match random.below(6) {
                    0 => Path::new("/").join(path(&mut random)),
                    1 => Path::new("../../../..").join(path(&mut random)),
                    2 => PathBuf::from(OsStr::from_bytes(random.of(&[b"../a".as_slice(), b".", b"/opt/b"]))),
                    _ => PathBuf::from(OsStr::from_bytes(random.of(&NAMES))),
                };
                Thing::Link(path(&mut random), target)
            }
            9 => Thing::Directory(path(&mut random)),
            10 => {
                Thing::Link("opt/alias".into(), random.of(&["a", "/opt/b", "../usr/lib", "nowhere"]).into())
            }
            _ => Thing::Line(random.of(&LINES)),
        })
        .collect();
    let lines = 1 + random.below(4);
    things.extend((0..lines).map(|_| Thing::Line(random.of(&LINES))));
    things
}

/// Makes a root of these things; what does not fit is left out.
fn make(root: &Path, things: &[Thing], glibc: &Glibc, pool: &Pool) {
    for dir in ["etc/ld.so.conf.d", "opt/a", "opt/b", "usr/lib"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    symlink("usr/lib", root.join("lib")).unwrap();
    glibc.install(root);
    let mut conf = String::new();
    for thing in things {
        let parent = |path: &Path| fs::create_dir_all(root.join(path).parent().unwrap()).is_ok();
        match thing {
            Thing::Library(path, file, len) if parent(path) => {
                let bytes = &pool.files[*file];
                if fs::symlink_metadata(root.join(path)).is_err() {
                    fs::write(root.join(path), &bytes[..bytes.len().min(*len)]).unwrap();
                }
            }
            Thing::Link(path, target) if parent(path) => drop(symlink(target, root.join(path))),
            Thing::Directory(path) => drop(fs::create_dir_all(root.join(path))),
            Thing::Line(line) => conf += &format!("{line}\n"),
            _ => {}
        }
    }
    fs::write(root.join("etc/ld.so.conf.d/x.conf"), "/opt/b\n").unwrap();
    let odd = b"/opt/\xff\xe4".as_slice();
    fs::write(root.join("etc/ld.so.conf"), [conf.as_bytes(), odd].concat()).unwrap();
}

fn try_one(things: &[Thing], glibc: &Glibc, pool: &Pool) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), things, glibc, pool);
    difference(dir.path())
}

/// Compares the roots with these seeds, and shows the smallest root that still differs.
pub fn compare_roots(seeds: std::ops::RangeInclusive<u64>, glibc: &Glibc, pool: &Pool) {
    for seed in seeds {
        let mut things = things(seed, pool);
        let Some(mut what) = try_one(&things, glibc, pool) else { continue };
        let mut index = 0;
        while index < things.len() {
            let mut fewer = things.clone();
            fewer.remove(index);
            match try_one(&fewer, glibc, pool) {
                Some(still) => (things, what) = (fewer, still),
                None => index += 1,
            }
        }
        panic!("seed {seed}: {what}\n{things:#?}");
    }
}
