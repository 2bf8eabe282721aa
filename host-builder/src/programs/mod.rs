//! External programs: roots made of packages, running, confinement.

pub mod process;
pub(crate) mod sandbox;
pub mod toolroot;
pub mod tools;
