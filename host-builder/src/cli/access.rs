//! Where artifacts may come from: options that several commands have.

use crate::cache::Cache;
use crate::source::Access;
use crate::ui::Ui;
use clap::Args;
use std::path::PathBuf;

/// Where artifacts may come from.
#[derive(Debug, Clone, Default, Args)]
pub struct AccessArgs {
    /// Open no socket: everything is in the cache or in the mirror, or it is an error.
    #[arg(long)]
    pub offline: bool,
    /// Directory that `pins vendor` filled: artifacts are taken from there before anything is asked for over the network.
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<PathBuf>,
}

impl AccessArgs {
    /// What sources get.
    pub fn of<'a>(&'a self, cache: &'a Cache, ui: &'a Ui) -> Access<'a> {
        Access { cache, ui, offline: self.offline, mirror: self.mirror.as_deref() }
    }
}
