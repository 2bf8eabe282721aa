//! Estimates the minimum memory of a guest from the content of its initrd.

use image::manifest::{Kind, Manifest};
use image::requirement::branch;

/// Kernel image, its data, page tables, PID 1 and a small container, measured with the default
/// profile's kernel.
const GUEST: u64 = 76 << 20;
/// Memory that the driver uses until the adapter's firmware runs: modules, the loaded firmware, and its copies for the GPU. Measured with
/// H100, whose firmware has 36 MiB in branch 550 and 72 MiB in branch 580.
const DRIVER: u64 = 104 << 20;
const DRIVER_SINCE_570: u64 = 264 << 20;
const PAGE: u64 = 4096;

/// Minimum memory in bytes of a guest that boots this image and starts its GPU.
pub fn minimum(manifest: &Manifest, initrd: u64) -> u64 {
    let driver = manifest.driver.as_ref().map_or(0, |driver| of_driver(&driver.version));
    needed(manifest, initrd, driver)
}

fn of_driver(version: &str) -> u64 {
    if branch(version).is_some_and(|branch| branch < 570) { DRIVER } else { DRIVER_SINCE_570 }
}

/// Minimum memory in bytes of a guest without a GPU that boots this image.
pub fn minimum_without_gpu(manifest: &Manifest, initrd: u64) -> u64 {
    needed(manifest, initrd, 0)
}

fn needed(manifest: &Manifest, initrd: u64, driver: u64) -> u64 {
    let pages = |file: &image::manifest::File| match file.kind {
        Kind::File { size, .. } => size.div_ceil(PAGE) * PAGE,
        _ => 0,
    };
    let unpacked: u64 = manifest.archived().map(pages).sum();
    // During unpacking, archive and unpacked files are both in memory. Afterwards the archive is
    // freed, and the driver is loaded.
    GUEST + unpacked + initrd.max(driver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::manifest::{File, Payload};

    #[test]
    fn newer_drivers_need_more() {
        assert_eq!((of_driver("550.163.01"), of_driver("580.178.04")), (DRIVER, DRIVER_SINCE_570));
    }

    #[test]
    fn minimum_counts_pages_of_archived_files() {
        let file = |path: &str, size, payload| File {
            path: path.into(),
            kind: Kind::File { size, sha256: String::new() },
            mode: 0o644,
            origin: String::new(),
            reason: String::new(),
            capabilities: vec![],
            soname: None,
            glibc: None,
            payload,
        };
        let mut manifest = Manifest {
            format: image::manifest::FORMAT,
            builder: String::new(),
            profile: String::new(),
            arch: String::new(),
            kernel_release: String::new(),
            driver: None,
            capabilities: vec![],
            control: None,
            payload: Payload::Files,
            modules: vec![],
            files: vec![file("/a", 1, true), file("/b", 4097, false)],
        };
        assert_eq!(minimum(&manifest, 100), GUEST + 3 * PAGE + 100);
        let erofs = image::manifest::Erofs { uuid: String::new(), size: 1, sha256: String::new() };
        manifest.payload = Payload::Image { path: "/c".into(), erofs };
        assert_eq!(minimum(&manifest, 100), GUEST + 2 * PAGE + 100);
    }
}
