//! Boot configuration after the archives. A kernel with `CONFIG_BOOT_CONFIG` strips it before
//! unpacking, and applies it if its command line has `bootconfig`. Other kernels try to unpack it.
//! Images of this tool have none.
//!
//! Source: Documentation/admin-guide/bootconfig.rst and `get_boot_config_from_initrd` in
//! init/main.c of Linux.

use super::source::Source;
use serde::Serialize;
use std::io;

const MAGIC: &[u8; 12] = b"#BOOTCONFIG\n";
/// Size and checksum, before the magic number.
const NUMBERS: usize = 8;
/// Boot loaders round sizes up to four bytes.
const PADDING: u64 = 4;
/// Bytes that are read at a time.
const READ: usize = 1 << 16;

/// The boot configuration, without its numbers and magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BootConfig {
    /// Its offset in the file, where the data that the kernel unpacks ends.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// Finds what the kernel would find at the end of an image.
pub fn find(source: &dyn Source) -> io::Result<Option<BootConfig>> {
    for padding in 0..PADDING {
        let Some(magic) = source.size().checked_sub(MAGIC.len() as u64 + padding) else { return Ok(None) };
        let mut found = [0; MAGIC.len()];
        if source.read_at(&mut found, magic)? < found.len() || found != *MAGIC {
            continue;
        }
        let Some(numbers) = magic.checked_sub(NUMBERS as u64) else { return Ok(None) };
        let mut bytes = [0; NUMBERS];
        source.read_at(&mut bytes, numbers)?;
        let [size, sum] =
            [&bytes[..4], &bytes[4..]].map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
        let Some(offset) = numbers.checked_sub(u64::from(size)) else { return Ok(None) };
        // If the checksum differs, the kernel does not strip it.
        let whole = checksum(source, offset, numbers)? == sum;
        return Ok(whole.then_some(BootConfig { offset, size: u64::from(size) }));
    }
    Ok(None)
}

/// The sum of all bytes.
fn checksum(source: &dyn Source, mut from: u64, to: u64) -> io::Result<u32> {
    let mut buffer = vec![0; READ];
    let mut sum = 0_u32;
    while from < to {
        let most = usize::try_from(to - from).unwrap_or(READ).min(READ);
        let got = source.read_at(&mut buffer[..most], from)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sum = buffer[..got].iter().fold(sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        from += got as u64;
    }
    Ok(sum)
}
