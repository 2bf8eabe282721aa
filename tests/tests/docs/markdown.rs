//! What the tests of the documentation read from a page of Markdown: tables, links, headings and
//! command lines.

use std::collections::BTreeSet;

/// The rows of the first table below a heading: their cells.
pub fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let heading = format!("\n{heading}\n");
    let section = page.split_once(&heading).unwrap_or_else(|| panic!("there is no heading {heading:?}")).1;
    let rows =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            let row = row.replace("\\|", "\u{1}");
            let cells = row.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().replace('\u{1}', "|")).collect()
        })
        .collect()
}

/// Lines of a page with whether each is in a fenced block, and the language of that block.
fn fenced(page: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let mut language = None;
    page.lines().filter_map(move |line| match (line.strip_prefix("```"), language) {
        (Some(begin), None) => {
            language = Some(begin);
            None
        }
        (Some(_), Some(_)) => {
            language = None;
            None
        }
        (None, _) => Some((line, language)),
    })
}

/// Targets of links, outside of code.
pub fn links(page: &str) -> Vec<String> {
    let prose = fenced(page).filter(|(_, language)| language.is_none());
    // Every second part between backticks is code.
    let prose = prose.map(|(line, _)| line.split('`').step_by(2).collect::<Vec<_>>().join("`"));
    let prose = prose.collect::<Vec<_>>().join("\n");
    let ends = prose.match_indices("](").map(|(at, mark)| &prose[at + mark.len()..]);
    ends.map(|rest| rest.split_once(')').unwrap().0.to_owned()).collect()
}

/// What a link may name after `#`: headings as GitHub writes them, and anchors of HTML.
pub fn anchors(page: &str) -> BTreeSet<String> {
    let prose = fenced(page).filter(|(_, language)| language.is_none()).map(|(line, _)| line);
    let mut anchors = BTreeSet::new();
    for line in prose {
        if line.starts_with('#') {
            let heading = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_');
            anchors.insert(heading.chars().filter(kept).collect());
        }
        let ids = line.split("<a id=\"").skip(1).map(|rest| rest.split_once('"').unwrap().0.to_owned());
        anchors.extend(ids);
    }
    anchors
}

/// Command lines of host-builder in blocks of sh, each on one line, without comments, pipes and
/// redirections.
pub fn commands(page: &str) -> Vec<String> {
    let block = fenced(page).filter(|(_, language)| *language == Some("sh")).map(|(line, _)| line);
    let block = block.collect::<Vec<_>>().join("\n");
    let mut commands = Vec::new();
    for line in block.replace("\\\n", " ").lines() {
        let (line, comment) = line.split_once(" #").unwrap_or((line, ""));
        if comment.trim() == "not run here" {
            continue;
        }
        let line = line.strip_prefix("sudo ").unwrap_or(line);
        let line = line
            .strip_prefix("cargo run --release -- ")
            .map_or(line.to_owned(), |rest| format!("host-builder {rest}"));
        if !line.starts_with("host-builder ") {
            continue;
        }
        let ends = [" | ", " > ", " && ", " &"];
        let end = ends.iter().filter_map(|mark| line.find(mark)).min().unwrap_or(line.len());
        commands.push(line[..end].split_whitespace().collect::<Vec<_>>().join(" "));
    }
    commands
}

/// Words of a command line, as a shell without expansions has them.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(mark)) if c == mark => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn markdown_links_headings_and_commands_are_parsed() {
    let page = "# A `b`, c\n[x](y.md#z) `[no](no)`\n```sh\n[no](no)\nhost-builder a 'b c' \\\n    d > e   # f\n$ no\n```\n";
    assert_eq!(links(page), ["y.md#z"]);
    assert!(
        anchors("## Monitor: a_b, `--c` d\n<a id=\"no-gpu\"></a>")
            .is_superset(&["monitor-a_b---c-d", "no-gpu"].map(str::to_owned).into())
    );
    assert_eq!(commands(page), ["host-builder a 'b c' d"]);
    assert_eq!(words("host-builder a 'b c' \"$(x y)\" *"), ["host-builder", "a", "b c", "$(x y)", "*"]);
}
