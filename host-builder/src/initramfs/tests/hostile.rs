use super::*;
use crate::initramfs::walk::add;
use proptest::prelude::*;
use std::sync::atomic::AtomicU64;

#[test]
fn file_of_another_type_is_refused_with_its_first_bytes() {
    assert!(fault(b"").contains("0 zero bytes"));
    assert!(fault(&[0; 100]).contains("100 zero bytes"));
    assert!(
        fault(&[0xff, 1, 2, 3]).contains(
            "at offset 0: expected a cpio archive, a compressed one, or the end; found ff 01 02 03"
        )
    );
    assert!(fault(b"\x7fELF\x02\x01").contains("at offset 0: expected an initramfs, found an ELF file"));
    assert!(fault(b"{\"cmd\": []}").contains("expected an initramfs, found JSON"));
    let ext4 = [vec![0; 1080], vec![0x53, 0xef], vec![0; 4096]].concat();
    assert!(fault(&ext4).contains("expected an initramfs, found a disk image with ext4"));
    assert!(fault(b"070707000000").contains("old cpio format"));
    assert!(fault(&[0x04, 0x22, 0x4d, 0x18, 0, 0]).contains("lz4 -l"));
    assert!(fault(b"\x89LXO\0\r\n\x1a\n and more").contains("incomplete lzop magic number"));
    assert!(fault(&[0x27, 0x05, 0x19, 0x56, 0, 0]).contains("uImage"));
}

#[test]
fn junk_after_a_segment_is_refused_with_its_offset() {
    for (compression, ..) in PROGRAMS {
        let mut image = compressed(compression, &sample("a"));
        image.resize(image.len().next_multiple_of(8) + 8, 0);
        let offset = image.len();
        image.extend(b"junk");
        let error = fault(&image);
        assert!(error.contains(&format!("at offset {offset}: expected")), "{compression}: {error}");
    }
}

#[test]
fn junk_in_a_stream_is_refused_with_its_position() {
    let mut stream = sample("a");
    let place = stream.len();
    stream.extend(b"junk");
    let error = fault(&compressed(Compression::Gzip, &stream));
    let expected =
        format!("at offset 0: byte {place} of this segment, unpacked: expected an archive or the end");
    assert!(error.contains(&expected), "{error}");
    assert!(fault(&compressed(Compression::Xz, b"\0\0\0\0")).contains("it contains no archive"));
}

#[test]
fn unaligned_archive_is_refused() {
    let image = [&[0], &sample("a")[..]].concat();
    assert!(fault(&image).contains("at offset 1: an archive must begin at a multiple of four bytes"));
    let stream = [&sample("a")[..], &[0; 3], &sample("b")[..]].concat();
    assert!(fault(&compressed(Compression::Zstd, &stream)).contains("expected an archive"));
}

#[test]
fn truncated_file_is_an_error() {
    let mut small = Writer::new(Vec::new());
    small.file("a", 0o644, 5, &mut &b"hello"[..]).unwrap();
    let small = small.finish().unwrap();
    for (compression, ..) in PROGRAMS {
        let image = compressed(compression, &small);
        // Zero bytes after an archive are padding.
        let end = image.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let end = if compression == Compression::None { end } else { image.len() };
        for short in 0..end {
            assert!(read(&image[..short]).is_err(), "{compression}: {short} of {end}");
            let _ = Archive::of_bytes("image", image[..short].to_vec()).segments();
        }
        assert!(read(&image).is_ok(), "{compression}");
    }
}

#[test]
fn name_of_arbitrary_bytes_is_kept() {
    let name = b"\xff\xfe\x1b]0;title\x07\n";
    let contents = read(&pack(&[file(name, kind::FILE | 0o644, b"x")])).unwrap();
    assert_eq!(contents.items[0].entry.name, name);
    let mut path = b"/".to_vec();
    path.extend(name);
    assert!(contents.tree().paths.contains_key(&path));
}

#[test]
fn link_target_is_limited() {
    let error = fault(&pack(&[file(b"a", kind::LINK | 0o777, &[b'x'; 5000])]));
    assert!(error.contains("5000 bytes, expected at most 4096"), "{error}");
}

#[test]
fn file_larger_than_the_image_is_an_error() {
    let (entry, _) = file(b"a", kind::FILE | 0o644, b"");
    let mut image = pack(&[(entry, Vec::new())]);
    image[54..62].copy_from_slice(b"fffffff0");
    assert!(fault(&image).contains("truncated"));
    let packed = compressed(Compression::Zstd, &image);
    assert!(fault(&packed).contains("truncated"));
}

#[test]
fn excessive_numbers_are_refused() {
    let counter = AtomicU64::new(0);
    assert!(add(&counter, 10, 10, "bytes").is_ok());
    let error = add(&counter, 1, 10, "bytes").unwrap_err();
    assert!(error.to_string().contains("more than 10 bytes"), "{error}");
    // A window of 2 GiB is refused before memory is allocated for it.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0];
    assert!(fault(&frame).contains("at offset 0"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damage_anywhere_is_an_error_or_another_image_and_never_a_panic(
        which in 0..PROGRAMS.len(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut image = compressed(PROGRAMS[which].0, &pack(&[
            file(b"a", kind::FILE | 0o644, b"hello"), file(b"b", kind::LINK | 0o777, b"a"),
        ]));
        let at = at.index(image.len());
        image[at] = byte;
        let _ = read(&image);
        let _ = Archive::of_bytes("image", image).segments();
    }
}
