//! Reads /etc/ld.so.conf, the list of library directories.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::hwcap::LegacyHwcaps;
use super::rules::Rules;
use super::{CacheReport, glob};
use crate::confined_fs::RootDir;

/// Maximum size of one configuration file in bytes.
const MAX_CONF: u64 = 1024 * 1024;
/// Maximum total size of configuration files in bytes. A file counts each time it is included.
const MAX_BYTES: u64 = 2 * MAX_CONF;
/// Maximum number of configuration files named.
const MAX_FILES: usize = 1000;
/// Maximum length of one pattern in bytes: `PATH_MAX`.
const MAX_PATTERN: usize = 4096;
/// Maximum cost of the patterns of all files: enough for about fifty; real roots have about three.
const MAX_EFFORT: usize = 1 << 18;
/// Maximum nesting of includes. `ldconfig` has no limit, and crashes on a cycle.
const MAX_DEPTH: usize = 16;
/// Maximum number of directories named.
const MAX_DIRECTORIES: usize = 4096;

/// One line of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// A directory, unchanged.
    Directory(Vec<u8>),
    /// Patterns of more configuration files.
    Include(Vec<Vec<u8>>),
    /// `hwcap NUMBER NAME`: a directory name that stands for hardware. Without effect since glibc 2.32.
    Hwcap(Vec<u8>),
}

/// Parses the text of a configuration file, as glibc's `elf/ldconfig.c` does.
pub fn parse_conf(text: &[u8]) -> Vec<Directive> {
    lines(text).collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = Directive> {
    text.split(|b| *b == b'\n').filter_map(parse_line)
}

fn parse_line(line: &[u8]) -> Option<Directive> {
    // A NUL ends a string in C, and # ends the line: there is no quoting.
    let line = line.split(|b| matches!(b, b'#' | 0)).next().unwrap_or_default();
    let start = line.iter().position(|b| !is_space(*b))?;
    let line = &line[start..];
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if line.starts_with(b"include") && blank(line.get(7)) {
        let patterns = line[8..].split(|b| matches!(b, b' ' | b'\t')).filter(|p| !p.is_empty());
        return Some(Directive::Include(patterns.map(<[u8]>::to_vec).collect()));
    }
    if line.len() > 5 && line[..5].eq_ignore_ascii_case(b"hwcap") && blank(line.get(5)) {
        return Some(Directive::Hwcap(line[6..].to_vec()));
    }
    let line = trim_end(line, is_space);
    let line = trim_end(line, |b| b == b'/');
    if line.is_empty() { None } else { Some(Directive::Directory(line.to_vec())) }
}

/// `isspace` of the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn trim_end(text: &[u8], unwanted: impl Fn(u8) -> bool) -> &[u8] {
    let end = text.iter().rposition(|b| !unwanted(*b)).map_or(0, |last| last + 1);
    &text[..end]
}

/// The parsed configuration.
#[derive(Debug)]
pub(super) struct Conf {
    /// The directories, in order, duplicates and missing ones included.
    pub directories: Vec<ConfDir>,
    /// Names of hardware directories.
    pub hwcaps: LegacyHwcaps,
}

/// A directory of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfDir {
    /// Its path, unchanged.
    pub path: OsString,
    /// Declared kind of its libraries, until glibc 2.36: `libc5` is 2, `libc6` is 3.
    pub kind: Option<i32>,
}

/// Reads `conf` in `root` and all included files.
pub(super) fn read(
    root: &RootDir,
    conf: &Path,
    hwcaps: LegacyHwcaps,
    rules: &Rules,
    report: &mut CacheReport,
) -> Conf {
    let result = Conf { directories: Vec::new(), hwcaps };
    let mut reader = Reader {
        root,
        rules,
        report,
        result,
        open: Vec::new(),
        files: 0,
        bytes: 0,
        budget: MAX_EFFORT,
        is_spent: false,
    };
    reader.file(conf);
    reader.result
}

struct Reader<'a> {
    root: &'a RootDir,
    rules: &'a Rules,
    report: &'a mut CacheReport,
    result: Conf,
    /// The files being read, by device and inode, to detect cycles.
    open: Vec<(u64, u64)>,
    /// Number of files named, and total size of those read.
    files: usize,
    bytes: u64,
    /// Remaining budget of patterns.
    budget: usize,
    /// Whether the exhausted budget was reported.
    is_spent: bool,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path) {
        if self.is_full() {
            return self.report.warn(format!("{}: not read: too many configuration files", path.display()));
        }
        self.files += 1;
        let Ok(stat) = self.root.stat(path) else { return };
        let identity = (stat.dev, stat.ino);
        if self.open.contains(&identity) || self.open.len() == MAX_DEPTH {
            return self
                .report
                .warn(format!("{}: not read: included by itself or nested too deeply", path.display()));
        }
        let text = match self.root.read(path, MAX_CONF.min(MAX_BYTES - self.bytes)) {
            Ok(text) => text,
            Err(error) => return self.report.warn(error.to_string()),
        };
        self.bytes += text.len() as u64;
        self.open.push(identity);
        // One line at a time: all directives together would be many times the size of the file.
        for directive in lines(&text) {
            match directive {
                Directive::Include(_) if self.is_full() => {}
                Directive::Include(patterns) => patterns.iter().for_each(|p| self.include(path, p)),
                Directive::Hwcap(text) => self.hwcap(path, &text),
                Directive::Directory(dir) if self.result.directories.len() < MAX_DIRECTORIES => {
                    self.directory(dir);
                }
                Directive::Directory(_) => {
                    let text = format!(
                        "{}: ignored all but the first {MAX_DIRECTORIES} directories",
                        path.display()
                    );
                    self.report.warn(text);
                    break;
                }
            }
        }
        self.open.pop();
    }

    /// Returns whether the limit of files is reached.
    fn is_full(&self) -> bool {
        self.files == MAX_FILES || self.bytes == MAX_BYTES
    }

    fn hwcap(&mut self, path: &Path, text: &[u8]) {
        if !self.rules.hwcap_lines || !add_hwcap(&mut self.result.hwcaps, text) {
            self.report.warn(format!("{}: ignored a hwcap line", path.display()));
        }
    }

    /// Includes the files of a pattern, which is relative to the including file.
    fn include(&mut self, file: &Path, pattern: &[u8]) {
        let mut absolute = Vec::new();
        if !pattern.starts_with(b"/") {
            absolute.extend(file.parent().unwrap_or(Path::new("/")).as_os_str().as_bytes());
            absolute.push(b'/');
        }
        absolute.extend(pattern);
        if absolute.len() > MAX_PATTERN {
            return self.report.warn(format!("{}: ignored a pattern that is too long", file.display()));
        }
        let paths: Vec<PathBuf> = glob::glob(self.root, &absolute, &mut self.budget);
        if self.budget == 0 && !self.is_spent {
            self.is_spent = true;
            let why =
                format!("{}: ignored further matches: its patterns match too many files", file.display());
            self.report.warn(why);
        }
        for path in &paths {
            self.file(path);
        }
    }

    /// Adds a directory. Until glibc 2.36 it may have a type: `directory=libc6`.
    fn directory(&mut self, dir: Vec<u8>) {
        let sign = dir.iter().position(|byte| *byte == b'=').filter(|_| self.rules.types);
        let (path, kind) = match sign {
            None => (dir, None),
            Some(sign) => {
                let kind = match &dir[sign + 1..] {
                    b"libc4" => Some(0),
                    b"libc5" => Some(2),
                    b"libc6" | b"glibc2" => Some(3),
                    _ => None,
                };
                (trim_end(trim_end(&dir[..sign], is_space), |b| b == b'/').to_vec(), kind)
            }
        };
        if !path.is_empty() {
            self.result.directories.push(ConfDir { path: OsString::from_vec(path), kind });
        }
    }
}

/// Parses the rest of a `hwcap` line: a number and one name.
fn add_hwcap(hwcaps: &mut LegacyHwcaps, text: &[u8]) -> bool {
    let mut words = text.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty());
    let (number, name, more) = (words.next(), words.next(), words.next());
    let number = number.and_then(|number| parse_number(std::str::from_utf8(number).ok()?));
    match (number, name, more) {
        (Some(number), Some(name), None) => hwcaps.add(number, name),
        _ => false,
    }
}

/// Parses a number in C syntax: `0x10` and `010` too.
fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(path: &str) -> Directive {
        Directive::Directory(path.into())
    }

    #[test]
    fn lines_are_read_as_ldconfig_does() {
        let text = b"# comment\n\n  /usr/lib/ \t\n/a # b\ninclude  x.conf\t/y/*.conf\nHWCAP 1 nosegneg\n/\nincluded\n/end";
        let include = Directive::Include(vec![b"x.conf".to_vec(), b"/y/*.conf".to_vec()]);
        let expected = [
            dir("/usr/lib"),
            dir("/a"),
            include,
            Directive::Hwcap(b"1 nosegneg".to_vec()),
            dir("included"),
            dir("/end"),
        ];
        assert_eq!(parse_conf(text), expected);
    }

    #[test]
    fn includes_are_relative_sorted_and_end() {
        let tmp = tempfile::tempdir().unwrap();
        let etc = tmp.path().join("etc");
        std::fs::create_dir_all(etc.join("d")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(etc.join(name), text).unwrap();
        write("ld.so.conf", "/first\ninclude d/*.conf\ninclude /etc/missing.conf\n/last=libc6\n");
        write("d/b.conf", "/b\n");
        write("d/a.conf", "include ../ld.so.conf\n/a\n");
        write("d/.hidden.conf", "/hidden\n");
        let root = RootDir::open(tmp.path()).unwrap();
        let read = |version| {
            let mut report = CacheReport::default();
            let hwcaps = LegacyHwcaps::of(crate::ldcache::Machine::X86_64);
            let conf =
                read(&root, Path::new("/etc/ld.so.conf"), hwcaps, &Rules::by_version(version), &mut report);
            assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
            conf.directories.into_iter().map(|dir| (dir.path, dir.kind)).collect::<Vec<_>>()
        };
        let found = |last: &str, kind| {
            ["/first", "/a", "/b"]
                .map(|dir| (dir.into(), None))
                .into_iter()
                .chain([(last.into(), kind)])
                .collect()
        };
        let expected: Vec<(OsString, Option<i32>)> = found("/last", Some(3));
        assert_eq!(read((2, 36)), expected);
        let expected: Vec<(OsString, Option<i32>)> = found("/last=libc6", None);
        assert_eq!(read((2, 37)), expected);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed(text: Vec<u8>) {
            for directive in parse_conf(&text) {
                if let Directive::Directory(dir) = directive {
                    proptest::prop_assert!(!dir.is_empty() && !dir.contains(&0) && !dir.ends_with(b"/"));
                }
            }
        }
    }
}
