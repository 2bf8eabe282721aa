//! PID 1.

fn main() {
    std::process::exit(guest_init::cli::run(std::env::args_os().skip(1)));
}
