//! The documentation against the code: every key, finding, option and command that it names exists, and none is missing.
//! Every link leads to a file and a heading.

use clap::{CommandFactory as _, Parser as _};
use host_builder::cli::Cli;
use image::config::{JSON_KEYS, KEYS};
use image::status::finding::CODES;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

const README: &str = include_str!("../../README.md");
const BOOTING: &str = include_str!("../../docs/booting.md");
const BUILDING: &str = include_str!("../../docs/building.md");
const FINDINGS: &str = include_str!("../../docs/findings.md");
const OPERATING: &str = include_str!("../../docs/operating.md");
const PROTOCOL: &str = include_str!("../../docs/protocol.md");
const SECURITY: &str = include_str!("../../docs/security.md");

/// The rows of the first table below a heading: their cells.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
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

#[test]
fn every_kernel_command_line_key_is_documented_as_it_is() {
    let expected: Vec<_> = KEYS
        .iter()
        .map(|key| vec![format!("`{}`", key.name), key.expects.to_owned(), key.help.to_owned()])
        .collect();
    assert_eq!(table(BOOTING, "## Kernel command line"), expected);
}

#[test]
fn every_config_key_is_documented_as_it_is() {
    let expected: Vec<_> = JSON_KEYS
        .iter()
        .map(|key| vec![format!("`{}`", key.name), key.expects.to_owned(), key.help.to_owned()])
        .collect();
    assert_eq!(table(BOOTING, "## Config disk"), expected);
}

/// A promise of safety has a test, by its name.
#[test]
fn every_class_of_attack_names_a_test_that_is_there() {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let is_there = |name: &str| {
        let (module, test) = name.trim_matches('`').rsplit_once("::").unwrap();
        let place = module.replace("::", "/");
        let places = [format!("tests/tests/{place}.rs"), format!("guest-init/tests/hostile/{place}.rs")];
        let has = |place: &String| {
            let text = std::fs::read_to_string(format!("{sources}/{place}")).unwrap_or_default();
            text.contains(&format!("#[test]\nfn {test}()"))
        };
        assert!(places.iter().any(has), "no test {name}");
    };
    let cves = table(SECURITY, "### Vulnerabilities of NVIDIA's container toolkit");
    let others = table(SECURITY, "### Other attacks");
    assert!(cves.len() >= 10 && others.len() >= 10);
    cves.iter().chain(&others).for_each(|row| is_there(row.last().unwrap()));
}

#[test]
fn every_finding_is_documented_with_the_words_of_the_code() {
    let expected: Vec<_> = CODES
        .iter()
        .map(|row| {
            let name = row.code.name();
            // What a finding links to.
            let anchor = format!("<a id=\"{name}\"></a>`{name}`");
            vec![anchor, row.meaning.to_owned(), row.remedy.to_owned()]
        })
        .collect();
    assert_eq!(table(FINDINGS, "## All findings"), expected);
}

/// What a remedy tells to give, it tells by its right name.
#[test]
fn the_remedies_name_what_there_is() {
    let mut cli = Cli::command();
    cli.build();
    let mut options = BTreeSet::new();
    all_options(&cli, &mut options);
    let code = |text: &'static str| text.split('`').skip(1).step_by(2);
    let mut checked = 0;
    for row in CODES {
        for word in code(row.remedy).flat_map(str::split_whitespace) {
            let key = word.split_once('=').map_or(word, |(key, _)| key);
            let is_there = match word {
                word if word.starts_with("--") && word != "--" => options.contains(word),
                word if word.starts_with("gpu_initrd.") => KEYS.iter().any(|known| known.name == key),
                _ => continue,
            };
            assert!(is_there, "{word}: {row:?}");
            checked += 1;
        }
        for text in code(row.remedy).filter_map(|text| text.strip_prefix("host-builder ")) {
            let command = text.split_whitespace().next().unwrap();
            assert!(cli.find_subcommand(command).is_some(), "{text}: {row:?}");
            checked += 1;
        }
        // The table is in docs/findings.md, and so are its links.
        for target in links(row.remedy) {
            leads_somewhere(&top().join("docs/findings.md"), &target)
                .unwrap_or_else(|problem| panic!("{problem}: {row:?}"));
        }
    }
    assert!(checked > 20, "{checked}");
}

fn all_options(command: &clap::Command, to: &mut BTreeSet<String>) {
    to.extend(command.get_arguments().filter_map(clap::Arg::get_long).map(|long| format!("--{long}")));
    command.get_subcommands().for_each(|inner| all_options(inner, to));
}

#[test]
fn every_check_of_doctor_is_documented_with_the_words_of_the_code() {
    let expected: Vec<_> = host_builder::doctor::CHECKS
        .iter()
        .map(|(name, meaning)| vec![format!("`{name}`"), (*meaning).to_owned()])
        .collect();
    assert_eq!(table(BOOTING, "## Check a host or a container image first"), expected);
}

#[test]
fn a_finding_links_to_its_row() {
    let link = image::status::Code::NoGpu.link();
    let anchor = link.strip_prefix("docs/findings.md#").unwrap();
    assert!(FINDINGS.contains(&format!("<a id=\"{anchor}\"></a>")), "{link}");
}

#[test]
fn every_metric_is_documented_as_it_is() {
    let row = |family: &host_builder::guest_client::metrics::Family| {
        let labels: Vec<_> = family.labels.split(", ").filter(|label| !label.is_empty()).collect();
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let name = format!("`{}`", family.name);
        vec![name, family.kind.to_owned(), labels.join(", "), family.help.to_owned()]
    };
    let expected: Vec<_> = host_builder::guest_client::metrics::FAMILIES.iter().map(row).collect();
    assert_eq!(table(OPERATING, "## Monitor guests"), expected);
}

/// The types on the wire, in the order that is on the wire, as the sources have them.
#[test]
fn the_protocol_is_documented_with_the_types_as_they_are() {
    let sources = [
        include_str!("../../image/src/wire.rs"),
        include_str!("../../image/src/event.rs"),
        include_str!("../../image/src/status/mod.rs"),
        include_str!("../../image/src/status/exit.rs"),
        include_str!("../../image/src/status/finding.rs"),
    ];
    let mut expected = Vec::new();
    for source in sources {
        let code = source.split_once("#[cfg(test)]").map_or(source, |(code, _)| code);
        for (at, _) in code.match_indices("\npub struct ").chain(code.match_indices("\npub enum ")) {
            let item = &code[at + "\npub ".len()..];
            let (head, rest) = item.split_once(" {\n").unwrap();
            let name = head.split_once(' ').unwrap().1;
            // An error and an explanation are not on the wire; the codes have a table of their own.
            if ["WireError", "Explanation"].contains(&name) {
                continue;
            }
            let lines = rest.split_once("\n}").unwrap().0.lines().map(str::trim);
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(['/', '#']));
            let words: Vec<_> = lines.map(|line| line.strip_prefix("pub ").unwrap_or(line)).collect();
            let body = words.join(" ").trim_end_matches(',').replace(", }", " }");
            expected.push(format!("{head} {{ {body} }}"));
        }
    }
    assert!(expected.len() > 25, "{expected:?}");
    let section = PROTOCOL.split_once("\n## Types\n").unwrap().1;
    let ours = section.split_once("```rust\n").unwrap().1.split_once("\n```").unwrap().0;
    let mut ours: Vec<_> = ours.lines().collect();
    ours.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ours, expected);
    assert!(PROTOCOL.contains(&format!("version, little-endian: {}.", image::wire::VERSION)));
}

#[test]
fn every_option_of_build_initrd_is_documented() {
    let cells: String = table(BUILDING, "## Build").into_iter().map(|row| row[0].clone() + " ").collect();
    let documented: BTreeSet<_> = cells
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("--"))
        .collect();
    let cli = Cli::command();
    let build = cli.find_subcommand("build-initrd").unwrap();
    let options: Vec<_> = build.get_arguments().filter_map(|option| option.get_long()).collect();
    let options: BTreeSet<String> =
        options.iter().filter(|name| **name != "help").map(|name| format!("--{name}")).collect();
    assert_eq!(documented, options.iter().map(String::as_str).collect());
}

#[test]
fn every_command_in_the_help_is_explained() {
    let text: String = pages().into_iter().map(|(_, text)| text).collect();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(
            text.contains(&format!("`{name}")) || text.contains(&format!("host-builder {name}")),
            "{name}"
        );
        assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        for option in command.get_arguments() {
            assert!(option.get_help().is_some(), "{} {} has no help", command.get_name(), option.get_id());
        }
    }
}

/// The tests of hostile roots hold their own table against the names of the tests.
#[test]
fn the_table_of_vulnerabilities_is_that_of_the_tests() {
    const TESTS: &str = include_str!("../../guest-init/tests/hostile/main.rs");
    let rows: Vec<_> = TESTS.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
    let rows: Vec<_> = rows.into_iter().filter(|row| row.starts_with("| CVE-")).collect();
    assert!(rows.len() > 8, "{rows:?}");
    let ours: Vec<_> = SECURITY.lines().filter(|line| line.starts_with("| CVE-")).collect();
    assert_eq!(ours, rows);
}

/// The table of sources is that of the code: which there are, and what each gives.
#[test]
fn every_source_of_artifacts_is_documented_as_it_is() {
    let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let expected: Vec<_> = host_builder::resolve::sources::TABLE
        .iter()
        .map(|row| vec![row.kind.to_string(), word(row.resumes), word(row.versions), word(row.network)])
        .collect();
    let ours = table(BUILDING, "### Add artifacts that are not packages")
        .into_iter()
        .map(|row| [&row[..1], &row[3..]].concat());
    assert_eq!(ours.collect::<Vec<_>>(), expected);
}

#[test]
fn the_readme_is_short_and_has_the_quick_start() {
    assert!(README.lines().count() <= 150, "{} lines", README.lines().count());
    for command in ["\ncargo run --release -- build-initrd ", "\n./tests/run "] {
        assert!(README.contains(command), "{command:?}");
    }
}

#[test]
fn every_page_is_linked_from_the_readme() {
    let linked: BTreeSet<_> = links(README).into_iter().collect();
    for (path, _) in pages() {
        let name = path.strip_prefix(top()).unwrap().to_str().unwrap();
        assert!(name == "README.md" || linked.contains(name), "{name}");
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut problems = Vec::new();
    let mut checked = 0;
    for (path, text) in pages().into_iter().chain(templates()) {
        for target in links(&text) {
            checked += 1;
            problems.extend(leads_somewhere(&path, &target).err());
        }
    }
    assert!(problems.is_empty() && checked > 50, "{checked} links\n{}", problems.join("\n"));
}

/// A line with the comment `# not run here` is not checked.
#[test]
fn every_command_in_a_block_of_sh_parses() {
    let mut checked = 0;
    let mut problems = Vec::new();
    for (path, text) in pages().into_iter().chain(templates()) {
        for line in commands(&text) {
            // A target is checked when it is parsed; other placeholders are names as good as any.
            let words = words(&line.replace(" TARGET", " vsock:5"));
            checked += 1;
            if let Err(error) = Cli::try_parse_from(&words) {
                problems.push(format!("{}: {line}\n{error}", path.display()));
            }
        }
    }
    assert!(problems.is_empty() && checked > 50, "{checked} commands\n{}", problems.join("\n"));
}

#[test]
fn links_headings_and_commands_are_found_in_markdown() {
    let page = "# A `b`, c\n[x](y.md#z) `[no](no)`\n```sh\n[no](no)\nhost-builder a 'b c' \\\n    d > e   # f\n$ no\n```\n";
    assert_eq!(links(page), ["y.md#z"]);
    assert!(
        anchors("## Monitor: a_b, `--c` d\n<a id=\"no-gpu\"></a>")
            .is_superset(&["monitor-a_b---c-d", "no-gpu"].map(str::to_owned).into())
    );
    assert_eq!(commands(page), ["host-builder a 'b c' d"]);
    assert_eq!(words("host-builder a 'b c' \"$(x y)\" *"), ["host-builder", "a", "b c", "$(x y)", "*"]);
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn markdown_in(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// README.md and the other pages at the top, and all of docs/.
fn pages() -> Vec<(PathBuf, String)> {
    let (mut pages, docs) = (markdown_in(top()), markdown_in(&top().join("docs")));
    assert!(pages.len() >= 4 && docs.len() >= 11, "{} and {}", pages.len(), docs.len());
    pages.extend(docs);
    pages
}

fn templates() -> Vec<(PathBuf, String)> {
    markdown_in(&top().join(".github/ISSUE_TEMPLATE"))
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
fn links(page: &str) -> Vec<String> {
    let prose = fenced(page).filter(|(_, language)| language.is_none());
    // Every second part between backticks is code.
    let prose = prose.map(|(line, _)| line.split('`').step_by(2).collect::<Vec<_>>().join("`"));
    let prose = prose.collect::<Vec<_>>().join("\n");
    let ends = prose.match_indices("](").map(|(at, mark)| &prose[at + mark.len()..]);
    ends.map(|rest| rest.split_once(')').unwrap().0.to_owned()).collect()
}

/// What a link may name after `#`: headings as GitHub writes them, and anchors of HTML.
fn anchors(page: &str) -> BTreeSet<String> {
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

/// Whether a link on the page at `from` leads to a file, and to an anchor in it.
fn leads_somewhere(from: &Path, target: &str) -> Result<(), String> {
    if target.starts_with("https://") || target.starts_with("http://") {
        return Ok(());
    }
    let problem = |what: &str| Err(format!("{}: {target}: {what}", from.display()));
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let path = if file.is_empty() { from.to_owned() } else { from.parent().unwrap().join(file) };
    let is_inside = path.components().fold(0_i32, |depth, part| match part {
        Component::ParentDir => depth - 1,
        _ => depth + 1,
    }) > i32::try_from(top().components().count()).unwrap();
    if !is_inside || !path.is_file() {
        return problem("there is no such file");
    }
    match anchor {
        Some(anchor) if !anchors(&fs::read_to_string(&path).unwrap()).contains(anchor) => {
            problem("there is no such heading")
        }
        _ => Ok(()),
    }
}

/// Command lines of host-builder in blocks of sh, each on one line, without comments, pipes and redirections.
fn commands(page: &str) -> Vec<String> {
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
fn words(line: &str) -> Vec<String> {
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

/// The rooms of the architecture are the folders and files that there are, and every place of the two flows is there.
#[test]
fn the_architecture_names_the_rooms_that_are_there() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let text = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    for krate in ["guest-init", "host-builder"] {
        let src = root.join(krate).join("src");
        let (_, section) = text.split_once(&format!("| {krate}/src | content |\n|---|---|\n")).unwrap();
        let rows = section.lines().take_while(|line| line.starts_with('|'));
        let named: BTreeSet<String> =
            rows.map(|row| row.split('`').nth(1).unwrap().trim_end_matches('/').to_owned()).collect();
        let entries =
            fs::read_dir(&src).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> = entries.map(|name| name.trim_end_matches(".rs").to_owned()).collect();
        let ours: BTreeSet<String> = there
            .into_iter()
            .filter(|name| !["main", "lib", "own_process"].contains(&name.as_str()))
            .collect();
        assert_eq!(named, ours, "{krate}");
    }
    let mut krate = "";
    let mut checked = 0;
    for line in text.lines() {
        match line.trim() {
            "host-builder" => krate = "host-builder",
            "guest-init" => krate = "guest-init",
            _ => {}
        }
        let Some(place) = line.trim().trim_start_matches(['├', '└', '─', '►', ' ']).split_whitespace().next()
        else {
            continue;
        };
        let place = place.trim_end_matches(',');
        if !line.starts_with("   ") || !place.contains('/') || !place.is_ascii() {
            continue;
        }
        let path = match place.strip_prefix("image/") {
            Some(rest) => root.join("image/src").join(rest),
            None => root.join(krate).join("src").join(place),
        };
        assert!(path.is_dir() || path.with_extension("rs").is_file(), "{line}");
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}
