//! The signature behind a kernel module: PKCS#7, twelve bytes that describe it, a magic text. Format:
//! `include/linux/module_signature.h`.

use super::ReadAt;

/// The end of a signed module.
const MAGIC: &[u8; 28] = b"~Module signature appended~\n";
/// Bytes of `struct module_signature` and the magic.
const TRAILER: usize = 12 + MAGIC.len();
/// `PKEY_ID_PKCS7`, the only type of signature that the kernel accepts.
const PKCS7: u8 = 2;

/// The end of a module whose PKCS#7 signature has `len` bytes. It follows the signature.
pub fn signature_trailer(len: u32) -> Vec<u8> {
    let [a, b, c, d] = len.to_be_bytes();
    [&[0, 0, PKCS7, 0, 0, 0, 0, 0, a, b, c, d], &MAGIC[..]].concat()
}

/// Length in bytes of a module without its signature; `None` if it has none, or if it cannot be read.
pub fn length_without_signature<S: ReadAt + ?Sized>(module: &S) -> Option<u64> {
    let start = module.size().ok()?.checked_sub(TRAILER as u64)?;
    let mut trailer = [0; TRAILER];
    if module.read_at(&mut trailer, start).ok()? != TRAILER || !trailer.ends_with(MAGIC) {
        return None;
    }
    let len = u32::from_be_bytes(trailer[8..12].try_into().ok()?);
    start.checked_sub(len.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_measured() {
        let module = |len| [&b"module, signature"[..], &signature_trailer(len)].concat();
        assert_eq!(length_without_signature(&module(11)[..]), Some(6));
        assert_eq!(length_without_signature(&module(17)[..]), Some(0));
        assert_eq!(length_without_signature(&module(18)[..]), None, "a signature longer than the file");
        assert_eq!(length_without_signature(&module(11)[..50]), None, "the end is missing");
        assert_eq!(length_without_signature(&b"module"[..]), None);
        assert_eq!(length_without_signature(&MAGIC[..]), None, "only the magic");
    }
}
