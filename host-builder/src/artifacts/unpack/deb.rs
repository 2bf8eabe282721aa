//! Debian packages: an ar archive with the files in a member `data.tar`, in any compression.

use super::error::damaged;
use super::stream::decompressor;
use super::unpacker::{Unpacker, open};
use crate::common::error::{Error, Result};
use std::path::Path;

impl Unpacker<'_> {
    /// Unpacks the data of a Debian package.
    pub fn deb(&mut self, package: &Path) -> Result<()> {
        let mut archive = ar::Archive::new(open(package)?);
        while let Some(member) = archive.next_entry() {
            let member = member.map_err(|error| damaged(package, error))?;
            let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
            if name.trim_end_matches('/').starts_with("data.tar") {
                return self.tar(decompressor(name.trim_end_matches('/'), member)?, package);
            }
        }
        Err(Error::new(format!(
            "{}: expected a Debian package with a data.tar, found none",
            package.display()
        ))
        .hint("the package is damaged: remove it from the cache and run again"))
    }
}
