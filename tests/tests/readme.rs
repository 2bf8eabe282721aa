//! The README against the code: every key, every finding and every option that it documents is one that exists, and
//! none is left out.

use clap::CommandFactory as _;
use host_builder::cli::Cli;
use image::config::{JSON_KEYS, KEYS};
use image::status::finding::CODES;
use std::collections::BTreeSet;

const README: &str = include_str!("../../README.md");

/// First cells of the table below a heading, without backticks.
fn table(heading: &str) -> Vec<Vec<String>> {
    let section = README.split_once(heading).unwrap_or_else(|| panic!("the README has no {heading:?}")).1;
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
    assert_eq!(table("### Kernel command line"), expected);
}

#[test]
fn every_config_key_is_documented_as_it_is() {
    let expected: Vec<_> = JSON_KEYS
        .iter()
        .map(|key| vec![format!("`{}`", key.name), key.expects.to_owned(), key.help.to_owned()])
        .collect();
    assert_eq!(table("### Config disk"), expected);
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
    let (cves, others) = (table("What was found in NVIDIA's"), table("What was found elsewhere"));
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
    assert_eq!(table("### Findings"), expected);
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
        for (_, anchor) in
            row.remedy.match_indices("](#").map(|(at, mark)| row.remedy.split_at(at + mark.len()))
        {
            let heading = anchor.split_once(')').unwrap().0.replace('-', " ");
            let is_it = |line: &str| line.trim_start_matches('#').trim().to_lowercase() == heading;
            assert!(README.lines().any(|line| line.starts_with('#') && is_it(line)), "{heading}: {row:?}");
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
    assert_eq!(table("## Before the boot"), expected);
}

#[test]
fn a_finding_links_to_its_row() {
    let link = image::status::Code::NoGpu.link();
    let anchor = link.strip_prefix("README.md#").unwrap();
    assert!(README.contains(&format!("<a id=\"{anchor}\"></a>")), "{link}");
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
    assert_eq!(table("### Monitoring"), expected);
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
    let section = README.split_once("### The protocol").unwrap().1;
    let ours = section.split_once("```rust\n").unwrap().1.split_once("\n```").unwrap().0;
    let mut ours: Vec<_> = ours.lines().collect();
    ours.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ours, expected);
    assert!(README.contains(&format!("version, little-endian: {}.", image::wire::VERSION)));
}

#[test]
fn every_option_of_build_initrd_is_documented() {
    let cells: String = table("## Building an image").into_iter().map(|row| row[0].clone() + " ").collect();
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
    for command in Cli::command().get_subcommands() {
        assert!(
            README.contains(&format!("`{}", command.get_name()))
                || README.contains(&format!("host-builder {}", command.get_name())),
            "{}",
            command.get_name()
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
    let ours: Vec<_> = README.lines().filter(|line| line.starts_with("| CVE-")).collect();
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
    let ours = table("### Pins").into_iter().map(|row| [&row[..1], &row[3..]].concat());
    assert_eq!(ours.collect::<Vec<_>>(), expected);
}
