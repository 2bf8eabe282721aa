//! Compares the findings that a run of the tests produced in guests with the table of codes:
//! `seen-findings FILE`, a name on each line.

use std::{collections::BTreeSet, process::ExitCode};

use image::status::finding::CODES;

fn main() -> ExitCode {
    let Some(file) = std::env::args_os().nth(1) else {
        eprintln!("usage: seen-findings FILE");
        return ExitCode::from(2);
    };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            return ExitCode::from(2);
        }
    };
    let seen: BTreeSet<_> = text.lines().collect();
    let unseen: Vec<_> =
        CODES.iter().map(|row| row.code.name()).filter(|name| !seen.contains(&**name)).collect();
    if unseen.is_empty() {
        println!("all {} findings were produced in a guest", CODES.len());
        return ExitCode::SUCCESS;
    }
    eprintln!("no test produced these findings in a guest: {}", unseen.join(", "));
    ExitCode::FAILURE
}
