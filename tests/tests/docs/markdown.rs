//! What the tests of the documentation read from a page of Markdown: tables, links, headings and
//! command lines.

use super::top;
use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;

/// Compares the first table below a heading of a page in docs/ with the rows that the code has. With
/// WRITE_DOCS=1, writes these rows into the page instead.
pub fn check_table(page: &str, heading: &str, expected: &[Vec<String>]) {
    static WRITING: Mutex<()> = Mutex::new(());
    let path = top().join("docs").join(page);
    // One at a time: a page can have several such tables.
    let _alone = WRITING.lock();
    if std::env::var_os("WRITE_DOCS").is_some() {
        let written = with_rows(&fs::read_to_string(&path).unwrap(), heading, expected);
        fs::write(&path, written).unwrap();
    }
    let found = table(&fs::read_to_string(&path).unwrap(), heading);
    assert_eq!(found, expected, "{page}: run the test again with WRITE_DOCS=1, which writes the table");
}

/// The page with other rows in the first table below a heading.
fn with_rows(page: &str, heading: &str, rows: &[Vec<String>]) -> String {
    let at = page.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no {heading:?}"));
    let (before, section) = page.split_at(at);
    let begin = section.find("\n|").unwrap() + 1;
    let length = section[begin..].split_inclusive('\n').take_while(|line| line.starts_with('|'));
    let lines: Vec<&str> = length.collect();
    let end = begin + lines.iter().map(|line| line.len()).sum::<usize>();
    let cells = |row: &Vec<String>| row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>();
    let rows: Vec<_> = rows.iter().map(|row| format!("| {} |\n", cells(row).join(" | "))).collect();
    [before, &section[..begin], &lines[..2].concat(), &rows.concat(), &section[end..]].concat()
}

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

#[test]
fn rows_of_a_table_are_replaced_and_nothing_else() {
    let page = "# A\n\n| x |\n|---|\n| no |\n\n## B\n\nText.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nEnd.\n";
    let rows = [vec!["a|b".to_owned(), "c".to_owned()]];
    let written = with_rows(page, "## B", &rows);
    assert_eq!(table(&written, "## B"), rows);
    assert_eq!(written, page.replace("| 1 | 2 |\n| 3 | 4 |\n", "| a\\|b | c |\n"));
}
