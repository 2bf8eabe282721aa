//! Tables and lists of the documentation have exactly the rows and words of the code.

use super::markdown::{check_table, table};
use clap::CommandFactory as _;
use host_builder::cli::Cli;
use image::config::{JSON_KEYS, KEYS};
use image::status::finding::CODES;
use std::collections::BTreeSet;

const BUILDING: &str = include_str!("../../../docs/building.md");
const FINDINGS: &str = include_str!("../../../docs/findings.md");
const PROTOCOL: &str = include_str!("../../../docs/protocol.md");
const SECURITY: &str = include_str!("../../../docs/security.md");
const VERSIONS: &str = include_str!("../../../docs/versions.md");

/// What docs/versions.md promises begins with the versions of today.
#[test]
fn table_of_formats_has_the_versions_of_the_code() {
    use host_builder::{doctor, guest_client, pins::lock};
    use image::{manifest, wire};
    const RECORD: &str = include_str!("../../../guest-init/src/driver_files/copy_record.rs");
    let record = RECORD.split_once("\nconst FORMAT: u32 = ").unwrap().1.split_once(';').unwrap().0;
    let expected = [
        ("Command line", "the release".to_owned()),
        ("Configuration of a guest", "the release".to_owned()),
        ("JSON of `status`", guest_client::SCHEMA.to_string()),
        ("JSON of `doctor`", doctor::SCHEMA.to_string()),
        ("JSON of the other", "the release".to_owned()),
        ("[Metrics]", "the release".to_owned()),
        ("[Protocol]", format!("{}, oldest {}", wire::VERSION, wire::OLDEST)),
        ("[Lock]", lock::FORMAT.to_string()),
        ("Profile", "the release".to_owned()),
        ("Manifest", format!("{}, oldest {}", manifest::FORMAT, manifest::OLDEST_FORMAT)),
        ("Record", record.to_owned()),
    ];
    let rows = table(VERSIONS, "## Formats");
    assert_eq!(rows.len(), expected.len());
    for (row, (format, version)) in rows.iter().zip(expected) {
        assert!(row[0].starts_with(format) && row[2] == version, "expected {format}: {version}: {row:?}");
    }
}

#[test]
fn table_of_kernel_command_line_keys_matches_the_code() {
    let expected: Vec<_> = KEYS
        .iter()
        .map(|key| vec![format!("`{}`", key.name), key.expects.to_owned(), key.help.to_owned()])
        .collect();
    check_table("booting.md", "## Kernel command line", &expected);
}

#[test]
fn table_of_config_keys_matches_the_code() {
    let expected: Vec<_> = JSON_KEYS
        .iter()
        .map(|key| vec![format!("`{}`", key.name), key.expects.to_owned(), key.help.to_owned()])
        .collect();
    check_table("booting.md", "## Config disk", &expected);
}

#[test]
fn table_of_findings_matches_the_code() {
    let expected: Vec<_> = CODES
        .iter()
        .map(|row| {
            let name = row.code.name();
            // What a finding links to.
            let anchor = format!("<a id=\"{name}\"></a>`{name}`");
            vec![anchor, row.meaning.to_owned(), row.remedy.to_owned()]
        })
        .collect();
    check_table("findings.md", "## All findings", &expected);
}

#[test]
fn table_of_doctor_checks_matches_the_code() {
    let expected: Vec<_> = host_builder::doctor::CHECKS
        .iter()
        .map(|(name, meaning)| vec![format!("`{name}`"), (*meaning).to_owned()])
        .collect();
    check_table("booting.md", "## Check a host or a container image first", &expected);
}

#[test]
fn link_of_a_finding_leads_to_its_row() {
    let link = image::status::Code::NoGpu.link();
    let anchor = link.strip_prefix("docs/findings.md#").unwrap();
    assert!(FINDINGS.contains(&format!("<a id=\"{anchor}\"></a>")), "{link}");
}

#[test]
fn table_of_metrics_matches_the_code() {
    let row = |family: &host_builder::guest_client::metrics::Family| {
        let labels: Vec<_> = family.labels.split(", ").filter(|label| !label.is_empty()).collect();
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let name = format!("`{}`", family.name);
        vec![name, family.kind.to_owned(), labels.join(", "), family.help.to_owned()]
    };
    let expected: Vec<_> = host_builder::guest_client::metrics::FAMILIES.iter().map(row).collect();
    check_table("operating.md", "## Monitor guests", &expected);
}

/// The types on the wire, with their fields in order, as the sources define them.
#[test]
fn protocol_types_match_the_code() {
    let sources = [
        include_str!("../../../image/src/wire/message.rs"),
        include_str!("../../../image/src/event.rs"),
        include_str!("../../../image/src/session.rs"),
        include_str!("../../../image/src/status/mod.rs"),
        include_str!("../../../image/src/status/exit.rs"),
        include_str!("../../../image/src/status/phase.rs"),
        include_str!("../../../image/src/status/finding.rs"),
    ];
    let mut expected = Vec::new();
    for source in sources {
        let code = source.split_once("#[cfg(test)]").map_or(source, |(code, _)| code);
        // How bytes are encoded faster, to the same frames.
        let code = code.replace("#[serde(with = \"serde_bytes\")] ", "");
        for (at, _) in code.match_indices("\npub struct ").chain(code.match_indices("\npub enum ")) {
            let item = &code[at + "\npub ".len()..];
            let (head, rest) = item.split_once(" {\n").unwrap();
            let name = head.split_once(' ').unwrap().1;
            // An explanation is not on the wire; the codes have a table of their own.
            if name == "Explanation" {
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
fn table_of_build_initrd_options_matches_the_code() {
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

/// The tests of hostile roots compare their own table with the names of the tests.
#[test]
fn table_of_vulnerabilities_matches_the_tests() {
    const TESTS: &str = include_str!("../../../guest-init/tests/hostile/main.rs");
    let rows: Vec<_> = TESTS.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
    let rows: Vec<_> = rows.into_iter().filter(|row| row.starts_with("| CVE-")).collect();
    assert!(rows.len() > 8, "{rows:?}");
    let ours: Vec<_> = SECURITY.lines().filter(|line| line.starts_with("| CVE-")).collect();
    assert_eq!(ours, rows);
}

/// The table of sources is that of the code: the sources, and what each provides.
#[test]
fn table_of_artifact_sources_matches_the_code() {
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
