//! The order of cache entries. The loader does a binary search: in any other order it silently misses
//! libraries.

use std::cmp::Ordering;

use super::Library;

/// Compares two library names as the loader does: runs of digits compare as numbers, and a digit stands above
/// any other character. So `libx.so.10` is above `libx.so.9`.
pub fn compare_names(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (first_a, first_b) = (a.first().copied().unwrap_or(0), b.first().copied().unwrap_or(0));
        match (first_a.is_ascii_digit(), first_b.is_ascii_digit()) {
            (true, true) => {
                let (number_a, rest_a) = take_number(a);
                let (number_b, rest_b) = take_number(b);
                if number_a != number_b {
                    return number_a.cmp(&number_b);
                }
                (a, b) = (rest_a, rest_b);
            }
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) => {
                let order = character(first_a).cmp(&character(first_b));
                if order != Ordering::Equal || first_a == 0 {
                    return order;
                }
                (a, b) = (&a[1..], &b[1..]);
            }
        }
    }
}

/// The digits at the start as a number, wrapped to 32 bits as the loader's `int` does in practice.
fn take_number(text: &[u8]) -> (i32, &[u8]) {
    let len = text.iter().take_while(|c| c.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(len);
    let number = digits.iter().fold(0_i32, |n, d| n.wrapping_mul(10).wrapping_add(i32::from(d - b'0')));
    (number, rest)
}

/// The loader compares plain `char`, which has a sign on `x86_64` and none on `aarch64`.
fn character(byte: u8) -> i32 {
    if cfg!(target_arch = "aarch64") { i32::from(byte) } else { i32::from(byte.cast_signed()) }
}

/// The order of two entries: names descending, then ABI flags descending, then glibc-hwcaps entries (by name
/// of their directory) before plain ones, then more hardware bits and newer kernels first. The sort must be
/// stable, so that the first directory wins.
pub(super) fn compare(a: &Library, b: &Library) -> Ordering {
    let by_hwcaps = match (&a.hwcaps, &b.hwcaps) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    compare_names(&b.key, &a.key)
        .then_with(|| b.flags.cmp(&a.flags))
        .then(by_hwcaps)
        .then_with(|| b.hwcap.count_ones().cmp(&a.hwcap.count_ones()))
        .then_with(|| b.hwcap.cmp(&a.hwcap))
        .then_with(|| b.osversion.cmp(&a.osversion))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        assert_eq!(compare_names(b"libx.so.10", b"libx.so.9"), Ordering::Greater);
        assert_eq!(compare_names(b"libx.so.01", b"libx.so.1"), Ordering::Equal);
        assert_eq!(compare_names(b"libx.so", b"libx.so.1"), Ordering::Less);
        assert_eq!(compare_names(b"libx1", b"libxa"), Ordering::Greater);
        assert_eq!(compare_names(b"", b""), Ordering::Equal);
    }

    proptest::proptest! {
        #[test]
        fn the_order_is_total(a: Vec<u8>, b: Vec<u8>, c: Vec<u8>) {
            let a = [b"lib".as_slice(), &a].concat();
            proptest::prop_assert_eq!(compare_names(&a, &b), compare_names(&b, &a).reverse());
            if compare_names(&a, &b).is_le() && compare_names(&b, &c).is_le() {
                proptest::prop_assert!(compare_names(&a, &c).is_le());
            }
        }
    }
}
