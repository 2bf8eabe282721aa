//! The string table of the cache. A string that ends another one shares its bytes, so the layout follows from
//! the set of strings alone.

use std::cmp::Ordering;
use std::collections::HashMap;

/// A laid-out table.
pub(super) struct StringTable<'a> {
    /// The strings, each with its NUL.
    pub bytes: Vec<u8>,
    offsets: HashMap<&'a [u8], usize>,
}

impl<'a> StringTable<'a> {
    /// Lays out `strings`; duplicates are welcome.
    pub fn new(mut strings: Vec<&'a [u8]>) -> Self {
        strings.sort_unstable_by(|a, b| by_ends(a, b));
        strings.dedup();
        let mut bytes: Vec<u8> = Vec::new();
        let mut offsets = HashMap::with_capacity(strings.len());
        let mut previous: Option<(&[u8], usize)> = None;
        for string in strings {
            let offset = match previous {
                Some((whole, at)) if whole.ends_with(string) => at + whole.len() - string.len(),
                _ => {
                    let at = bytes.len();
                    bytes.extend(string);
                    bytes.push(0);
                    at
                }
            };
            offsets.insert(string, offset);
            previous = Some((string, offset));
        }
        Self { bytes, offsets }
    }

    /// Where `string` begins. It must be one of those laid out.
    pub fn offset(&self, string: &[u8]) -> usize {
        self.offsets.get(string).copied().unwrap_or_default()
    }
}

/// Compares from the last byte to the first, descending, a longer string before those that end it.
fn by_ends(a: &[u8], b: &[u8]) -> Ordering {
    let differing = a.iter().rev().zip(b.iter().rev()).find(|(x, y)| x != y);
    match differing {
        Some((x, y)) => y.cmp(x),
        None => b.len().cmp(&a.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_shared() {
        let table = StringTable::new(vec![b"so", b"/lib/libx.so", b"libx.so", b"a", b"libx.so"]);
        assert_eq!(table.bytes, b"/lib/libx.so\0a\0");
        assert_eq!(table.offset(b"libx.so"), 5);
        assert_eq!(table.offset(b"so"), 10);
        assert_eq!(table.offset(b"a"), 13);
    }
}
