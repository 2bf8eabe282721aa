//! `man` and `completions`, generated from the definitions that `--help` shows.

use super::explain::Explanation;
use crate::common::error::{Doing, Result};
use clap::Args;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use std::fs;
use std::path::Path;
use std::path::PathBuf;

pub(crate) const MAN_HELP: &str = "\
Examples:
  host-builder man ~/.local/share/man/man1 && man host-builder-status

Exit codes: 0 success, 2 failure.";

pub(crate) const COMPLETIONS_HELP: &str = "\
Examples:
  host-builder completions bash > ~/.local/share/bash-completion/completions/host-builder

Exit codes: 0 success, 2 usage error.";

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Directory for the pages. It is created if it does not exist.
    pub dir: PathBuf,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}

const PROGRAM: &str = "host-builder";

/// Writes one page for each command of `cli`.
pub fn pages(args: &Man, mut cli: Command) -> Result<()> {
    fs::create_dir_all(&args.dir).doing("making", &args.dir)?;
    clap_mangen::generate_to(cli.clone(), &args.dir).doing("writing pages into", &args.dir)?;
    cli.build();
    with_values(&cli, PROGRAM, &args.dir)?;
    let path = args.dir.join(format!("{PROGRAM}-explain.1"));
    let page = fs::read_to_string(&path).doing("reading", &path)?;
    fs::write(&path, page + &findings().render()).doing("writing", &path)
}

/// The section with every finding, for the page of `explain`.
fn findings() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["FINDINGS"]);
    for row in Explanation::all() {
        page.control("SS", [row.code.replace('-', "\\-").as_str()]).text([roman(row.meaning)]);
        page.control("PP", []).text([bold("Usual causes: "), roman(row.causes.join("; "))]);
        page.control("PP", []).text([&[bold("What to do: ")][..], &inlines(row.remedy)].concat());
        for (what, names) in [("Keys: ", row.keys), ("Metrics: ", row.metrics)] {
            if !names.is_empty() {
                page.control("PP", []).text([bold(what), roman(names.join(", "))]);
            }
        }
    }
    page
}

/// Text of Markdown: what is between backticks is bold.
fn inlines(markdown: &str) -> Vec<Inline> {
    let parts = markdown.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(at, part)| if at % 2 == 0 { roman(part) } else { bold(part) }).collect()
}

/// Adds the values of options to the synopsis, which clap_mangen (0.3) leaves out, on the pages of
/// a command and its subcommands.
fn with_values(command: &Command, name: &str, dir: &Path) -> Result<()> {
    let path = dir.join(format!("{name}.1"));
    let page = fs::read_to_string(&path).doing("reading", &path)?;
    let mut lines: Vec<String> = page.lines().map(str::to_owned).collect();
    if let Some(at) = lines.iter().position(|line| line == ".SH SYNOPSIS")
        && let Some(line) = lines.get_mut(at + 1)
    {
        for option in command.get_arguments().filter(|option| option.get_action().takes_values()) {
            let Some(long) = option.get_long() else { continue };
            let bare = format!("\\fB\\-\\-{}\\fR", long.replace('-', "\\-"));
            let values = option.get_value_names().unwrap_or_default().iter();
            let values: Vec<_> =
                values.map(|value| format!("\\fI<{}>\\fR", value.replace('-', "\\-"))).collect();
            // A longer option may begin with this one's name: each ends in a bracket.
            for end in ["]", ">", "|"] {
                *line = line.replace(&format!("{bare}{end}"), &format!("{bare} {}{end}", values.join(" ")));
            }
        }
    }
    fs::write(&path, lines.join("\n") + "\n").doing("writing", &path)?;
    let below = command.get_subcommands().filter(|inner| inner.get_name() != "help");
    below.into_iter().try_for_each(|inner| with_values(inner, &format!("{name}-{}", inner.get_name()), dir))
}

/// Prints the completion script of a shell for `cli`.
pub fn completions(args: &Completions, cli: Command) {
    crate::common::ui::print_bytes(script(args.shell, cli).as_bytes());
}

fn script(shell: Shell, mut cli: Command) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut cli, PROGRAM, &mut out);
    let out = String::from_utf8_lossy(&out);
    if shell == Shell::Bash { with_right_labels(&out) } else { out.into_owned() }
}

/// clap_complete (4.6.11 is the newest) follows the words to `host__builder__subcmd__logs` and
/// labels that case `host__subcmd__builder__subcmd__logs`, because it mistakes the hyphen in the
/// program's name for one between commands. Without a correction nothing is completed after a
/// command. This function changes the labels to the name that the words lead to. It changes nothing
/// once clap_complete writes both the same.
fn with_right_labels(script: &str) -> String {
    script.replace(&PROGRAM.replace('-', "__subcmd__"), &PROGRAM.replace('-', "__"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;
    use std::process;

    #[test]
    fn there_is_a_page_for_each_command_and_each_names_every_option() {
        let dir = tempfile::tempdir().unwrap();
        pages(&Man { dir: dir.path().join("man1") }, Cli::command()).unwrap();
        let mut cli = Cli::command();
        cli.build();
        let mut checked = 0;
        check(&cli, "host-builder", &dir.path().join("man1"), &mut checked);
        assert!(checked > 20, "{checked}");
    }

    fn check(command: &clap::Command, name: &str, dir: &std::path::Path, checked: &mut usize) {
        let page = fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
        // As roff writes hyphens and apostrophes.
        let page = page.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\(aq", "'");
        let about = command.get_about().unwrap().to_string();
        assert!(page.contains(about.lines().next().unwrap().trim_end_matches('.')), "{name}: {about}");
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(page.contains(&format!("--{option}")), "{name}: --{option}");
        }
        let synopsis = page.split_once(".SH SYNOPSIS\n").unwrap().1.lines().next().unwrap().to_owned();
        for option in command.get_arguments().filter(|option| option.get_action().takes_values()) {
            let (Some(long), Some(value)) = (option.get_long(), option.get_value_names()) else { continue };
            let with_value = format!("--{long}\\fR \\fI<{}>", value[0]);
            assert!(synopsis.contains(&with_value), "{name}: {with_value} is not in {synopsis}");
        }
        *checked += 1;
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            check(inner, &format!("{name}-{}", inner.get_name()), dir, checked);
        }
    }

    #[test]
    fn page_of_explain_has_every_finding() {
        let dir = tempfile::tempdir().unwrap();
        pages(&Man { dir: dir.path().into() }, Cli::command()).unwrap();
        let page = fs::read_to_string(dir.path().join("host-builder-explain.1")).unwrap();
        let (_, page) = page.split_once("\n.SH FINDINGS\n").unwrap();
        let page = ["\\fB", "\\fR"].iter().fold(page.to_owned(), |page, font| page.replace(font, ""));
        let page = page.replace("\\-", "-").replace("\\*(Aq", "'");
        let mut rest = page.as_str();
        for row in Explanation::all() {
            let heading = format!(".SS {}\n{}\n", row.code, row.meaning);
            rest = rest.split_once(&heading).unwrap_or_else(|| panic!("{heading}")).1;
            let remedy = row.remedy.replace('`', "");
            assert!(rest.contains(&remedy) && rest.contains(row.causes[0]), "{}: {remedy}", row.code);
        }
    }

    #[test]
    fn completions_know_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = script(shell, Cli::command());
            for command in Cli::command().get_subcommands() {
                assert!(text.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }

    /// What bash itself offers for the last of these words.
    fn offered(words: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("completions");
        let ask = r#"
            COMP_WORDS=("$@")
            COMP_CWORD=$(($# - 1))
            asked=$(complete -p "${1##*/}")
            asked=${asked#*-F }
            "${asked%% *}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" && printf '%s\n' "${COMPREPLY[@]}"
        "#;
        fs::write(&path, script(Shell::Bash, Cli::command()) + ask).unwrap();
        let bash = process::Command::new("bash")
            .args(["--norc", "--noprofile"])
            .arg(&path)
            .args(words)
            .output()
            .unwrap();
        assert!(bash.status.success() && bash.stderr.is_empty(), "{words:?}: {bash:?}");
        String::from_utf8(bash.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_commands_their_options_and_their_values() {
        assert_eq!(offered(&["host-builder", "s"]), ["sbom", "status", "stop"]);
        assert_eq!(offered(&["host-builder", "logs", "--k"]), ["--kernel"]);
        assert_eq!(offered(&["host-builder", "pins", "u"]), ["update"]);
        assert_eq!(offered(&["host-builder", "pins", "update", "--driv"]), ["--driver"]);
        let awaited = offered(&["host-builder", "status", "--wait", ""]);
        assert_eq!(awaited.first().map(String::as_str), Some("ready"), "{awaited:?}");
        assert!(awaited.contains(&"exited".to_owned()) && awaited.contains(&"gpu".to_owned()), "{awaited:?}");
        // By another path than that of $PATH, and after values of options.
        assert_eq!(offered(&["./host-builder", "build-initrd", "--profile", "p", "--dry"]), ["--dry-run"]);
    }

    #[test]
    fn bash_completes_every_option_of_every_command() {
        let mut cli = Cli::command();
        cli.build();
        let mut checked = 0;
        every_option(&cli, &mut vec!["host-builder"], &mut checked);
        assert!(checked > 20, "{checked}");
    }

    fn every_option<'a>(command: &'a clap::Command, words: &mut Vec<&'a str>, checked: &mut usize) {
        let offered = offered(&[words.as_slice(), &["--"]].concat());
        for option in command.get_arguments().filter(|option| !option.is_hide_set()) {
            let Some(long) = option.get_long() else { continue };
            assert!(offered.contains(&format!("--{long}")), "{words:?} --{long}: {offered:?}");
            *checked += 1;
        }
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            words.push(inner.get_name());
            every_option(inner, words, checked);
            words.pop();
        }
    }
}
