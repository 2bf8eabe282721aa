//! Names the failed step in errors of system calls.

/// Converts the result of a system call; the error begins with `what`.
pub(super) fn step<T>(what: &str, result: nix::Result<T>) -> Result<T, String> {
    result.map_err(|errno| format!("{what}: {errno}"))
}
