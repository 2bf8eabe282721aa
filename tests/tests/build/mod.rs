//! `build-initrd` on the real packages: what it makes, that the result is reproducible elsewhere,
//! and that bad input is refused with a remedy and leaves nothing behind.

mod archive;
mod bad_input;
mod capabilities;
mod content;
mod full_disk;
mod interrupted;
mod output;
mod payload;
mod reproducible;
mod sandbox;
mod update;
mod whole_driver;
