//! The rig's tests are one program: images are made, tools unpacked and container roots prepared
//! once for all of them, and one guest runs per processor at a time.

#![allow(clippy::unwrap_used, reason = "a test, and what helps it, ends where its ground is missing")]

mod asking;
mod booting;
mod build;
mod container;
mod docs;
mod doctor;
mod ending;
mod findings;
mod gpu;
mod gpu_script;
mod hanging;
mod hostile;
mod images;
mod ldconfig;
mod look;
mod modules;
mod old_host;
mod pairs;
mod payload;
mod pins;
mod promises;
mod roots;
mod sessions;
mod siege;
mod stopping;
mod telling;
mod unpack;

#[path = "../../guest-init/tests/oracle/mod.rs"]
mod oracle;
