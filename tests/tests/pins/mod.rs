//! `pins` and non-package artifacts: a release page served here, in the layout of the one that the
//! built-in profile names, made from the real packages; installers and RPM packages made by the
//! real programs; a mirror, with the network gone.

mod boot;
mod formats;
mod given;
mod modules;
mod offline;
mod place;
mod release;
mod server;
mod sources;
mod tls;
mod update;
