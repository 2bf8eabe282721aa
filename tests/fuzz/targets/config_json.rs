//! config.json, and the driver files that a container's environment requests.
#![no_main]

use guest_init::driver_files::ContainerRequest;
use image::config::{Config, Source};
use image::requirement::{Facts, evaluate, requirements};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut config = Config::default();
    if config.apply_json(data).is_err() {
        return;
    }
    assert!(config.workdir.starts_with('/'));
    for (name, value) in &config.env {
        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
    }
    let is_disk = |source: &Source| match source {
        Source::Device(path) => path.starts_with("/dev/"),
        Source::Serial(serial) => !serial.is_empty(),
        _ => false,
    };
    assert!(config.volumes.iter().all(|v| v.path.starts_with('/') && is_disk(&v.device)));
    let _ = ContainerRequest::of_config(&config);
    for (_, value) in requirements(&config.env) {
        let _ = evaluate(&value, &Facts::of_driver("550.163.01", None));
    }
});
