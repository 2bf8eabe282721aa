//! Values as text: digests and UUIDs, the names of variants, and errors with their causes.

use serde::Serialize;
use std::fmt::Write as _;

/// The name under which a variant without fields stands in JSON, and everywhere else.
pub fn name(variant: impl Serialize) -> String {
    serde_json::to_value(variant).ok().and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Lower-case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of hexadecimal digits; `None` when they are none.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

/// An error with everything underneath it, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(to_hex(&[0, 0x5a, 0xff]), "005aff");
        assert_eq!(from_hex("005aff"), Some(vec![0, 0x5a, 0xff]));
        assert_eq!(from_hex("5"), None);
        assert_eq!(from_hex("ää"), None);
    }
}
