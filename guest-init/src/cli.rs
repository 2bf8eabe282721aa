//! The command line, used when this program is not PID 1. It runs the same cache writer and injector on any
//! directory. The parser is hand-written because a parser library would be larger than the whole binary.

use image::text::chain;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::confined_fs::{RootDir, RootError};
use crate::driver_files;
use crate::driver_files::layer::LayerPlace;
use crate::driver_files::{ContainerRequest, InjectError, InjectReport, Inventory};
use crate::gpu::container_env::Visible;
use crate::ldcache::{self, LdCacheError};
use image::config::{Config, DriverFiles};
use image::status::Finding;

/// Maximum size of a configuration file in bytes.
const MAX_CONFIG: u64 = 1 << 20;

const HELP: &str = "\
guest-init: PID 1 that provides an NVIDIA GPU to a container in a microVM

As PID 1 it has no options and reads the kernel command line.

Usage:
  guest-init ld-cache --root DIR [--output FILE]
      Create the SONAME links in the library directories of the root DIR and write its loader cache, as the root's
      own ldconfig would. No program from the root runs.
      --root DIR       the root directory to work on
      --output FILE    write the cache to FILE; by default it is written where the root's loader reads it, which
                       is DIR/etc/ld.so.cache in most roots (the links are created in both cases)

  guest-init inject --root DIR --driver DIR [--layer DIR]
                    [--config FILE | [--capabilities LIST] [--driver-files POLICY] [--library-path DIRS]]
      Copy the driver files into a root, create their links and write the loader cache. Print the changes and the
      files that the loader will open as JSON. A second run changes nothing; a different driver replaces the first.
      --root DIR             the root directory to work on
      --driver DIR           the directory of the driver: an unpacked initrd or package, the / of a machine, or a
                             directory such as /usr/local/nvidia with lib64 and bin
      --layer DIR            build an overlay layer in the existing directory DIR instead of changing the root; files
                             are hard links if DIR is on the file system of the driver
      --capabilities LIST    all, or a list from compat32,compute,display,graphics,ngx,utility,video
                             (default: compute,utility)
      --driver-files POLICY  what to do with driver files in the root: mask, keep or refuse (default: mask)
      --library-path DIRS    the LD_LIBRARY_PATH that programs in the root will have
      --config FILE          read these settings, the program and its PATH from a config.json, as a guest does

  guest-init --version    print the version
  guest-init --help       print this text

Exit status: 0 success, 1 success but the loader would not open the injected driver, 2 usage error or failure.
";

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Command {
    Help,
    Version,
    LdCache { root: PathBuf, output: Option<PathBuf> },
    Inject(Box<Inject>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inject {
    root: PathBuf,
    driver: PathBuf,
    layer: Option<PathBuf>,
    config: Option<PathBuf>,
    request: ContainerRequest,
}

/// The output of `inject`.
#[derive(serde::Serialize)]
struct Injected<'a> {
    #[serde(flatten)]
    report: &'a InjectReport,
    findings: Vec<Finding>,
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
    #[error("{}: {error}", path.display())]
    Config { path: PathBuf, error: String },
    #[error("cannot write to standard output")]
    Print(#[from] std::io::Error),
}

/// Runs the command line `args`, without the program name, and returns the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> i32 {
    let done = parse(&args.into_iter().collect::<Vec<_>>()).and_then(|command| execute(&command));
    match done {
        Ok(status) => status,
        // The reader of the output has closed it.
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
        Some("inject") => inject_options(rest),
        _ => Err(CliError::Usage(format!(
            "unknown command {}: expected ld-cache, inject, --version or --help",
            command.display()
        ))),
    }
}

fn inject_options(args: &[OsString]) -> Result<Command, CliError> {
    let names =
        ["--root", "--driver", "--layer", "--config", "--capabilities", "--driver-files", "--library-path"];
    let [root, driver, layer, config, capabilities, policy, library_path] = options(names, args)?;
    if config.is_some() && (capabilities.is_some() || policy.is_some() || library_path.is_some()) {
        let what = "--config cannot be combined with --capabilities, --driver-files or --library-path";
        return Err(CliError::Usage(what.into()));
    }
    let capabilities = capabilities.map(|list| list.to_string_lossy().into_owned());
    let asked = ContainerRequest::of_capabilities(capabilities.as_deref())
        .map_err(|error| CliError::Usage(format!("--capabilities: {error}")))?;
    let driver_files = match policy.as_ref().map(|policy| policy.to_string_lossy()) {
        None => DriverFiles::default(),
        Some(name) => DriverFiles::named(&name).ok_or_else(|| {
            CliError::Usage(format!("--driver-files {name}: expected mask, keep or refuse"))
        })?,
    };
    let request = ContainerRequest { driver_files, library_path, ..asked };
    Ok(Command::Inject(Box::new(Inject {
        root: required(root, "--root", "inject")?,
        driver: required(driver, "--driver", "inject")?,
        layer: layer.map(PathBuf::from),
        config: config.map(PathBuf::from),
        request,
    })))
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
            return Err(CliError::Usage(format!("{name}: expected a value after it")));
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
        Command::Inject(options) => return inject(options),
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
    let place = output.unwrap_or(&cache.path);
    let (entries, directories) = (cache.report.entries, cache.report.directories);
    let _ = writeln!(text, "{}: {entries} libraries in {directories} directories", place.display());
    Ok(print(&text)?)
}

fn inject(options: &Inject) -> Result<i32, CliError> {
    let (root, driver) = (RootDir::open(&options.root)?, RootDir::open(&options.driver)?);
    let inventory = Inventory::of_directory(&driver)?;
    let config = options.config.as_deref().map(read_config).transpose()?;
    let (request, refused) = match &config {
        Some((request, refused)) => (request, refused.clone()),
        None => (&options.request, None),
    };
    let done = if let Some(layer) = &options.layer {
        driver_files::layer::layer(&root, &driver, &inventory, request, LayerPlace::Links(layer), None)
    } else {
        driver_files::copy::copy(&root, &driver, &inventory, request).and_then(|mut report| {
            driver_files::complete(&root, request, &mut report)?;
            Ok(report)
        })
    };
    // The JSON has what a guest would report; the error goes to standard error.
    let (report, mut findings, failure) = match done {
        Ok(report) => {
            let findings = report.findings();
            (report, findings, None)
        }
        Err(error) => {
            let (failure, libc) = (chain(&error), driver_files::libc(&root));
            (InjectReport { libc, ..InjectReport::default() }, vec![error.into()], Some(failure))
        }
    };
    findings.extend(refused);
    for finding in findings.iter().filter(|_| failure.is_none()) {
        eprintln!("guest-init: {}: {}", finding.code.name(), printable(&finding.message));
    }
    let json = serde_json::to_string_pretty(&Injected { report: &report, findings });
    let json = json.map_err(std::io::Error::from)?;
    print(&(json + "\n"))?;
    if let Some(failure) = failure {
        eprintln!("guest-init: {}", printable(&failure));
        return Ok(2);
    }
    // Whether libcuda.so.1 exists depends on the capabilities; if the loader finds one, it must be the
    // injected one.
    Ok(i32::from(report.resolved.iter().any(|r| r.path.is_some() && !r.expected)))
}

/// Returns the request of a configuration, and a finding if it requests something that no guest has.
fn read_config(path: &Path) -> Result<(ContainerRequest, Option<Finding>), CliError> {
    let failed =
        |error: &dyn std::fmt::Display| CliError::Config { path: path.into(), error: error.to_string() };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    file.take(MAX_CONFIG).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    let mut config = Config::default();
    config.apply_json(&bytes).map_err(|error| failed(&error))?;
    let request = ContainerRequest::of_config(&config).map_err(|error| failed(&error))?;
    Ok((request, Visible::asked(&config.env).refused().map(Finding::from)))
}

/// Replaces control characters, which a terminal would interpret: file names come from the image.
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
    use image::capability;

    fn parsed(args: &[&str]) -> Result<Command, String> {
        parse(&args.iter().map(OsString::from).collect::<Vec<_>>()).map_err(|e| e.to_string())
    }

    #[test]
    fn options_in_any_order_and_form() {
        let request = ContainerRequest {
            capabilities: capability::requested(None).unwrap(),
            ..ContainerRequest::default()
        };
        let plain = Inject { root: "/r".into(), driver: "/d".into(), layer: None, config: None, request };
        let expected = Command::Inject(Box::new(plain.clone()));
        assert_eq!(parsed(&["inject", "--root", "/r", "--driver", "/d"]), Ok(expected.clone()));
        assert_eq!(parsed(&["inject", "--driver=/d", "--root=/r"]), Ok(expected));
        let request = ContainerRequest {
            capabilities: capability::requested(Some("all")).unwrap(),
            driver_files: DriverFiles::Keep,
            library_path: Some("/a:/b".into()),
            ..ContainerRequest::default()
        };
        let args = ["inject", "--root=/r", "--driver=/d", "--layer=/l", "--capabilities", "all"];
        let more = ["--driver-files=keep", "--library-path", "/a:/b"];
        let expected = Inject { layer: Some("/l".into()), request, ..plain };
        assert_eq!(parsed(&[&args[..], &more].concat()), Ok(Command::Inject(Box::new(expected))));
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
            (&["ld-cache", "--root"], "expected a value"),
            (&["ld-cache", "--root="], "expected a value"),
            (&["ld-cache", "--root", "/a", "--root", "/b"], "given twice"),
            (&["ld-cache", "--root", "/a", "--driver", "/b"], "unexpected argument --driver"),
            (&["inject", "--root", "/a", "extra"], "unexpected argument extra"),
            (
                &["inject", "--root", "/a", "--driver", "/b", "--capabilities", "x"],
                "unknown driver capability",
            ),
            (&["inject", "--root", "/a", "--driver", "/b", "--driver-files", "x"], "mask, keep or refuse"),
            (
                &["inject", "--root", "/a", "--driver", "/b", "--config", "/c", "--capabilities", "all"],
                "cannot be combined",
            ),
            (&["--version", "now"], "unexpected argument now"),
        ] {
            let error = parsed(args).unwrap_err();
            assert!(error.contains(word) && error.contains("--help"), "{args:?}: {error}");
        }
    }

    #[test]
    fn usage_errors_exit_with_2() {
        assert_eq!(run(["--frob".into()]), 2);
        let nothing = tempfile::tempdir().unwrap().path().join("nothing");
        assert_eq!(run(["ld-cache".into(), "--root".into(), nothing.into()]), 2);
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
