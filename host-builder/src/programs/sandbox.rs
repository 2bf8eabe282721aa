//! Runs programs on untrusted file systems in a sandbox. The kernel never mounts such a file
//! system; a program of the machine or of a toolroot unpacks it. The program sees its own libraries
//! and the image read-only and one writable directory. It runs in its own namespaces, without
//! network, as nobody.

use super::toolroot::explain;
use crate::common::error::{Doing, Error, Result};
use crate::common::interrupt;
use crate::common::space;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest time for one program. A root of 10 GB takes about a minute.
const DEADLINE: Duration = Duration::from_mins(10);
/// Most bytes and files that an image may unpack to.
const MAX_BYTES: u64 = 64 << 30;
const MAX_FILES: u64 = 4_000_000;
/// How often to check for the program's end, and how often to measure its output.
const POLL: Duration = Duration::from_millis(20);
const MEASURE: Duration = Duration::from_secs(2);
/// Bytes of a program's output that are read, and bytes of its end for an error.
const MAX_SAID: u64 = 512 << 20;
const TAIL: u64 = 16 << 10;
/// Lines of the output that are kept.
const MAX_LINES: usize = 12;

/// Builds the sandbox root (`$2`, an empty directory) from the programs of `$1`, the image `$3` and
/// the output directory `$4`, and runs the rest of the arguments in it. After the second `unshare`,
/// the program cannot change mounts, is user nobody, and has no capabilities. Limits: a file of 16
/// GiB, 600 s of processor time, 8 GiB of memory.
const ENTER: &str = r#"set -e
root=$1 new=$2 image=$3 out=$4; shift 4
mount -t tmpfs -o mode=0755 none "$new"
only() { mount --rbind "$1" "$2"; mount -o "remount,bind,$3" "$2"; }
for d in bin sbin lib lib32 lib64 usr; do
    if [ -L "$root/$d" ]; then ln -s "$(readlink "$root/$d")" "$new/$d"
    elif [ -d "$root/$d" ]; then mkdir "$new/$d"; only "$root/$d" "$new/$d" ro,nosuid; fi
done
mkdir "$new/dev" "$new/out"
: > "$new/dev/null"; mount --bind /dev/null "$new/dev/null"
: > "$new/image"; only "$image" "$new/image" ro,nosuid
only "$out" "$new/out" rw,nosuid,nodev
mount -o remount,bind,ro "$new"
ulimit -f 33554432; ulimit -t 600; ulimit -v 8388608
exec unshare --user --mount --root="$new" --wd=/out -- "$@""#;

/// The programs that run in the sandbox.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The programs of a toolroot.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The programs of the machine.
    pub fn machine() -> Self {
        Self::at(Path::new("/"))
    }

    /// Whether there is a program with this name.
    pub fn has(&self, program: &str) -> bool {
        ["usr/bin", "usr/sbin", "bin", "sbin"].iter().any(|dir| self.root.join(dir).join(program).is_file())
    }

    /// Runs `words`, which find the image at `/image` and write below `/out`; `image` and `out` are
    /// their paths outside. `work` is an empty directory for the mount point and the program's
    /// output. Returns the first lines of the output for which `worth` is true.
    pub fn run(
        &self,
        words: &[&str],
        image: &Path,
        out: &Path,
        work: &Path,
        worth: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let image = image.canonicalize().doing("finding", image)?;
        let (new, log) = (work.join("place"), work.join("said"));
        fs::create_dir_all(&new).doing("creating", &new)?;
        let said = File::create(&log).doing("creating", &log)?;
        let both = said.try_clone().doing("opening", &log)?;
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--mount",
            "--net",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
        ]);
        command
            .args(["--", "sh", "-c", ENTER, "confined"])
            .arg(&self.root)
            .arg(&new)
            .arg(&image)
            .arg(out)
            .args(words);
        command.env_clear().env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin").env("LC_ALL", "C").current_dir("/");
        command.stdin(Stdio::null()).stdout(said).stderr(both);
        let what = format!("reading {} with {}", image.display(), words[0]);
        let room = space::half(out)?;
        let status = wait(command, &what, DEADLINE, &mut || measure(out, &what, room))?;
        if status.success() {
            return lines(&log, worth);
        }
        Err(explain(&format!("{what} ({status})"), &tail(&log)?))
    }
}

/// Runs a command in its own process group until it ends or the deadline passes; `watch` may also
/// end it.
pub fn wait(
    mut command: Command,
    what: &str,
    deadline: Duration,
    watch: &mut dyn FnMut() -> Result<()>,
) -> Result<ExitStatus> {
    let mut child = command
        .process_group(0)
        .spawn()
        .map_err(|error| Error::new(format!("{what}: starting it")).source(error))?;
    let _killed = interrupt::kills(&child);
    let ended = until_end(&mut child, what, deadline, watch);
    if ended.is_err() {
        if let Ok(group) = i32::try_from(child.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = child.wait();
    }
    ended
}

fn until_end(
    child: &mut Child,
    what: &str,
    deadline: Duration,
    watch: &mut dyn FnMut() -> Result<()>,
) -> Result<ExitStatus> {
    let (start, mut measured) = (Instant::now(), Instant::now());
    loop {
        let status =
            child.try_wait().map_err(|error| Error::new(format!("{what}: waiting for it")).source(error))?;
        if let Some(status) = status {
            watch()?;
            return Ok(status);
        }
        if start.elapsed() >= deadline {
            return Err(Error::new(format!("{what}: not done within {} s", deadline.as_secs()))
                .hint("unpack it yourself, and pass the directory"));
        }
        if measured.elapsed() >= MEASURE {
            watch()?;
            measured = Instant::now();
        }
        sleep(POLL);
    }
}

/// Returns an error if an image unpacks to too much. `room`: bytes that may be used there.
fn measure(out: &Path, what: &str, room: u64) -> Result<()> {
    let (mut bytes, mut files) = (0_u64, 0_u64);
    for entry in walkdir::WalkDir::new(out).into_iter().flatten() {
        files += 1;
        bytes += entry.metadata().map_or(0, |metadata| metadata.blocks() * 512);
        if bytes > room {
            return Err(space::short(&format!("{what}: unpacks to more"), out, room));
        }
        if bytes > MAX_BYTES || files > MAX_FILES {
            return Err(Error::new(format!("{what}: more than {MAX_BYTES} bytes or {MAX_FILES} files"))
                .hint(
                    "unpack it yourself, and pass the directory; the sandbox treats this size as an attack",
                ));
        }
    }
    Ok(())
}

/// The first lines of a file for which `worth` is true.
fn lines(path: &Path, worth: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
    let file = File::open(path).doing("opening", path)?;
    let lines = BufReader::new(file.take(MAX_SAID)).split(b'\n').map_while(std::result::Result::ok);
    let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    Ok(lines.filter(|line| worth(line)).take(MAX_LINES).collect())
}

/// The end of a file.
pub fn tail(path: &Path) -> Result<String> {
    let mut file = File::open(path).doing("opening", path)?;
    let size = file.metadata().doing("reading", path)?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL))).doing("reading", path)?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).doing("reading", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> (Result<Vec<String>>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (image, out, work) = (dir.path().join("image"), dir.path().join("out"), dir.path().join("work"));
        fs::write(&image, "content").unwrap();
        fs::create_dir(&out).unwrap();
        fs::create_dir(&work).unwrap();
        let said = Tools::machine().run(words, &image, &out, &work, &|_| true);
        (said, dir)
    }

    /// What a program could still do after a hostile image has taken it over.
    #[test]
    fn confined_program_can_only_write_its_output() {
        let (said, dir) = run(&["sh", "-c", "cat /image > copy; cat copy; echo; id -u"]);
        assert_eq!(said.unwrap(), ["content", "65534"]);
        assert_eq!(fs::read(dir.path().join("out/copy")).unwrap(), b"content");
        for attempt in [
            "echo x > /image",
            "echo x > /usr/x",
            "echo x > /x",
            "mount -o remount,rw /usr",
            "mount -t tmpfs none /out",
            "chroot / true",
            "ls /proc/1",
            "ls /home",
        ] {
            let (said, _dir) = run(&["sh", "-c", attempt]);
            assert!(said.is_err(), "{attempt}: {said:?}");
        }
    }

    #[test]
    fn output_is_limited_to_half_of_the_free_space() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("large"), vec![1; 100_000]).unwrap();
        measure(dir.path(), "reading x", 200_000).unwrap();
        let error = measure(dir.path(), "reading x", 50_000).unwrap_err();
        assert!(error.to_string().contains("half of the space in") && error.remedy().is_some(), "{error}");
    }

    #[test]
    fn program_is_killed_at_the_deadline() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]);
        let start = Instant::now();
        let error = wait(command, "sleeping", Duration::from_millis(50), &mut || Ok(())).unwrap_err();
        assert!(error.to_string().contains("not done within") && start.elapsed() < Duration::from_mins(1));
    }
}
