//! `man` and `completions`: from the very definitions that `--help` shows.

use crate::cli::{Cli, Completions, Man};
use crate::error::{Doing, Result};
use clap::CommandFactory;
use std::fs;

/// Writes one page for each command.
pub fn pages(args: &Man) -> Result<()> {
    fs::create_dir_all(&args.dir).doing("making", &args.dir)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).doing("writing pages into", &args.dir)
}

/// Prints the completions of a shell.
pub fn completions(args: &Completions) {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "host-builder", &mut out);
    crate::ui::print_bytes(&out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_and_each_names_every_option() {
        let dir = tempfile::tempdir().unwrap();
        pages(&Man { dir: dir.path().join("man1") }).unwrap();
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
        *checked += 1;
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            check(inner, &format!("{name}-{}", inner.get_name()), dir, checked);
        }
    }

    #[test]
    fn completions_know_every_command() {
        let mut out = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, &mut Cli::command(), "host-builder", &mut out);
        let text = String::from_utf8(out).unwrap();
        for command in Cli::command().get_subcommands() {
            assert!(text.contains(command.get_name()), "{}", command.get_name());
        }
    }
}
