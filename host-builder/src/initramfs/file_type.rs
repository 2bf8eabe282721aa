//! Describes the type of a file for errors. The type is detected from the content, not from the
//! name.

use super::compression::Compression;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Bytes that are read; the superblocks of file systems are within them.
const FRONT: u64 = 4096;

/// A kernel for x86, in the format of distributions.
pub const BZIMAGE: &str = "a Linux kernel (bzImage)";
/// This may also be a kernel with its EFI stub.
pub const EFI: &str = "an EFI program, such as a unified kernel image";
/// This may also be an uncompressed kernel.
pub const ELF: &str = "an ELF file (a program, library or vmlinux)";

/// Offset and bytes of the magic number of ext2, ext3 and ext4.
pub const EXT: (u64, &[u8]) = (1024 + 56, &[0x53, 0xef]);
/// Offset and bytes of EROFS' magic number.
pub const EROFS: (u64, &[u8]) = (1024, &[0xe2, 0xe1, 0xf5, 0xe0]);
/// Offset and bytes of SquashFS' magic number.
pub const SQUASHFS: (u64, &[u8]) = (0, b"hsqs");

/// Offset and bytes of the magic number of ar archives, such as Debian packages.
pub const AR: (u64, &[u8]) = (0, b"!<arch>\n");
/// Offset and bytes of the magic number of RPM packages.
pub const RPM: (u64, &[u8]) = (0, &[0xed, 0xab, 0xee, 0xdb]);
/// Offset and bytes of the magic number of tar archives.
pub const TAR: (u64, &[u8]) = (257, b"ustar");
/// Offset and bytes of the magic number of zip archives.
pub const ZIP: (u64, &[u8]) = (0, b"PK\x03\x04");

/// Offset, bytes and name of unambiguous magic numbers. The first match is used.
const MAGICS: &[(u64, &[u8], &str)] = &[
    (0x202, b"HdrS", BZIMAGE),
    (0, b"MZ", EFI),
    (0, b"\x7fELF", ELF),
    (EXT.0, EXT.1, "a disk image with ext4"),
    (EROFS.0, EROFS.1, "a disk image with EROFS"),
    (SQUASHFS.0, SQUASHFS.1, "a disk image with SquashFS"),
    (0, b"XFSB", "a disk image with XFS"),
    (0, b"QFI\xfb", "a disk image in the qcow2 format"),
    (TAR.0, TAR.1, "a tar archive"),
    (ZIP.0, ZIP.1, "a zip archive"),
    (AR.0, AR.1, "a Debian package or another ar archive"),
    (RPM.0, RPM.1, "an RPM package"),
    (0, b"#!", "a script"),
    (510, &[0x55, 0xaa], "a disk with a partition table or a boot sector"),
];

/// Describes what is at a path: `a disk image with ext4`, `a directory`, `JSON`.
pub fn describe(path: &Path) -> &'static str {
    let Ok(metadata) = fs::metadata(path) else { return "nothing that can be read" };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return "a directory";
    }
    if kind.is_socket() || kind.is_fifo() || kind.is_char_device() {
        return "a socket, a pipe or a device";
    }
    let mut front = Vec::new();
    match File::open(path).and_then(|file| file.take(FRONT).read_to_end(&mut front)) {
        Ok(_) => of_front(&front),
        Err(_) => "a file that cannot be read",
    }
}

/// Whether the first bytes of a file have this magic number at this offset.
pub fn begins(front: &[u8], (offset, magic): (u64, &[u8])) -> bool {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    front.get(offset..).is_some_and(|rest| rest.starts_with(magic))
}

/// Describes a file by its first bytes.
pub fn of_front(front: &[u8]) -> &'static str {
    if front.is_empty() {
        return "an empty file";
    }
    if let Some((_, _, name)) = MAGICS.iter().find(|(offset, magic, _)| begins(front, (*offset, magic))) {
        return name;
    }
    match Compression::of(front) {
        Some(Compression::None) => return "an initramfs (cpio)",
        Some(_) => return "a compressed file, such as an initramfs",
        None => {}
    }
    // The front may end within a character.
    let text = match std::str::from_utf8(front) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&front[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return "data of an unknown kind",
    };
    let is_control = |c: char| c.is_control() && !c.is_whitespace();
    match text.trim_start() {
        _ if text.contains(is_control) => "data of an unknown kind",
        "" => "a text without content",
        text if text.starts_with('{') => "JSON",
        text if text.contains("[[artifact]]") && text.contains("profile_sha256") => "a lock",
        text if text.contains("[kernel]") || text.contains("[modules]") => "a profile",
        _ => "a text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_type_is_detected_from_the_content() {
        let at = |offset: usize, magic: &[u8]| [vec![0; offset], magic.to_vec(), vec![0; 64]].concat();
        for (front, expected) in [
            (vec![], "an empty file"),
            (at(0x202, b"HdrS"), "a Linux kernel (bzImage)"),
            (at(0, b"\x7fELF\x02"), "an ELF file (a program, library or vmlinux)"),
            (at(1080, &[0x53, 0xef]), "a disk image with ext4"),
            (at(1024, &[0xe2, 0xe1, 0xf5, 0xe0]), "a disk image with EROFS"),
            (b"070701000".to_vec(), "an initramfs (cpio)"),
            (vec![0x28, 0xb5, 0x2f, 0xfd, 0x24], "a compressed file, such as an initramfs"),
            (b"{\"cmd\": [\"x\"]}".to_vec(), "JSON"),
            (b"[1, 2]".to_vec(), "a text"),
            (b"# Made by host-builder.\nprofile_sha256 = \"0\"\n[[artifact]]\n".to_vec(), "a lock"),
            (b"name = \"x\"\n[kernel]\n".to_vec(), "a profile"),
            (b"[[artifact]]\n".to_vec(), "a text"),
            (b"root:x:0:0\n".to_vec(), "a text"),
            (b" \n".to_vec(), "a text without content"),
            ([vec![b'a'; 4095], vec![0xc3]].concat(), "a text"),
            (vec![0xff, 0, 1], "data of an unknown kind"),
            (b"abc\0def".to_vec(), "data of an unknown kind"),
        ] {
            assert_eq!(of_front(&front), expected, "{:?}", &front[..front.len().min(16)]);
        }
        assert_eq!(describe(Path::new("/")), "a directory");
        assert_eq!(describe(Path::new("/nothing/here")), "nothing that can be read");
        assert_eq!(describe(Path::new("/dev/null")), "a socket, a pipe or a device");
    }
}
