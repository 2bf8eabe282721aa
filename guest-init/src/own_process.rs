//! Runs tests that change the state of a whole process, such as mounts or umask. Each runs in a separate process, so that other tests
//! do not see the change, and as root of a user namespace, so that an unprivileged user can run it.

use std::process::Command;

/// Set in the separate process, to the name of the test.
const INSIDE: &str = "GPU_INITRD_TEST_INSIDE";

/// Runs `body` as root of a user and a mount namespace, in a process that runs nothing but this test. `module` is its `module_path!()`.
pub fn as_root_of_a_namespace(module: &str, name: &str, body: impl FnOnce()) {
    let test = format!("{}::{name}", module.split_once("::").map_or("", |(_, path)| path));
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == *test) {
        return body();
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", &test, "--nocapture"]).env(INSIDE, &test);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{test} in a namespace: {text}");
}
