//! Makes PID 1 smaller at the linker. In the profile `init`, whose panics abort, nothing unwinds, so the tables for it, an eighth of the program and
//! nearly all from the compiled standard library, are left out, and relocations are packed (DT_RELR, which musl 1.2.4 and
//! binutils 2.38 know).

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=no-unwind.ld");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    // A build script is not told of the profile's `panic`; `init` is the one that optimises for size.
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("OPT_LEVEL", "z") {
        // In the build's own directory: checkouts that share one must not name each other's files.
        let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
        std::fs::write(format!("{out}/no-unwind.ld"), include_str!("no-unwind.ld")).expect("OUT_DIR is ours");
        for argument in ["-z,pack-relative-relocs", "--no-eh-frame-hdr", &format!("-T,{out}/no-unwind.ld")] {
            println!("cargo:rustc-link-arg-bins=-Wl,{argument}");
        }
    }
}
