//! Entry point: runs PID 1, one of the processes that it starts, or the command line.

use guest_init::boot::{self, handover};
use guest_init::container::exec;
use guest_init::lifecycle::{reap, reserve};
use guest_init::{cli, container};

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|first| first.to_str()) {
        Some(container::STAGE) => std::process::exit(container::run_stage(&args[1..], &reap::REAPER)),
        Some(exec::STAGE) => std::process::exit(exec::run_stage(&args[1..])),
        Some(handover::KEEPER) => std::process::exit(handover::run_keeper(&args[1..])),
        Some(reserve::RESERVE) => std::process::exit(reserve::run(&args[1..])),
        _ if std::process::id() != 1 => std::process::exit(cli::run(args)),
        _ => boot::run(),
    }
}
