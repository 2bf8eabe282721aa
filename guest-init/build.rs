//! Makes PID 1 smaller at the linker. In the profile `init`, whose panics abort, nothing unwinds, so the tables for it, an eighth of the program and
//! nearly all from the compiled standard library, are left out, and relocations are packed (DT_RELR, which musl 1.2.4 and
//! binutils 2.38 know).

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=no-unwind.ld");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    // A build script is not told of the profile's `panic`; `init` is the one that optimises for size.
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("OPT_LEVEL", "z") {
        let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        for argument in ["-z,pack-relative-relocs", "--no-eh-frame-hdr", &format!("-T,{here}/no-unwind.ld")] {
            println!("cargo:rustc-link-arg-bins=-Wl,{argument}");
        }
    }
}
