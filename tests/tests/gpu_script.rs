//! The script for machines with a GPU: without one it says so and changes nothing; with one it
//! passes.

use std::{path::Path, process::Command};

#[test]
fn gpu_script_runs_with_a_gpu_and_explains_its_absence() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/run");
    let output = Command::new(script).output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if Path::new("/proc/driver/nvidia/version").exists() && Path::new("/dev/nvidiactl").exists() {
        assert_eq!(output.status.code(), Some(0), "{out}{error}");
        assert!(out.contains("all as expected"), "{out}");
    } else {
        assert_eq!(output.status.code(), Some(2), "{out}{error}");
        assert!(error.contains("cannot run here: ") && error.contains("what to do: "), "{error}");
        assert_eq!(out, "");
    }
}
