//! host-builder: parses the command line, runs the command, turns its error into text and an exit
//! code.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use host_builder::cli::{self, Cli, Command};
use host_builder::common::{interrupt, ui};
use std::process::ExitCode;

/// Parses the command line. Prints the error and exits if it is invalid.
fn parsed() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        // Nobody can be told that it cannot be said.
        let _ = error.print();
        if error.kind() == ErrorKind::MissingRequiredArgument
            && let Some(example) = cli::example(std::env::args_os().skip(1))
        {
            ui::say(&format!("  for example: {example}"));
        }
        // Low numbers are those of the guest's program.
        let wrong = match std::env::args_os().nth(1).as_deref().and_then(|command| command.to_str()) {
            Some("boot") => cli::boot::NOT_STARTED.into(),
            Some("exec") => cli::exec::NOT_RUN.into(),
            _ => 2,
        };
        std::process::exit(if error.use_stderr() { wrong } else { 0 })
    })
}

/// Whether an interrupted command can leave files behind.
fn makes_something(command: &Command) -> bool {
    matches!(
        command,
        Command::BuildInitrd(_)
            | Command::BuildModules(_)
            | Command::Boot(_)
            | Command::Cp(_)
            | Command::Extract(_)
            | Command::Pins(_)
            | Command::Verify(_)
    )
}

fn main() -> ExitCode {
    let command = parsed().command;
    let is_exec = matches!(command, Command::Exec(_));
    // `exec` passes signals on.
    if !is_exec {
        interrupt::install();
    }
    if !makes_something(&command) {
        interrupt::makes_nothing();
    }
    let result = match command {
        Command::BuildInitrd(args) => cli::build_initrd::run(&args).map(|()| ExitCode::SUCCESS),
        Command::BuildModules(args) => cli::build_modules::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Boot(args) => Ok(cli::boot::run(&args)),
        Command::Inspect(args) => cli::inspect::run(&args),
        Command::List(args) => cli::list::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Cat(args) => cli::cat::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Extract(args) => cli::extract::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Examine(args) => cli::examine::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Diff(args) => cli::diff::run(&args),
        Command::Verify(args) => cli::verify::run(&args),
        Command::Sbom(args) => cli::sbom::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Doctor(args) => cli::doctor::run(&args),
        Command::Pins(args) => cli::pins::run(&args),
        Command::Status(args) => cli::status::run(&args),
        Command::Explain(args) => cli::explain::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Events(args) => cli::events::run(&args),
        Command::Logs(args) => cli::logs::run(&args),
        Command::Stop(args) => cli::stop::run(&args),
        Command::Exec(args) => cli::exec::run(&args),
        Command::Cp(args) => cli::cp::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Metrics(args) => cli::metrics::run(&args),
        Command::Man(args) => cli::man::pages(&args, Cli::command()).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => {
            cli::man::completions(&args, Cli::command());
            Ok(ExitCode::SUCCESS)
        }
    };
    result.and_then(|code| ui::finish().map(|()| code)).unwrap_or_else(|error| {
        ui::say(&format!("error: {}", error.chain()));
        if let Some(remedy) = error.remedy() {
            ui::say(&format!("  what to do: {remedy}"));
        }
        ExitCode::from(if is_exec { cli::exec::NOT_RUN } else { 2 })
    })
}
