use proptest::prelude::*;

use super::*;

fn library(key: &str, value: &str, hwcaps: Option<&str>) -> Library {
    Library {
        key: key.into(),
        value: value.into(),
        flags: 0x303,
        isa_level: if hwcaps.is_some() { 2 } else { 0 },
        hwcaps: hwcaps.map(Into::into),
        ..Library::default()
    }
}

/// As since glibc 2.33.
const NEW: Layout = Layout {
    old_table: false,
    byte_order: true,
    extensions: Some(Extensions { generator: "me", names: &[] }),
};
/// As until glibc 2.31.
const COMPAT: Layout = Layout { old_table: true, byte_order: false, extensions: None };

#[test]
fn what_is_written_is_read() {
    let libs = vec![
        library("libx.so.9", "/lib/libx.so.9", None),
        library("libx.so.10", "/lib/libx.so.10", None),
        library("libx.so.10", "/lib/glibc-hwcaps/x86-64-v3/libx.so.10", Some("x86-64-v3")),
    ];
    let extensions = Some(Extensions { generator: "me", names: &[b"unused"] });
    let bytes = encode(libs, &Layout { extensions, ..NEW }).unwrap();
    let cache = read(&bytes).unwrap();
    assert_eq!((cache.generator, cache.old_entries), (Some(&b"me"[..]), None));
    let keys: Vec<_> = cache.entries.iter().map(|e| (e.key, e.hwcaps)).collect();
    let expected: [(&[u8], Option<&[u8]>); 3] =
        [(b"libx.so.10", Some(b"x86-64-v3")), (b"libx.so.10", None), (b"libx.so.9", None)];
    assert_eq!(keys, expected);
    assert_eq!(cache.entries[0].hwcap, 1 << 62 | 2 << 32);
    assert_eq!(cache.entries[1].value, b"/lib/libx.so.10");
}

/// From glibc 2.31's `elf/cache.c`, field by field: its default format, `compat`. Debian's 2.31 has another
/// default, so there is no `ldconfig` at hand to ask.
#[test]
fn the_compat_format_of_glibc_2_31_by_its_source() {
    let mut first = library("libb.so", "/lib/libb.so", None);
    first.osversion = 0x0003_0200;
    let mut special = library("liba.so", "/lib/tls/liba.so", None);
    special.hwcap = 1 << 63;
    let bytes = encode(vec![special, library("liba.so", "/lib/liba.so", None), first], &COMPAT).unwrap();

    let mut expected = b"ld.so-1.7.0\0".to_vec();
    let words = |out: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|w| out.extend(w.to_ne_bytes()));
    let strings = b"libb.so\0/lib/libb.so\0liba.so\0/lib/tls/liba.so\0liba.so\0/lib/liba.so\0";
    let at = 48 + 3 * 24;
    words(&mut expected, &[2, 0x303, at, at + 8, 0x303, at + 46, at + 54]);
    expected.extend(b"glibc-ld.so.cache1.1");
    words(&mut expected, &[3, u32::try_from(strings.len()).unwrap(), 0, 0, 0, 0, 0]);
    words(&mut expected, &[0x303, at, at + 8, 0x0003_0200, 0, 0]);
    words(&mut expected, &[0x303, at + 21, at + 29, 0, 0, 1 << 31]);
    words(&mut expected, &[0x303, at + 46, at + 54, 0, 0, 0]);
    expected.extend(strings);
    assert_eq!(bytes, expected);

    let cache = read(&bytes).unwrap();
    assert_eq!((cache.entries.len(), cache.old_entries, cache.generator), (3, Some(2), None));
    assert_eq!(cache.entries[1].value, b"/lib/tls/liba.so");
}

#[test]
fn the_old_table_alone_is_read_and_kept_even() {
    let bytes = encode(vec![library("liba.so", "/lib/liba.so", None)], &COMPAT).unwrap();
    assert_eq!(read(&bytes).unwrap().old_entries, Some(2), "the last entry is there twice");
    let alone = [&bytes[..40], b"liba.so\0/lib/liba.so\0".as_slice()].concat();
    let mut alone = alone;
    for entry in [16, 28] {
        alone[entry + 4..entry + 8].copy_from_slice(&0_u32.to_ne_bytes());
        alone[entry + 8..entry + 12].copy_from_slice(&8_u32.to_ne_bytes());
    }
    let cache = read(&alone).unwrap();
    assert_eq!(cache.entries[1].value, b"/lib/liba.so");
    assert_eq!(read(&encode(Vec::new(), &COMPAT).unwrap()).unwrap().old_entries, Some(0));
}

proptest! {
    #[test]
    fn any_libraries_survive_the_round_trip(
        libs in proptest::collection::vec(("[a-z.0-9]{1,12}", "/[a-z/.0-9]{0,20}", proptest::option::of("[a-z]{1,3}")), 0..40)
    ) {
        let libs: Vec<_> = libs.iter().map(|(k, v, h)| library(k, v, h.as_deref())).collect();
        let mut expected: Vec<_> =
            libs.iter().map(|l| (l.key.as_slice(), l.value.as_slice(), l.hwcaps.as_deref())).collect();
        expected.sort();
        let bytes = encode(libs.clone(), &NEW).unwrap();
        let mut found: Vec<_> =
            read(&bytes).unwrap().entries.into_iter().map(|e| (e.key, e.value, e.hwcaps)).collect();
        found.sort();
        prop_assert_eq!(&found, &expected);
        let plain: Vec<_> = libs.iter().map(|l| Library { hwcaps: None, ..l.clone() }).collect();
        let bytes = encode(plain, &COMPAT).unwrap();
        let mut found: Vec<_> = read(&bytes).unwrap().entries.into_iter().map(|e| (e.key, e.value)).collect();
        found.sort_unstable();
        prop_assert_eq!(found, expected.iter().map(|(k, v, _)| (*k, *v)).collect::<Vec<_>>());
    }

    #[test]
    fn damaged_caches_are_errors(at in 0_usize..400, byte: u8, cut in 20_usize..400, old: bool) {
        let libs = vec![
            library("libx.so.1", "/lib/libx.so.1", None),
            library("liby.so.1", "/lib/glibc-hwcaps/a/liby.so.1", Some("a")),
        ];
        let mut bytes = encode(libs, if old { &COMPAT } else { &NEW }).unwrap();
        if let Some(b) = bytes.get_mut(at) {
            *b = byte;
        }
        bytes.truncate(cut);
        let _ = read(&bytes);
    }

    #[test]
    fn any_bytes_are_read_or_refused(tail: Vec<u8>) {
        let _ = read(&[b"glibc-ld.so.cache1.1".as_slice(), &tail].concat());
        let _ = read(&[b"ld.so-1.7.0\0".as_slice(), &tail].concat());
    }
}
