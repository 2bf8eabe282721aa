use super::format::TRAILER;
use super::*;
use proptest::prelude::*;
use std::io::{self, Read};

fn archive() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.directory("/dev", 0o755).unwrap();
    writer.character("/dev/console", 0o600, 5, 1).unwrap();
    writer.file("/init", 0o755, 5, &mut &b"hello"[..]).unwrap();
    writer.link("/bin", "usr/bin").unwrap();
    writer.finish().unwrap()
}

fn names(bytes: &[u8]) -> io::Result<Vec<String>> {
    let mut reader = Reader::new(bytes);
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        names.push(entry.text().into_owned());
    }
    Ok(names)
}

#[test]
fn written_archive_is_read_back() {
    let bytes = archive();
    assert_eq!(bytes.len() % 512, 0);
    let mut reader = Reader::new(&bytes[..]);
    assert_eq!(reader.next_entry().unwrap().unwrap().name, b"dev");
    assert_eq!(reader.next_entry().unwrap().unwrap().device, (5, 1));
    let init = reader.next_entry().unwrap().unwrap();
    assert_eq!((init.text().as_ref(), init.mode, init.size), ("init", 0o100_755, 5));
    let mut content = String::new();
    reader.read_to_string(&mut content).unwrap();
    assert_eq!(content, "hello");
    assert_eq!(reader.next_entry().unwrap().unwrap().mode, 0o120_777);
    assert!(reader.next_entry().unwrap().is_none());
}

#[test]
fn archive_size_is_known_before_writing() {
    let entries = [("/dev", 0), ("/dev/console", 0), ("/init", 5), ("/bin", 7)];
    let bytes = entries.iter().map(|(name, size)| entry_bytes(name, *size)).sum();
    assert_eq!(archive_bytes(bytes), archive().len() as u64);
}

#[test]
fn short_source_is_an_error() {
    let mut writer = Writer::new(Vec::new());
    let error = writer.file("/x", 0o644, 9, &mut &b"short"[..]).unwrap_err();
    assert!(error.to_string().contains("expected 9 bytes, found 5"), "{error}");
}

#[test]
fn every_truncation_is_an_error_without_a_panic() {
    let bytes = archive();
    let end = bytes.windows(10).position(|window| window == TRAILER).unwrap() + TRAILER.len() + 1;
    for short in 0..end {
        assert!(names(&bytes[..short]).is_err(), "{short} of {end}");
    }
    assert_eq!(names(&bytes).unwrap(), ["dev", "dev/console", "init", "bin"]);
}

#[test]
fn name_may_be_padded_with_several_nuls() {
    let mut writer = Writer::new(Vec::new());
    let entry = Entry { name: b"a\0\0\0\0".to_vec(), mode: 0o100_644, size: 1, ..Entry::default() };
    writer.entry(&entry, &mut &b"x"[..]).unwrap();
    assert_eq!(names(&writer.finish().unwrap()).unwrap(), ["a"]);
}

#[test]
fn checksum_is_compared_with_the_content() {
    let read = |checksum| {
        let mut writer = Writer::new(Vec::new());
        let entry = Entry {
            name: b"a".to_vec(),
            mode: kind::FILE,
            size: 2,
            checksum: Some(checksum),
            ..Entry::default()
        };
        writer.entry(&entry, &mut &b"ab"[..]).unwrap();
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&bytes[..]);
        reader.next_entry().unwrap();
        io::copy(&mut reader, &mut io::sink())?;
        reader.next_entry()
    };
    assert!(read(97 + 98).unwrap().is_none());
    assert!(read(1).unwrap_err().to_string().contains("checksum"));
}

#[test]
fn header_fields_are_only_hexadecimal_digits() {
    for digits in ["+0000001", " 0000001", "0x000001", "0000000g"] {
        let mut bytes = archive();
        bytes[6..14].copy_from_slice(digits.as_bytes());
        assert!(names(&bytes).unwrap_err().to_string().contains("hexadecimal"), "{digits}");
    }
}

fn entries() -> impl Strategy<Value = Vec<(Entry, Vec<u8>)>> {
    let numbers = any::<[u32; 10]>();
    let name = proptest::collection::vec(1..=u8::MAX, 1..300);
    let content = proptest::collection::vec(any::<u8>(), 0..600);
    let entry = (numbers, name, content, any::<bool>()).prop_map(|(numbers, name, mut content, sums)| {
        let [inode, mode, uid, gid, links, mtime, a, b, c, d] = numbers;
        // Half of the kinds can have content. An entry of another kind with content is refused.
        let mode = if a % 2 == 0 { mode & !kind::MASK | kind::FILE } else { mode };
        if !matches!(mode & kind::MASK, kind::FILE | kind::LINK) {
            content.clear();
        }
        let sum = || content.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
        let (origin, device, checksum) = ((a, b), (c, d), sums.then(sum));
        let size = u32::try_from(content.len()).unwrap();
        (Entry { name, inode, mode, uid, gid, links, mtime, size, origin, device, checksum }, content)
    });
    proptest::collection::vec(entry, 0..20)
}

#[test]
fn content_of_a_directory_or_device_is_refused() {
    for of in [kind::DIRECTORY, kind::CHARACTER, kind::BLOCK, kind::FIFO, kind::SOCKET, 0, kind::MASK] {
        let mut writer = Writer::new(Vec::new());
        let entry = Entry { name: b"a".to_vec(), mode: of, size: 2, ..Entry::default() };
        writer.entry(&entry, &mut &b"ab"[..]).unwrap();
        let error = names(&writer.finish().unwrap()).unwrap_err();
        assert!(error.to_string().contains("neither file nor link"), "{of:o}: {error}");
    }
}

proptest! {
    #[test]
    fn any_entries_survive_a_round_trip(entries in entries(), read in any::<u32>()) {
        let mut writer = Writer::new(Vec::new());
        for (entry, content) in &entries {
            writer.entry(entry, &mut &content[..]).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&bytes[..]);
        for (at, (entry, content)) in entries.iter().enumerate() {
            prop_assert_eq!(reader.next_entry().unwrap(), Some(entry.clone()));
            // Whether content is read or skipped does not change the following entries.
            if read >> (at % 32) & 1 == 1 {
                let mut found = Vec::new();
                reader.read_to_end(&mut found).unwrap();
                prop_assert_eq!(&found, content);
            }
        }
        prop_assert_eq!(reader.next_entry().unwrap(), None);
    }

    #[test]
    fn damage_is_an_error_or_another_archive_and_never_a_panic(at in 0..1024_usize, byte in any::<u8>()) {
        let mut bytes = archive();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = names(&bytes);
    }
}
