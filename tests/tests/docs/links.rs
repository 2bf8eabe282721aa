//! What the documentation names and links to exists: files, headings, commands, options, tests and
//! rooms.

use super::markdown::{anchors, commands, links, table, words};
use super::{pages, templates, top};
use clap::{CommandFactory as _, Parser as _};
use host_builder::cli::Cli;
use image::config::KEYS;
use image::status::finding::CODES;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path};

const README: &str = include_str!("../../../README.md");
const SECURITY: &str = include_str!("../../../docs/security.md");

/// Each class of attack in the security model names its test.
#[test]
fn every_class_of_attack_names_an_existing_test() {
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

/// A remedy names only options, keys, commands and links that exist.
#[test]
fn remedies_name_existing_options_keys_and_commands() {
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
fn every_command_is_documented_and_has_help() {
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

#[test]
fn readme_is_short_and_has_the_quick_start() {
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
fn every_host_builder_command_in_the_docs_parses() {
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

/// The rooms of the architecture are the folders and files of the sources, and each place in the
/// two flows exists.
#[test]
fn architecture_lists_exactly_the_existing_rooms() {
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
