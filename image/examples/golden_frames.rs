//! Writes the golden frames of this protocol version: `cargo run -p image --example golden_frames`.

#[path = "../tests/sample/mod.rs"]
mod sample;

use image::session::MAX_FRAME;
use image::wire::{self, MAX_REPLY, MAX_REQUEST, VERSION};
use std::error::Error;
use std::fs::{File, create_dir_all};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/v{VERSION}"));
    create_dir_all(&dir)?;
    let file = |name: &str| File::create(dir.join(format!("{name}.frame")));
    for (name, request) in sample::requests() {
        wire::write(&mut file(name)?, &request, MAX_REQUEST)?;
    }
    for (name, reply) in sample::replies().into_iter().chain(sample::replies_since_8()) {
        wire::write(&mut file(name)?, &reply, MAX_REPLY)?;
    }
    for (name, message) in sample::to_guest() {
        wire::write(&mut file(name)?, &message, MAX_FRAME)?;
    }
    for (name, message) in sample::to_host() {
        wire::write(&mut file(name)?, &message, MAX_FRAME)?;
    }
    for (name, item) in sample::items() {
        item.write(&mut file(name)?)?;
    }
    println!("{}", dir.display());
    Ok(())
}
