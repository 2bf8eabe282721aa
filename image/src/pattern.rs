//! Patterns of names, as in glibc's `fnmatch` without flags: for file names, and for the aliases of kernel modules.

/// Returns whether `name` matches `pattern` with `*`, `?`, `[a-z]`, `[!a-z]` and `\x`. Takes at most the product of
/// their lengths in steps.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to continue after the last star if a later part does not match.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() || p < pattern.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n + 1));
                Some((p + 1, n))
            }
            Some(_) if n < name.len() => one(&pattern[p..], name[n]).map(|len| (p + len, n + 1)),
            _ => None,
        };
        match (step, star) {
            (Some((next_p, next_n)), _) => (p, n) = (next_p, next_n),
            (None, Some((after, from))) if from <= name.len() => {
                (p, n) = (after, from);
                star = Some((after, from + 1));
            }
            _ => return false,
        }
    }
    true
}

/// Matches one character, and returns the length of that part of the pattern.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => match bracket(rest, byte) {
            Some((len, hit)) => hit.then_some(len + 1),
            // An unclosed bracket is an ordinary character.
            None => (byte == b'[').then_some(1),
        },
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Parses the set after `[`: returns its length with the closing bracket, and whether `byte` is in it.
fn bracket(set: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let mut at = start;
    let mut hit = false;
    loop {
        let low = *set.get(at)?;
        if low == b']' && at > start {
            return Some((at + 1, hit != negated));
        }
        match (set.get(at + 1), set.get(at + 2)) {
            (Some(b'-'), Some(high)) if *high != b']' => {
                hit |= (low..=*high).contains(&byte);
                at += 3;
            }
            _ => {
                hit |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_glibc() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?[a-c]?", "xbz", true),
            ("[!a-c]", "b", false),
            ("[]x]", "]", true),
            ("[a", "[a", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("x", "", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_ends(pattern: Vec<u8>, name: Vec<u8>) {
            matches(&pattern, &name);
        }
    }
}
