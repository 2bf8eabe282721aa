//! Limits of texts and lists in a status.

/// Maximum number of evidence lines per finding and per GPU.
pub const MAX_EVIDENCE: usize = 20;
/// Number of lines kept from the end, where a driver reports the result.
const LAST_EVIDENCE: usize = 11;
/// Maximum number of characters of one text. With the limits on their number, a status is much smaller than the largest reply.
const MAX_TEXT: usize = 400;

/// Limits an external text.
pub fn clip(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(at);
        text.push('…');
    }
}

/// Limits a list of external texts: kernel log, configuration.
pub fn clip_lines(lines: &mut Vec<String>) {
    if let Some(left_out) = lines.len().checked_sub(MAX_EVIDENCE).filter(|more| *more > 0) {
        let end = lines.split_off(lines.len() - LAST_EVIDENCE);
        lines.truncate(MAX_EVIDENCE - LAST_EVIDENCE - 1);
        lines.push(format!("… {} lines omitted", left_out + 1));
        lines.extend(end);
    }
    lines.iter_mut().for_each(clip);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_much_evidence_the_beginning_and_the_end_are_kept() {
        let list = |range: std::ops::Range<u32>| range.map(|n| n.to_string()).collect::<Vec<_>>();
        let mut lines = list(0..60);
        clip_lines(&mut lines);
        let expected = [list(0..8), vec!["… 41 lines omitted".into()], list(49..60)].concat();
        assert_eq!((lines.len(), &lines), (MAX_EVIDENCE, &expected));
        clip_lines(&mut lines);
        assert_eq!(lines, expected);
    }
}
