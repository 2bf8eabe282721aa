//! The kernel command line, and the words of NVIDIA's environment variables.
#![no_main]

use image::capability;
use image::config::{Config, words};
use image::requirement::{Facts, evaluate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Ok(config) = Config::from_cmdline(&text) {
        assert!(config.workdir.starts_with('/'));
        assert!(config.unknown.len() + config.command().len() <= words(&text).len());
    }
    let _ = capability::requested(Some(&text));
    let _ = evaluate(&text, &Facts::of_driver("550.163.01", Some(&text)));
    let _ = evaluate("cuda>=12.4,driver<551", &Facts::of_driver(&text, None));
});
