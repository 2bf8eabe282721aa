//! Cleans untrusted text, so that it cannot control the terminal that shows it.

/// Characters that are removed from untrusted text: controls (C0, DEL, C1), bidirectional overrides
/// and isolates, invisible joiners and marks, line and paragraph separators, tags.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns `text` without escape sequences and control characters, on one line, with at most `most`
/// characters.
pub fn clean(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    let mut count = 0;
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            skip_escape(&mut chars);
            continue;
        }
        let c = if matches!(c, '\t' | '\n' | '\r') { ' ' } else { c };
        if is_unsafe(c) {
            continue;
        }
        if count == most {
            out.push('…');
            break;
        }
        out.push(c);
        count += 1;
    }
    out
}

/// Returns every line of `text` without escape sequences and control characters.
pub fn clean_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        out.push_str(&clean(line, usize::MAX));
        out.push_str(end);
    }
    out
}

/// Skips what follows an ESC: a control sequence up to its final byte, a string such as an
/// operating-system command up to its terminator, else one character. An unfinished sequence
/// extends to the end, as on a terminal.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => drop(chars.find(|c| ('\u{40}'..='\u{7e}').contains(c))),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next() {
                match c {
                    '\u{7}' | '\u{9c}' => break,
                    '\u{1b}' => {
                        // ESC \ ends it, and any other escape aborts it.
                        chars.next();
                        break;
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// Escapes every unsafe character outside ASCII, and DEL, in JSON as `\uXXXX`. The data stays the
/// same. Such characters occur only inside strings, and the JSON writer escapes the other ones of
/// ASCII.
pub fn clean_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_go_whole_and_the_words_stay() {
        assert_eq!(clean("\x1b[31;1mred\x1b[0m", 99), "red");
        assert_eq!(clean("a\x1b]0;title\x07b", 99), "ab");
        assert_eq!(clean("a\x1b]8;;http://x\x1b\\b", 99), "ab");
        assert_eq!(clean("a\x1bPq#1\x1b\\b\x1bcc", 99), "abc");
        assert_eq!(clean("a\x1b[2Jb\x1b[", 99), "ab");
        assert_eq!(clean("a\u{9b}31mb\u{9d}x\x7f\x08\0", 99), "a31mbx");
    }

    #[test]
    fn nothing_turns_the_line_around_or_breaks_it() {
        assert_eq!(clean("a\u{202e}b\u{2066}c\u{200f}d\u{2028}e\u{feff}f\u{e0041}", 99), "abcdef");
        assert_eq!(clean("a\r\nb\tc", 99), "a  b c");
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(clean_lines("a\x1b[2J\n\nb\u{202e}c\n"), "a\n\nbc\n");
        assert_eq!(clean_lines("no end\x07"), "no end");
    }

    #[test]
    fn length_is_bounded_in_characters() {
        assert_eq!(clean("äöü", 3), "äöü");
        assert_eq!(clean("äöüß", 3), "äöü…");
        assert_eq!(clean(&"x".repeat(100_000), 5).chars().count(), 6);
    }

    #[test]
    fn json_keeps_the_data() {
        let text = "\u{202e}\u{9b}\u{7f}\u{1b}\u{e0041}\"é".to_owned();
        let json = clean_json(&serde_json::to_string_pretty(&[&text]).unwrap());
        assert!(!json.chars().any(|c| c != '\n' && is_unsafe(c)), "{json:?}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap()[0], text);
    }
}
