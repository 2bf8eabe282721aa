//! Cases in which the kernel's result differs from a list of the entries.

use super::*;

const PLAIN: u32 = kind::FILE | 0o644;

fn directory(name: &[u8]) -> (Entry, Vec<u8>) {
    file(name, kind::DIRECTORY | 0o755, b"")
}

/// A name of file number 7.
fn name_of(name: &[u8], content: &[u8]) -> (Entry, Vec<u8>) {
    let (entry, content) = file(name, PLAIN, content);
    (Entry { inode: 7, links: 2, ..entry }, content)
}

/// A path and its content.
type Path = (String, String);

/// The remaining paths with their content, and the entries with a remark.
fn left(entries: &[(Entry, Vec<u8>)]) -> (Vec<Path>, Vec<(usize, String)>) {
    let bytes = pack(entries);
    let contents = Archive::of_bytes("image", bytes).read(&Want { digests: true, keep: &|_| true }).unwrap();
    let tree = contents.tree();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let paths = tree.paths.iter().map(|(path, left)| {
        let item = left.item;
        let holds = match left.kind() {
            kind::FILE => text(item.content.as_deref().unwrap_or_default()),
            kind::LINK => format!("-> {}", text(item.target.as_deref().unwrap())),
            kind::DIRECTORY => "/".to_owned(),
            _ => format!("{:?}", item.entry.device),
        };
        (text(path), holds)
    });
    (paths.collect(), tree.remarks.iter().map(|remark| (remark.item, remark.what.clone())).collect())
}

fn paths(pairs: &[(&str, &str)]) -> Vec<Path> {
    pairs.iter().map(|(path, holds)| ((*path).to_owned(), (*holds).to_owned())).collect()
}

#[test]
fn hard_links_with_two_contents_have_the_last() {
    let (found, remarks) = left(&[name_of(b"init", b"harmless"), name_of(b"other", b"evil")]);
    assert_eq!(found, paths(&[("/init", "evil"), ("/other", "evil")]));
    assert_eq!(remarks.len(), 1);
    assert!(remarks[0].0 == 0 && remarks[0].1.contains("gets the content of \"other\""), "{remarks:?}");
    // A later file with one of the names changes all of them.
    let (found, remarks) = left(&[name_of(b"a", b""), name_of(b"b", b"one"), file(b"a", PLAIN, b"two")]);
    assert_eq!(found, paths(&[("/a", "two"), ("/b", "two")]));
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    // As cpio writes them: without remarks.
    let (found, remarks) = left(&[name_of(b"a", b""), name_of(b"b", b"one")]);
    assert_eq!((found, remarks), (paths(&[("/a", "one"), ("/b", "one")]), vec![]));
}

#[test]
fn entry_before_its_directory_is_left_out() {
    let (found, remarks) =
        left(&[file(b"bin/a", PLAIN, b"x"), directory(b"bin"), file(b"bin/b", PLAIN, b"y")]);
    assert_eq!(found, paths(&[("/bin", "/"), ("/bin/b", "y")]));
    assert!(remarks.len() == 1 && remarks[0].1.contains("left out"), "{remarks:?}");
    // The kernel has these from the start.
    let (found, remarks) = left(&[file(b"dev/x", PLAIN, b"x"), file(b"root/x", PLAIN, b"y")]);
    assert_eq!((found, remarks), (paths(&[("/dev/x", "x"), ("/root/x", "y")]), vec![]));
}

#[test]
fn path_is_resolved_through_links_except_its_last_part() {
    let entries = [
        directory(b"usr"),
        file(b"bin", kind::LINK | 0o777, b"usr"),
        file(b"bin/a", PLAIN, b"x"),
        file(b"round", kind::LINK | 0o777, b"round"),
        file(b"round/a", PLAIN, b"x"),
        file(b"usr/up", kind::LINK | 0o777, b"../../usr/../usr"),
        file(b"usr/up/b", PLAIN, b"y"),
    ];
    let (found, remarks) = left(&entries);
    let expected = [
        ("/bin", "-> usr"),
        ("/round", "-> round"),
        ("/usr", "/"),
        ("/usr/a", "x"),
        ("/usr/b", "y"),
        ("/usr/up", "-> ../../usr/../usr"),
    ];
    assert_eq!(found, paths(&expected));
    assert!(remarks.len() == 1 && remarks[0].1.contains("too many links"), "{remarks:?}");
    let (found, _) = left(&[file(b"x", kind::LINK | 0o777, b"y"), file(b"x", PLAIN, b"z")]);
    assert_eq!(found, paths(&[("/x", "z")]));
}

#[test]
fn directory_with_content_stays() {
    let link = file(b"a", kind::LINK | 0o777, b"/evil");
    let (found, remarks) =
        left(&[directory(b"a"), file(b"a/b", PLAIN, b"x"), file(b"a", PLAIN, b"y"), link.clone()]);
    assert_eq!(found, paths(&[("/a", "/"), ("/a/b", "x")]));
    assert_eq!(remarks.iter().map(|remark| remark.0).collect::<Vec<_>>(), [2, 3]);
    let (found, remarks) = left(&[directory(b"a"), link]);
    assert_eq!((found, remarks), (paths(&[("/a", "-> /evil")]), vec![]));
}

#[test]
fn link_targets_and_names_end_at_their_first_nul() {
    let (found, remarks) =
        left(&[file(b"a", kind::LINK | 0o777, b"evil\0harmless"), file(b"b", kind::LINK | 0o777, b"")]);
    assert_eq!(found, paths(&[("/a", "-> evil"), ("/b", "-> ")]));
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(
        fault(&pack(&[file(b"init\0hidden", PLAIN, b"x")])).contains("hidden data after the end of a name")
    );
}

#[test]
fn link_named_like_the_trailer_is_an_ordinary_link() {
    let (found, remarks) =
        left(&[file(b"TRAILER!!!", kind::LINK | 0o777, b"x"), file(b"init", PLAIN, b"evil")]);
    assert_eq!((found, remarks), (paths(&[("/TRAILER!!!", "-> x"), ("/init", "evil")]), vec![]));
}

#[test]
fn content_of_a_directory_is_refused() {
    for of in [kind::DIRECTORY, kind::CHARACTER, kind::FIFO, kind::SOCKET, 0] {
        let error = fault(&pack(&[file(b"a", of | 0o755, b"070701")]));
        assert!(error.contains("neither file nor link"), "{of:o}: {error}");
    }
}

#[test]
fn devices_keep_their_first_numbers() {
    let device = |minor| {
        let (entry, content) = file(b"null", kind::CHARACTER | 0o666, b"");
        (Entry { device: (1, minor), ..entry }, content)
    };
    let (found, remarks) = left(&[device(3), device(5)]);
    assert_eq!((found, remarks.len()), (paths(&[("/null", "(1, 3)")]), 1));
}

/// A gzip member with an archive that only the kernel finds.
#[test]
fn gzip_header_that_the_kernel_reads_differently_is_refused() {
    let member = compressed(Compression::Gzip, &sample("harmless"));
    let hidden = compressed(Compression::Gzip, &pack(&[file(b"init", PLAIN, b"evil")]));
    let extra = [&u16::try_from(hidden.len() - 10).unwrap().to_le_bytes()[..], &hidden[10..]].concat();
    for (flag, field) in [(4, extra), (16, b"a comment\0".to_vec()), (2, vec![0, 0]), (0x80, vec![])] {
        let image = [&[0x1f, 0x8b, 8, flag], &member[4..10], &field[..], &member[10..]].concat();
        let error = fault(&image);
        assert!(error.contains("a gzip header with flags"), "{flag:#x}: {error}");
    }
    // Both know a name.
    let named = [&[0x1f, 0x8b, 8, 8], &member[4..10], b"name\0", &member[10..]].concat();
    assert_eq!(names(&named).len(), 3);
}

#[test]
fn xz_features_that_the_kernel_lacks_are_refused() {
    let archive = sample("a");
    let xz = |args: &[&str]| through("xz", &[&["-c"], args].concat(), &archive);
    for check in ["--check=crc64", "--check=sha256"] {
        assert!(fault(&xz(&[check])).contains("a check of type"), "{check}");
    }
    let filters: [&[&str]; 3] =
        [&["--delta=dist=1", "--lzma2"], &["--arm", "--lzma2"], &["--delta", "--x86", "--lzma2"]];
    for filters in filters {
        assert!(fault(&xz(&[&["--check=crc32"], filters].concat())).contains("filters"), "{filters:?}");
    }
    let good: [&[&str]; 3] = [
        &["--check=none"],
        &["--check=crc32", "--x86", "--lzma2"],
        &["--check=crc32", "--block-size=100000", "-T2"],
    ];
    for args in good {
        assert_eq!(names(&xz(args)).len(), 3, "{args:?}");
    }
}

#[test]
fn data_immediately_after_lz4_is_refused() {
    let lz4 = compressed(Compression::Lz4, &sample("a"));
    assert!(
        fault(&[&lz4[..], &pack(&[file(b"init", PLAIN, b"x")])].concat())
            .contains("follows an lz4 stream immediately")
    );
    let mut padded = lz4;
    padded.resize(padded.len().next_multiple_of(4) + 4, 0);
    assert_eq!(names(&[padded, sample("b")].concat()).len(), 6);
}

#[test]
fn zstd_window_above_the_kernels_limit_is_refused() {
    // The kernel accepts 128 MiB, but not 144 MiB.
    let frame = |window: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0, window], &[1, 0, 0][..]].concat();
    assert!(fault(&frame(17 << 3)).contains("no archive"));
    assert!(fault(&frame(17 << 3 | 1)).contains("with a window of 150994944 bytes"));
    // A single segment with 256 MiB in its header.
    let single = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &(256_u32 << 20).to_le_bytes(), &[1, 0, 0]].concat();
    assert!(fault(&single).contains("with a window of 268435456 bytes"));
}

#[test]
fn randomised_bzip2_block_is_refused() {
    let mut image = compressed(Compression::Bzip2, &sample("a"));
    assert!(read(&image).is_ok());
    // The bit after the block's magic number and checksum. The result of the decoder does not
    // matter.
    image[14] |= 0x80;
    let segment =
        Segment { offset: 0, size: image.len() as u64, compression: Compression::Bzip2, unpacked: 0 };
    let error = strict::whole(&image, &segment).unwrap_err();
    assert!(error.to_string().contains("randomised"), "{error}");
    assert!(read(&image).is_err());
}

/// An archive with the file `init`, by a program that writes the content's size and no end marker
/// (lzma_alone 9.22).
const LZMA_OF_KNOWN_SIZE: &[u8] = b"\x5d\x00\x00\x80\x00\xf4\x00\x00\x00\x00\x00\x00\x00\x00\x18\x0d\xdd\x04\x63\x9c\x72\x1b\x76\xa1\xc0\xda\x39\xaf\x94\xfa\x08\x00\x44\x38\xa7\xab\x61\xa3\x1b\x92\x97\x58\xa8\xf7\x47\xa0\x5c\x82\x60\x2e\x6e\x4f\xd4\x24\x72\xae\x20\xa7\x33\xb3\x99\x10\xff\xe6\x55\x33\xa5\x89\x27\x9a\x80\x00";

#[test]
fn lzma_stream_ends_where_the_kernel_ends_it() {
    assert_eq!(names(LZMA_OF_KNOWN_SIZE), ["init"]);
    assert_eq!(names(&[LZMA_OF_KNOWN_SIZE, &sample("b")].concat()).len(), 4);
    // With both a size and a marker.
    let mut both = compressed(Compression::Lzma, &sample("a"));
    both[5..13].copy_from_slice(&(sample("a").len() as u64).to_le_bytes());
    assert!(fault(&both).contains("a marker of its end"), "{}", fault(&both));
    // A size that is smaller than the content.
    both[5..13].copy_from_slice(&100_u64.to_le_bytes());
    assert!(read(&both).is_err());
}

#[test]
fn lzop_without_the_checksums_of_the_kernel_is_refused() {
    let archive = sample("a");
    for args in [&["-1"][..], &["-9"], &["--crc32"]] {
        let image = through("lzop", &[&["-c"], args].concat(), &archive);
        assert_eq!(names(&image).len(), 3, "{args:?}");
    }
    assert!(
        fault(&through("lzop", &["-c", "--no-checksum"], &archive)).contains("an lzop header with flags")
    );
    // A block that is too large for the kernel, and one that is larger than its unpacked data.
    let image = compressed(Compression::Lzop, &archive);
    let first = image.len() - lzop_blocks(&image).len();
    for (unpacked, packed) in [(256 * 1024 + 1_u32, 1_u32), (10, 11), (10, 0)] {
        let mut image = image.clone();
        image[first..first + 4].copy_from_slice(&unpacked.to_be_bytes());
        image[first + 4..first + 8].copy_from_slice(&packed.to_be_bytes());
        assert!(fault(&image).contains("an lzop block of"), "{}", fault(&image));
    }
}

/// The data after the header, which has no name here.
fn lzop_blocks(image: &[u8]) -> &[u8] {
    &image[9 + 2 + 6 + 16 + 1 + usize::from(image[33]) + 4..]
}

#[test]
fn boot_configuration_is_stripped_as_by_the_kernel() {
    let with = |config: &[u8], sum: u32, padding: usize| {
        let mut image = sample("a");
        image.extend(config);
        image.extend(u32::try_from(config.len()).unwrap().to_le_bytes());
        image.extend(sum.to_le_bytes());
        image.extend(b"#BOOTCONFIG\n");
        image.extend(vec![0; padding]);
        image
    };
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let text = b"kernel.gpu_initrd.gpu = none\n";
    for padding in 0..4 {
        let contents = read(&with(text, sum(text), padding)).unwrap();
        let offset = sample("a").len() as u64;
        assert_eq!(contents.boot_config, Some(BootConfig { offset, size: text.len() as u64 }), "{padding}");
        assert_eq!(contents.items.len(), 3);
    }
    // An archive in its place is never unpacked.
    let archive = pack(&[file(b"init", PLAIN, b"harmless")]);
    assert_eq!(read(&with(&archive, sum(&archive), 0)).unwrap().items.len(), 3);
    // The kernel does not strip one with a wrong checksum, and finds junk.
    assert!(fault(&with(text, 0, 0)).contains("expected a cpio archive"));
    assert!(fault(&with(text, sum(text), 4)).contains("expected a cpio archive"));
}
