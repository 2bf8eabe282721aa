//! The newc cpio format (`070701`, and `070702` with checksums), as the kernel's initramfs unpacker
//! reads it.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel. Archives that
//! we write contain only what an initramfs needs: directories, regular files, symbolic links and
//! device nodes, with owner root and time 0, so that equal input produces equal bytes. Archives
//! that we read may contain anything.

mod format;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use self::format::{Entry, MAGIC, MAGIC_CHECKSUM, archive_bytes, entry_bytes, kind};
pub use self::read::Reader;
pub use self::write::Writer;
