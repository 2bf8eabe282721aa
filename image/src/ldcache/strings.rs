//! The strings of the cache.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Strings, laid out.
pub(super) struct StringTable {
    /// The strings, each with its NUL.
    pub bytes: Vec<u8>,
    /// Where each of the strings given begins, in the order in which they were given.
    pub places: Vec<usize>,
}

impl StringTable {
    /// One after the other, as until glibc 2.32.
    pub fn separate<'a>(strings: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut table = Self { bytes: Vec::new(), places: Vec::new() };
        for string in strings {
            table.places.push(table.bytes.len());
            table.bytes.extend(string);
            table.bytes.push(0);
        }
        table
    }

    /// A string that ends another one shares its bytes, so the layout follows from the set of strings alone.
    pub fn shared<'a>(strings: impl Iterator<Item = &'a [u8]>) -> Self {
        let given: Vec<&[u8]> = strings.collect();
        let mut sorted = given.clone();
        sorted.sort_unstable_by(|a, b| by_ends(a, b));
        sorted.dedup();
        let mut bytes: Vec<u8> = Vec::new();
        let mut offsets: HashMap<&[u8], usize> = HashMap::with_capacity(sorted.len());
        let mut previous: Option<(&[u8], usize)> = None;
        for string in sorted {
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
        let places = given.iter().map(|string| offsets.get(string).copied().unwrap_or_default()).collect();
        Self { bytes, places }
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

    const STRINGS: [&[u8]; 5] = [b"so", b"/lib/libx.so", b"libx.so", b"a", b"libx.so"];

    #[test]
    fn ends_are_shared() {
        let table = StringTable::shared(STRINGS.into_iter());
        assert_eq!(table.bytes, b"/lib/libx.so\0a\0");
        assert_eq!(table.places, [10, 0, 5, 13, 5]);
    }

    #[test]
    fn before_glibc_2_33_nothing_is_shared() {
        let table = StringTable::separate(STRINGS.into_iter());
        assert_eq!(table.bytes, b"so\0/lib/libx.so\0libx.so\0a\0libx.so\0");
        assert_eq!(table.places, [0, 3, 16, 24, 26]);
    }
}
