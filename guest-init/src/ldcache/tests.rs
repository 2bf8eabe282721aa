use proptest::prelude::*;

use super::*;

fn library(key: &str, value: &str, hwcaps: Option<&str>) -> Library {
    Library {
        key: key.into(),
        value: value.into(),
        flags: 0x303,
        isa_level: if hwcaps.is_some() { 2 } else { 0 },
        hwcaps: hwcaps.map(Into::into),
    }
}

#[test]
fn what_is_written_is_read() {
    let libs = vec![
        library("libx.so.9", "/lib/libx.so.9", None),
        library("libx.so.10", "/lib/libx.so.10", None),
        library("libx.so.10", "/lib/glibc-hwcaps/x86-64-v3/libx.so.10", Some("x86-64-v3")),
    ];
    let bytes = encode(libs, &[b"unused"], "me").unwrap();
    let cache = read(&bytes).unwrap();
    assert_eq!(cache.generator, Some(&b"me"[..]));
    let keys: Vec<_> = cache.entries.iter().map(|e| (e.key, e.hwcaps)).collect();
    let expected: [(&[u8], Option<&[u8]>); 3] =
        [(b"libx.so.10", Some(b"x86-64-v3")), (b"libx.so.10", None), (b"libx.so.9", None)];
    assert_eq!(keys, expected);
    assert_eq!(cache.entries[0].hwcap, 1 << 62 | 2 << 32);
    assert_eq!(cache.entries[1].value, b"/lib/libx.so.10");
}

#[test]
fn an_empty_root_gives_an_empty_cache_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootDir::open(dir.path()).unwrap();
    let cache = build(&root).unwrap();
    assert!(read(&cache.bytes).unwrap().entries.is_empty());
    assert!(cache.write(&root).unwrap());
    assert!(!cache.write(&root).unwrap(), "the second time nothing changes");
}

#[test]
fn a_cache_of_the_old_format_is_refused() {
    assert_eq!(read(b"ld.so-1.7.0\0").unwrap_err(), FormatError::Magic);
}

proptest! {
    #[test]
    fn any_libraries_survive_the_round_trip(
        libs in proptest::collection::vec(("[a-z.0-9]{1,12}", "/[a-z/.0-9]{0,20}", proptest::option::of("[a-z]{1,3}")), 0..40)
    ) {
        let libs: Vec<_> = libs.iter().map(|(k, v, h)| library(k, v, h.as_deref())).collect();
        let bytes = encode(libs.clone(), &[], "test").unwrap();
        let cache = read(&bytes).unwrap();
        let mut expected: Vec<_> =
            libs.iter().map(|l| (l.key.as_slice(), l.value.as_slice(), l.hwcaps.as_deref())).collect();
        let mut found: Vec<_> = cache.entries.into_iter().map(|e| (e.key, e.value, e.hwcaps)).collect();
        expected.sort();
        found.sort();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn damaged_caches_are_errors(at in 0_usize..400, byte: u8, cut in 20_usize..400) {
        let libs = vec![
            library("libx.so.1", "/lib/libx.so.1", None),
            library("liby.so.1", "/lib/glibc-hwcaps/a/liby.so.1", Some("a")),
        ];
        let mut bytes = encode(libs, &[], "test").unwrap();
        if let Some(b) = bytes.get_mut(at) {
            *b = byte;
        }
        bytes.truncate(cut);
        let _ = read(&bytes);
    }

    #[test]
    fn any_bytes_are_read_or_refused(tail: Vec<u8>) {
        let _ = read(&[b"glibc-ld.so.cache1.1".as_slice(), &tail].concat());
    }
}
