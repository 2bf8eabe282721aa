//! The commands that inspect images: images of distributions (`distributions`), images of this
//! project (`ours`), and images that attack the commands (`bounds`).

mod bounds;
mod distributions;
mod ours;

use std::{
    path::Path,
    process::{Command, Output},
};

use rig::{build::program, process::run};
use serde_json::Value;

fn host_builder(args: &[&str], image: &Path) -> Output {
    Command::new(program()).args(args).arg(image).output().unwrap()
}

fn json(args: &[&str], image: &Path) -> Value {
    let output = host_builder(args, image);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the real programs find: each segment that `examine` shows, unpacked by its program, listed
/// by cpio.
fn listed_by_cpio(image: &Path) -> String {
    let mut list = String::new();
    for segment in json(&["examine", "--json"], image)["segments"].as_array().unwrap() {
        let number = |key: &str| segment[key].as_u64().unwrap();
        let unpack = match segment["compression"].as_str().unwrap() {
            "none" => "cat",
            "gzip" => "gzip -dc",
            "xz" => "xz -dc",
            "zstd" => "zstd -dc",
            "lz4" => "lz4 -dc",
            "bzip2" => "bzip2 -dc",
            other => panic!("{other}"),
        };
        let script = format!(
            "set -o pipefail; dd if=\"$1\" iflag=skip_bytes,count_bytes,fullblock bs=1M status=none skip={} count={} | {unpack} > \"$2\"
             test \"$(stat -c %s \"$2\")\" = {}; cpio --list --quiet < \"$2\"",
            number("offset"), number("size"), number("unpacked"),
        );
        let unpacked = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("bash");
        command.args(["-euc", &script, "list"]).arg(image).arg(unpacked.path()).env("LC_ALL", "C");
        list.push_str(&String::from_utf8(run(&mut command).unwrap().stdout).unwrap());
    }
    list
}

/// Compares `list` and `inspect` with cpio. Returns the number of entries.
fn compare(image: &Path) -> usize {
    let theirs = listed_by_cpio(image);
    let ours = host_builder(&["list"], image);
    assert!(ours.status.success() && ours.stderr.is_empty(), "{ours:?}");
    assert!(String::from_utf8(ours.stdout).unwrap() == theirs, "list differs for {}", image.display());
    let report = json(&["inspect", "--json"], image);
    let names: Vec<_> =
        report["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert!(names == theirs.lines().collect::<Vec<_>>(), "inspect differs for {}", image.display());
    let text = host_builder(&["inspect", "--files"], image);
    assert!(String::from_utf8(text.stdout).unwrap().ends_with(&theirs));
    names.len()
}
