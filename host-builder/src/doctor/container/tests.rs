//! What guest-init answers, and a configuration, turned into checks. The answers are written by
//! hand; real ones are in the end-to-end tests.

use super::*;
use serde_json::json;

fn answer(more: &serde_json::Value) -> Answer {
    let mut all = json!({
        "libc": "glibc 2.36", "lib_dir": "/usr/lib/x86_64-linux-gnu", "store": false, "masked": [],
        "compat_dir": null, "findings": [], "warnings": [],
        "items": [
            {"path": "/usr/lib/x86_64-linux-gnu/libcuda.so.550.1", "kind": "file", "target": "/x", "soname": null},
            {"path": "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "kind": "link", "target": "libcuda.so.550.1", "soname": null},
        ],
    });
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn driver(version: &str) -> Facts {
    Facts::of_driver(version, None)
}

fn found(code: &str, severity: &str) -> serde_json::Value {
    json!({"findings": [{
        "code": code, "severity": severity, "at_ms": 0, "message": "what", "evidence": ["proof"], "hint": "do", "link": "",
    }]})
}

#[test]
fn an_ordinary_image_is_good() {
    let answer = answer(&json!({}));
    assert_eq!(libc(&answer), Check::pass("container-libc", "glibc 2.36"));
    let files = files(&answer);
    assert_eq!(files.verdict, Outcome::Pass);
    assert!(files.found.starts_with("1 files and 1 links, in /usr/lib/x86_64-linux-gnu;"), "{files:?}");
    assert_eq!(files.evidence[1], "/usr/lib/x86_64-linux-gnu/libcuda.so.1 -> libcuda.so.550.1");
    assert_eq!(driver_files(&answer).verdict, Outcome::Pass);
    assert_eq!(read(None, &answer).verdict, Outcome::Pass);
    assert_eq!(read(Some(Vec::new()), &answer).verdict, Outcome::Pass);
}

#[test]
fn an_image_without_glibc_gets_nodes_only() {
    let mut more = found("image-has-no-glibc", "warning");
    more["libc"] = json!("musl");
    more["items"] = json!([]);
    let answer = answer(&more);
    let check = libc(&answer);
    assert!(check.verdict == Outcome::Warn && check.found.starts_with("musl, without glibc"), "{check:?}");
    assert_eq!(files(&answer).found, "no driver files are injected");
}

#[test]
fn a_store_is_doubtful() {
    let check = libc(&answer(&json!({"store": true})));
    assert!(check.verdict == Outcome::Warn && check.remedy.contains("/run/opengl-driver/lib"), "{check:?}");
}

#[test]
fn driver_files_of_the_image_are_hidden_left_or_refused() {
    for (severity, verdict) in [("info", Outcome::Pass), ("warning", Outcome::Warn), ("error", Outcome::Fail)]
    {
        let mut more = found("image-bundles-driver", severity);
        more["masked"] = json!(["/usr/lib/libcuda.so.1"]);
        let check = driver_files(&answer(&more));
        assert_eq!(
            (check.verdict, &check.evidence[..]),
            (verdict, &["/usr/lib/libcuda.so.1".to_owned()][..])
        );
        assert_eq!(check.remedy, "do");
        assert_eq!(files(&answer(&more)).verdict, Outcome::Pass, "it is reported once");
    }
}

#[test]
fn what_cannot_be_injected_or_is_not_carried_is_told() {
    let check = files(&answer(&found("inject-failed", "error")));
    assert_eq!((check.verdict, check.found.as_str(), check.remedy.as_str()), (Outcome::Fail, "what", "do"));
    let check = files(&answer(&found("capability-missing", "warning")));
    assert!(check.verdict == Outcome::Warn && check.found.ends_with("; what"), "{check:?}");
}

#[test]
fn what_could_not_be_read_is_told() {
    let check = read(Some(vec!["inode 7: bad".into()]), &answer(&json!({"warnings": ["x: not hidden"]})));
    assert_eq!(check.verdict, Outcome::Warn);
    assert_eq!(check.evidence, ["inode 7: bad", "x: not hidden"]);
}

#[test]
fn compatibility_libraries_that_are_used_are_known() {
    let mut more = found("cuda-compat", "info");
    assert_eq!(compat(&answer(&more)), (vec!["what".to_owned()], false));
    more["compat_dir"] = json!("/usr/local/cuda-12.8/compat");
    assert!(compat(&answer(&more)).1);
}

#[test]
fn a_requirement_is_met_unmet_or_unknown() {
    let check = |value: &str| {
        let mut config = Config::default();
        config.env.insert("NVIDIA_REQUIRE_CUDA".into(), value.into());
        requires(Some(&config), &driver("550.163.01"))
    };
    assert_eq!(check("cuda>=12.4").verdict, Outcome::Pass);
    assert!(check("brand=tesla,driver>=535").found.contains("assumed to be met"));
    let unmet = check("cuda>=13.0");
    assert!(
        unmet.verdict == Outcome::Fail && unmet.found.contains("CUDA 12.4 does not meet NVIDIA_REQUIRE_CUDA"),
        "{unmet:?}"
    );
    assert_eq!(check("speed>=3").verdict, Outcome::Fail);
    assert!(requires(Some(&Config::default()), &driver("550.1")).found.contains("no requirements"));
    assert!(requires(None, &driver("550.1")).verdict == Outcome::Warn);
}

#[test]
fn a_bad_configuration_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, "{\"cmd\": 7}").unwrap();
    assert!(read_config(&path).unwrap_err().remedy().unwrap().contains("Config disk"));
}

#[test]
fn gpus_that_no_guest_has_are_refused_in_the_guests_own_words() {
    let mut config = Config::default();
    config.env.insert("NVIDIA_VISIBLE_DEVICES".into(), "0".into());
    assert_eq!(devices(None, &answer(&json!({}))), Check::pass("container-gpus", "all"));
    assert_eq!(devices(Some(&config), &answer(&json!({}))).found, "NVIDIA_VISIBLE_DEVICES=0");
    let refused = answer(&found("config-invalid", "error"));
    let check = devices(Some(&config), &refused);
    assert_eq!((check.verdict, check.found.as_str(), check.remedy.as_str()), (Outcome::Fail, "what", "do"));
    assert_eq!(files(&refused).verdict, Outcome::Pass, "it is reported once");
}

/// A finding of which nobody here knows anything is not swallowed.
#[test]
fn what_guest_init_warns_of_is_told_whatever_it_is() {
    for code in ["inject-failed", "library-shadowed", "low-memory"] {
        let check = files(&answer(&found(code, "warning")));
        assert_eq!(check.verdict, Outcome::Warn, "{check:?}");
        assert!(
            check.found.ends_with("; what") && check.remedy == "do" && check.evidence[0] == "proof",
            "{check:?}"
        );
    }
    for code in ["image-has-no-glibc", "image-bundles-driver"] {
        assert_eq!(files(&answer(&found(code, "warning"))).verdict, Outcome::Pass, "{code}");
    }
    assert_eq!(files(&answer(&found("cuda-compat", "info"))).verdict, Outcome::Pass);
}

#[test]
fn what_is_not_known_of_a_requirement_or_of_a_key_is_no_pass() {
    let config = |text: &str| {
        let mut config = Config::default();
        config.apply_json(text.as_bytes()).unwrap();
        config
    };
    let asks = config(r#"{"env": {"NVIDIA_REQUIRE_CUDA": "cuda>=12.0"}}"#);
    assert_eq!(requires(Some(&asks), &driver("550.163.01")).verdict, Outcome::Pass);
    let check = requires(Some(&asks), &driver("304.1"));
    assert!(
        check.verdict == Outcome::Warn && check.found.contains("the CUDA version of driver"),
        "{check:?}"
    );
    let check = requires(Some(&config(r#"{"entrypiont": ["x"]}"#)), &driver("550.163.01"));
    assert!(check.verdict == Outcome::Warn && check.found.contains("entrypiont"), "{check:?}");
}
