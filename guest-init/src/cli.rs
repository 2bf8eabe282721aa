//! The command line, for when this program is not PID 1: the same cache writer and injector, to be tried on
//! any directory. A parser of our own: the whole binary is smaller than a parser library.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::inject::{self, InjectError};
use crate::ldcache::{self, CACHE, LdCacheError};
use crate::report::chain;
use crate::rootfs::{RootDir, RootError};

const HELP: &str = "\
guest-init: PID 1 that gives an NVIDIA GPU to a container in a microVM

Started by the kernel as PID 1 it takes no options; it reads the kernel command line.

Usage:
  guest-init ld-cache --root DIR [--output FILE]
      Make the SONAME links in the library directories of the root DIR and write its loader cache, as its own
      ldconfig would, without running anything from it.
      --root DIR       the root directory to work on
      --output FILE    write the cache to FILE instead of DIR/etc/ld.so.cache (the links are made all the same)

  guest-init inject --root DIR --driver DIR
      Copy the driver's files into a root, make their links, write its loader cache, and print as JSON what was done
      and which files the loader will open. A second run changes nothing.
      --root DIR       the root directory to work on
      --driver DIR     directory with usr/lib/nvidia and usr/bin of the driver

  guest-init --version    print the version
  guest-init --help       print this text

Exit status: 0 done, 1 done but the loader would not open the injected driver, 2 wrong usage or failure.
";

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Command {
    Help,
    Version,
    LdCache { root: PathBuf, output: Option<PathBuf> },
    Inject { root: PathBuf, driver: PathBuf },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("{0}; see guest-init --help")]
    Usage(String),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Cache(#[from] LdCacheError),
    #[error(transparent)]
    Inject(#[from] InjectError),
    #[error("cannot print the result")]
    Print(#[from] std::io::Error),
}

/// Runs the command line `args`, without the program name, and returns the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> i32 {
    let done = parse(&args.into_iter().collect::<Vec<_>>()).and_then(|command| execute(&command));
    match done {
        Ok(status) => status,
        // Whoever reads our output has seen enough.
        Err(CliError::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            eprintln!("guest-init: {}", printable(&chain(&error)));
            2
        }
    }
}

fn parse(args: &[OsString]) -> Result<Command, CliError> {
    let Some((command, rest)) = args.split_first() else {
        return Err(CliError::Usage("expected a command, found none".into()));
    };
    let single = |command| match rest.first() {
        None => Ok(command),
        Some(extra) => Err(unexpected(extra)),
    };
    match command.to_str() {
        Some("--help" | "-h" | "help") => single(Command::Help),
        Some("--version" | "-V" | "version") => single(Command::Version),
        Some("ld-cache") => {
            let [root, output] = options(["--root", "--output"], rest)?;
            Ok(Command::LdCache {
                root: required(root, "--root", "ld-cache")?,
                output: output.map(PathBuf::from),
            })
        }
        Some("inject") => {
            let [root, driver] = options(["--root", "--driver"], rest)?;
            let root = required(root, "--root", "inject")?;
            Ok(Command::Inject { root, driver: required(driver, "--driver", "inject")? })
        }
        _ => Err(CliError::Usage(format!(
            "unknown command {}: expected ld-cache, inject, --version or --help",
            command.display()
        ))),
    }
}

/// Reads `--name VALUE` and `--name=VALUE`, each at most once.
fn options<const N: usize>(names: [&str; N], args: &[OsString]) -> Result<[Option<OsString>; N], CliError> {
    let mut values = [const { None }; N];
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, inline) = split_value(arg);
        let Some(index) = names.iter().position(|n| OsStr::new(n) == name) else {
            return Err(unexpected(arg));
        };
        let name = names[index];
        let Some(value) = inline.or_else(|| args.next().cloned()).filter(|v| !v.is_empty()) else {
            return Err(CliError::Usage(format!("{name}: expected a path after it")));
        };
        if values[index].replace(value).is_some() {
            return Err(CliError::Usage(format!("{name}: given twice")));
        }
    }
    Ok(values)
}

fn split_value(arg: &OsStr) -> (&OsStr, Option<OsString>) {
    use std::os::unix::ffi::OsStrExt;
    let bytes = arg.as_bytes();
    match bytes.iter().position(|b| *b == b'=') {
        Some(at) if bytes.starts_with(b"--") => {
            (OsStr::from_bytes(&bytes[..at]), Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()))
        }
        _ => (arg, None),
    }
}

fn required(value: Option<OsString>, name: &str, command: &str) -> Result<PathBuf, CliError> {
    value.map(PathBuf::from).ok_or_else(|| CliError::Usage(format!("{command}: expected {name} DIR")))
}

fn unexpected(arg: &OsStr) -> CliError {
    CliError::Usage(format!("unexpected argument {}", arg.display()))
}

fn execute(command: &Command) -> Result<i32, CliError> {
    match command {
        Command::Help => print(HELP)?,
        Command::Version => print(concat!("guest-init ", env!("CARGO_PKG_VERSION"), "\n"))?,
        Command::LdCache { root, output } => ld_cache(root, output.as_deref())?,
        Command::Inject { root, driver } => return inject(root, driver),
    }
    Ok(0)
}

fn ld_cache(root: &Path, output: Option<&Path>) -> Result<(), CliError> {
    let root = RootDir::open(root)?;
    let cache = ldcache::build(&root)?;
    match output {
        None => {
            cache.write(&root)?;
        }
        Some(file) => {
            let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = file.file_name().ok_or_else(|| {
                CliError::Usage(format!("--output {}: expected the path of a file", file.display()))
            })?;
            RootDir::open(directory)?.write_atomic(Path::new(name), &cache.bytes, 0o644)?;
        }
    }
    for warning in &cache.report.warnings {
        eprintln!("guest-init: warning: {}", printable(warning));
    }
    let mut text = String::new();
    for link in &cache.report.links {
        let _ = writeln!(text, "{} -> {}", printable(&link.path), printable(&link.target));
    }
    let place = output.unwrap_or(Path::new(CACHE));
    let (entries, directories) = (cache.report.entries, cache.report.directories);
    let _ = writeln!(text, "{}: {entries} libraries in {directories} directories", place.display());
    Ok(print(&text)?)
}

fn inject(root: &Path, driver: &Path) -> Result<i32, CliError> {
    let (root, driver) = (RootDir::open(root)?, RootDir::open(driver)?);
    let mut report = inject::copy::copy(&root, &driver)?;
    inject::complete(&root, None, &mut report)?;
    let json = serde_json::to_string_pretty(&report).map_err(std::io::Error::from)?;
    print(&(json + "\n"))?;
    // Whether libcuda.so.1 exists depends on the capabilities chosen; if the loader finds one, it must be
    // ours.
    Ok(i32::from(report.resolved.iter().any(|r| r.path.is_some() && !r.injected)))
}

/// File names come from the image, and a terminal obeys control characters.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Prints to standard output. `print!` would panic on a closed pipe.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Command, String> {
        parse(&args.iter().map(OsString::from).collect::<Vec<_>>()).map_err(|e| e.to_string())
    }

    #[test]
    fn options_in_any_order_and_form() {
        let expected = Command::Inject { root: "/r".into(), driver: "/d".into() };
        assert_eq!(parsed(&["inject", "--root", "/r", "--driver", "/d"]), Ok(expected.clone()));
        assert_eq!(parsed(&["inject", "--driver=/d", "--root=/r"]), Ok(expected));
        assert_eq!(
            parsed(&["ld-cache", "--root", "/r", "--output", "x=y"]),
            Ok(Command::LdCache { root: "/r".into(), output: Some("x=y".into()) })
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (args, word) in [
            (&[][..], "found none"),
            (&["frob"], "unknown command frob"),
            (&["ld-cache"], "expected --root DIR"),
            (&["ld-cache", "--root"], "expected a path"),
            (&["ld-cache", "--root="], "expected a path"),
            (&["ld-cache", "--root", "/a", "--root", "/b"], "given twice"),
            (&["ld-cache", "--root", "/a", "--driver", "/b"], "unexpected argument --driver"),
            (&["inject", "--root", "/a", "extra"], "unexpected argument extra"),
            (&["--version", "now"], "unexpected argument now"),
        ] {
            let error = parsed(args).unwrap_err();
            assert!(error.contains(word) && error.contains("--help"), "{args:?}: {error}");
        }
    }

    #[test]
    fn usage_errors_exit_with_2() {
        assert_eq!(run(["--frob".into()]), 2);
        assert_eq!(run(["ld-cache".into(), "--root".into(), "/nonexistent".into()]), 2);
        assert_eq!(run(["--version".into()]), 0);
    }

    #[test]
    fn the_cache_can_go_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("cache");
        let args = ["ld-cache", "--root", dir.path().to_str().unwrap(), "--output", output.to_str().unwrap()];
        assert_eq!(run(args.map(OsString::from)), 0);
        assert!(ldcache::read(&std::fs::read(output).unwrap()).is_ok());
        assert!(!dir.path().join("etc").exists());
    }
}
