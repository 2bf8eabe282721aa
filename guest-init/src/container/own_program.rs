//! Executes this program again, with descriptors that only the new process inherits.

use crate::locks::Lock;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Held while descriptors can be inherited, so that a process which another thread starts does not inherit them.
static STARTING: Lock<()> = Lock::new(());

/// Starts this program under a name in `ps`. It inherits these descriptors, whose numbers are among the arguments that `more` adds
/// (see [`numbers`], [`inherited`]).
///
/// # Errors
/// If it cannot be started.
pub fn start(
    name: &str,
    argument: &str,
    given: &[BorrowedFd],
    more: impl FnOnce(&mut Command),
) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).arg(argument).env_clear();
    more(&mut command);
    let _alone = STARTING.lock();
    let flag = |flag| given.iter().try_for_each(|fd| fcntl(fd, FcntlArg::F_SETFD(flag)).map(drop));
    let child = flag(FdFlag::empty()).map_err(io::Error::from).and_then(|()| command.spawn());
    flag(FdFlag::FD_CLOEXEC)?;
    child
}

/// Returns the numbers of descriptors, as arguments.
pub fn numbers<'a>(given: &'a [BorrowedFd]) -> impl Iterator<Item = String> + 'a {
    given.iter().map(|fd| fd.as_raw_fd().to_string())
}

/// Returns the inherited descriptor whose number is argument `at`. It is not inherited further.
pub fn inherited(args: &[OsString], at: usize) -> Option<OwnedFd> {
    let number = args.get(at)?.to_str()?.parse().ok().filter(|number| *number > 2)?;
    // SAFETY: PID 1 opened this descriptor for us, passed its number, and each number is taken once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(fd)
}
