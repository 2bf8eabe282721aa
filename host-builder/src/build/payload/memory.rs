//! How much memory a guest needs at least, predicted from what is in its initrd.

use image::manifest::{Kind, Manifest};

/// Kernel image, its data, page tables, PID 1 and a small container: measured with the default profile's kernel.
const GUEST: u64 = 76 << 20;
/// What the driver takes until the adapter's firmware runs: modules, the firmware that was read and its copy for the GPU.
const DRIVER: u64 = 104 << 20;
const PAGE: u64 = 4096;

/// Bytes of memory that a guest needs to boot this image and to start its GPU.
pub fn minimum(manifest: &Manifest, initrd: u64) -> u64 {
    let driver = if manifest.driver.is_some() { DRIVER } else { 0 };
    needed(manifest, initrd, driver)
}

/// Bytes of memory that a guest without a GPU needs to boot this image.
pub fn minimum_without_gpu(manifest: &Manifest, initrd: u64) -> u64 {
    needed(manifest, initrd, 0)
}

fn needed(manifest: &Manifest, initrd: u64, driver: u64) -> u64 {
    let pages = |file: &image::manifest::File| match file.kind {
        Kind::File { size, .. } => size.div_ceil(PAGE) * PAGE,
        _ => 0,
    };
    let unpacked: u64 = manifest.archived().map(pages).sum();
    // The archive is in memory beside what it unpacks to; once that is done it is given back, and then the driver comes.
    GUEST + unpacked + initrd.max(driver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::manifest::{File, Payload};

    #[test]
    fn memory_counts_pages_of_what_is_in_the_archive() {
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
