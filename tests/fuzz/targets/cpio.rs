//! Archives: what is read and written again reads as the same.
#![no_main]

use host_builder::initramfs::cpio::{Entry, Reader, Writer};
use libfuzzer_sys::fuzz_target;
use std::io::Read;

/// All entries with their contents; none if the input is not an archive.
fn read(data: &[u8]) -> Option<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(data);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().ok()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).ok()?;
        assert_eq!(content.len(), entry.size as usize);
        assert!(entry.name.len() < 4096 && !entry.name.contains(&0));
        entries.push((entry, content));
    }
    assert!(reader.position() <= data.len() as u64);
    Some(entries)
}

fuzz_target!(|data: &[u8]| {
    let Some(entries) = read(data) else { return };
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in &entries {
        writer.entry(entry, &mut &content[..]).expect("memory takes everything");
    }
    let written = writer.finish().expect("memory takes everything");
    assert_eq!(read(&written).as_ref(), Some(&entries));
});
