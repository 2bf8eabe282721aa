//! The loader cache of an image: what is read and written again reads as the same.
#![no_main]

use image::ldcache::{Entry, Extensions, Layout, Library, encode, read};
use libfuzzer_sys::fuzz_target;

fn library(entry: &Entry) -> Library {
    let level = entry.hwcaps.map_or(0, |_| u32::try_from(entry.hwcap >> 32 & 0x3ff).unwrap_or_default());
    Library {
        key: entry.key.to_vec(),
        value: entry.value.to_vec(),
        flags: entry.flags,
        isa_level: level,
        hwcaps: entry.hwcaps.map(<[u8]>::to_vec),
        hwcap: entry.hwcap,
        osversion: entry.osversion,
    }
}

/// What does not depend on the layout, in an order of its own.
fn content<'a>(entries: &[Entry<'a>]) -> Vec<(&'a [u8], &'a [u8], i32, u32)> {
    let mut all: Vec<_> = entries.iter().map(|e| (e.key, e.value, e.flags, e.osversion)).collect();
    all.sort_unstable();
    all
}

fuzz_target!(|data: &[u8]| {
    let Ok(cache) = read(data) else { return };
    let names: Vec<&[u8]> = cache.entries.iter().filter_map(|entry| entry.hwcaps).collect();
    let extensions = Some(Extensions { generator: "fuzz", names: &names });
    for layout in [
        Layout { byte_order: true, extensions, ..Layout::default() },
        Layout { old_table: true, ..Layout::default() },
    ] {
        let written =
            encode(cache.entries.iter().map(library).collect(), &layout).expect("it was small enough");
        let again = read(&written).expect("what is written can be read");
        assert_eq!(content(&again.entries), content(&cache.entries));
    }
});
