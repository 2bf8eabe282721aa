//! Digests and UUIDs as text.

use std::fmt::Write as _;

/// Lower-case hexadecimal digits.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of hexadecimal digits; `None` when they are none.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(encode(&[0, 0x5a, 0xff]), "005aff");
        assert_eq!(decode("005aff"), Some(vec![0, 0x5a, 0xff]));
        assert_eq!(decode("5"), None);
        assert_eq!(decode("ää"), None);
    }
}
