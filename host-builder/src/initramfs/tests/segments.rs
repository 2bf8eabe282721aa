use super::*;

#[test]
fn every_compression_is_read_as_its_program_writes_it() {
    let archive = sample("a");
    let plain = read(&archive).unwrap();
    for (compression, program, _) in PROGRAMS {
        let bytes = compressed(compression, &archive);
        let contents = read(&bytes).unwrap_or_else(|error| panic!("{program}: {}", error.chain()));
        let unpacked =
            if compression == Compression::None { plain.segments[0].size } else { archive.len() as u64 };
        let segment = contents.segments[0];
        assert_eq!((segment.offset, segment.compression, segment.unpacked), (0, compression, unpacked));
        if compression != Compression::None {
            assert_eq!(segment.size, bytes.len() as u64, "{program}");
        }
        let digest = |contents: &Contents| contents.items[1].sha256.clone().unwrap();
        assert_eq!(digest(&contents), digest(&plain), "{program}");
        let examined = Archive::of_bytes("image", bytes).segments().unwrap();
        assert_eq!(examined, contents.segments, "{program}");
    }
}

#[test]
fn segments_of_all_kinds_follow_each_other_in_any_order() {
    for turn in 0..PROGRAMS.len() {
        let mut image = Vec::new();
        let mut starts = Vec::new();
        for at in 0..PROGRAMS.len() {
            let (compression, ..) = PROGRAMS[(at + turn) % PROGRAMS.len()];
            // Archives must start at a multiple of four; compressed streams may start anywhere.
            image.resize(image.len().next_multiple_of(4), 0);
            starts.push((image.len() as u64, compression));
            image.extend(compressed(compression, &sample(&format!("s{at}"))));
            // For the kernel, data immediately after an lz4 block is another block, unless it is
            // zero.
            if compression == Compression::Lz4 {
                image.extend([0; 4]);
            }
        }
        image.extend([0; 37]);
        let contents = read(&image).unwrap();
        let found: Vec<_> =
            contents.segments.iter().map(|segment| (segment.offset, segment.compression)).collect();
        assert_eq!(found, starts);
        let expected: Vec<_> = (0..PROGRAMS.len())
            .flat_map(|at| ["", "/large", "/link"].map(|name| format!("s{at}{name}")))
            .collect();
        assert_eq!(names(&image), expected);
        assert_eq!(Archive::of_bytes("image", image).segments().unwrap(), contents.segments);
    }
}

#[test]
fn stream_may_have_several_archives_with_zeros_between() {
    let mut stream = sample("a");
    stream.extend([0; 512]);
    stream.extend(sample("b"));
    let image = compressed(Compression::Gzip, &stream);
    let contents = read(&image).unwrap();
    assert_eq!(contents.segments.len(), 1);
    let places: Vec<_> = contents.items.iter().map(|item| item.place.archive).collect();
    assert_eq!(places, [0, 0, 0, 1, 1, 1]);
}

#[test]
fn consecutive_lz4_frames_are_one_stream() {
    let archive = sample("a");
    let (front, back) = archive.split_at(1000);
    let image = [compressed(Compression::Lz4, front), compressed(Compression::Lz4, back)].concat();
    let contents = read(&image).unwrap();
    assert_eq!((contents.segments.len(), contents.items.len()), (1, 3));
}

#[test]
fn zstd_header_size_must_match_the_content() {
    let archive = sample("a");
    let image = zstd::bulk::compress(&archive, 1).unwrap();
    let segments = Archive::of_bytes("image", image.clone()).segments().unwrap();
    assert_eq!((segments[0].unpacked, segments[0].size), (archive.len() as u64, image.len() as u64));
}

#[test]
fn hard_links_share_the_content_of_the_last_one() {
    let link = |name: &[u8], content: &[u8]| {
        let (entry, content) = file(name, kind::FILE | 0o644, content);
        (Entry { inode: 7, links: 2, ..entry }, content)
    };
    let archive = pack(&[link(b"a", b""), link(b"b", b"hello")]);
    let contents = read(&archive).unwrap();
    let tree = contents.tree().paths;
    assert_eq!(tree[b"/a".as_slice()].item.sha256, tree[b"/b".as_slice()].item.sha256);
    assert_eq!(
        (tree[b"/a".as_slice()].bytes(), tree[b"/a".as_slice()].file),
        (5, tree[b"/b".as_slice()].file)
    );
    // The same number in another archive is another file.
    let two = [pack(&[link(b"a", b"")]), pack(&[link(b"b", b"hello")])].concat();
    let contents = read(&two).unwrap();
    assert_eq!(contents.tree().paths[b"/a".as_slice()].bytes(), 0);
}

#[test]
fn last_entry_of_a_path_wins() {
    let one =
        pack(&[file(b"etc", kind::DIRECTORY | 0o755, b""), file(b"./etc/x", kind::FILE | 0o644, b"one")]);
    let two = pack(&[file(b"/etc//x", kind::FILE | 0o644, b"three")]);
    let contents = read(&[one, two].concat()).unwrap();
    assert_eq!(contents.items.len(), 3);
    assert_eq!(contents.tree().paths[b"/etc/x".as_slice()].bytes(), 5);
}

#[test]
fn archives_of_real_cpio_are_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("caf\u{e9} \n x"), "text").unwrap();
    std::fs::hard_link(dir.path().join("caf\u{e9} \n x"), dir.path().join("z")).unwrap();
    for format in ["newc", "crc"] {
        let mut command = Command::new("sh");
        let script = format!("find . -print0 | sort -z | cpio -0 -o --quiet -H {format}");
        let output = command.args(["-c", &script]).current_dir(dir.path()).output().unwrap();
        let contents = read(&output.stdout).unwrap();
        let found: Vec<_> = contents.items.iter().map(|item| item.entry.text()).collect();
        assert_eq!(found, [".", "caf\u{e9} \n x", "z"], "{format}");
        assert_eq!(contents.items[1].entry.checksum.is_some(), format == "crc");
        let tree = contents.tree().paths;
        let digest = crate::common::digest::sha256(b"text");
        assert_eq!(tree[b"/z".as_slice()].item.sha256.as_ref(), Some(&digest));
        assert_eq!(tree["/caf\u{e9} \n x".as_bytes()].item.sha256.as_ref(), Some(&digest));
    }
}
