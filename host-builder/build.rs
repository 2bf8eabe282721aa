//! Builds guest-init as a static musl binary and leaves it in `OUT_DIR`, so that host-builder carries it inside.
//!
//! The same sources give the same bytes wherever the tree lies: paths are remapped, flags are fixed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-musl";
/// The variable that says where guest-init is built, if not here.
const SHARED: &str = "GPU_INITRD_GUEST_INIT_TARGET_DIR";

fn main() {
    let variable =
        |name: &str| PathBuf::from(env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}")));
    let workspace =
        variable("CARGO_MANIFEST_DIR").join("..").canonicalize().expect("the workspace is the parent");
    let out = variable("OUT_DIR");
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "guest-init/Cargo.toml",
        "guest-init/build.rs",
        "guest-init/no-unwind.ld",
        "guest-init/src",
        "image/Cargo.toml",
        "image/src",
    ] {
        // Relative to this package: a checkout that shares its build directory with another one asks for its own files.
        println!("cargo:rerun-if-changed=../{path}");
    }
    ensure_target(&workspace);
    // Beside the profiles' own directories, so that every profile, and every checkout that shares them, builds it once:
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE-HASH/out. A build elsewhere can share it, too.
    println!("cargo:rerun-if-env-changed={SHARED}");
    let beside = || out.ancestors().nth(4).unwrap_or(&out).join("guest-init");
    let target_dir = env::var_os(SHARED).map_or_else(beside, PathBuf::from);
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&workspace).args([
        "build",
        "--locked",
        "--package",
        "guest-init",
        "--bin",
        "guest-init",
    ]);
    command.args(["--profile", "init", "--target", TARGET]).arg("--target-dir").arg(&target_dir);
    // What the outer build was given must not change these bytes.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_") && !["CARGO_HOME", "CARGO_NET_OFFLINE"].contains(&&*text)
            || text.contains("RUSTFLAGS")
        {
            command.env_remove(&name);
        }
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags().join("\x1f"));
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "building guest-init for {TARGET} failed; the compiler's messages are above");
    let built = target_dir.join(TARGET).join("init/guest-init");
    std::fs::copy(&built, out.join("guest-init"))
        .unwrap_or_else(|error| panic!("copying {}: {error}", built.display()));
}

/// The same flags in every checkout: cargo names the workspace's own files relative to it, and those of its registry
/// by where that happens to be.
fn flags() -> Vec<String> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
    flags
}

/// rustup may be set not to install what rust-toolchain.toml lists.
fn ensure_target(workspace: &Path) {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .expect("rustc runs");
    if Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir() {
        return;
    }
    let status = Command::new("rustup").current_dir(workspace).args(["target", "add", TARGET]).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "the Rust target {TARGET} is missing and could not be added; run: rustup target add {TARGET}"
    );
}
