//! Steps of preparing the container's namespaces, whose errors name them.

/// The result of a system call; its error says what it was for.
pub(super) fn step<T>(what: &str, result: nix::Result<T>) -> Result<T, String> {
    result.map_err(|errno| format!("{what}: {errno}"))
}
