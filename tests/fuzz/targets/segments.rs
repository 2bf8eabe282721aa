//! Whole images: segments of any compression, found with and without being unpacked, read in order
//! and at once.
#![no_main]

use host_builder::initramfs::{Archive, Want};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Kilobytes of bzip2 are seconds of work.
    if data.len() > 1024 && data.windows(3).any(|window| window == b"BZh") {
        return;
    }
    let archive = Archive::of_bytes("fuzz", data.to_vec());
    let examined = archive.segments();
    let Ok(contents) = archive.read(&Want { digests: true, keep: &|entry| entry.size < 100 }) else { return };
    let mut end = 0;
    for segment in &contents.segments {
        assert!(segment.offset >= end && segment.size > 0);
        end = segment.offset + segment.size;
    }
    assert!(end <= data.len() as u64);
    let examined = examined.expect("what can be read can be examined");
    assert_eq!(examined, contents.segments);
    let mut entries = contents.items.iter();
    let walked = archive.walk(|place, entry, _| {
        let item = entries.next().expect("both ways see the same entries");
        assert!(item.place == place && item.entry == *entry);
        Ok(())
    });
    assert_eq!(walked.expect("what can be read can be walked through"), contents.segments);
    assert!(contents.tree().paths.len() <= contents.items.len());
});
