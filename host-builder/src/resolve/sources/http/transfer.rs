//! One download, into a file that survives an interrupt: resumed where it ended, and retried if
//! that can help.

use super::client::{Client, Failure, Patience, header, receive};
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::read_json;
use crate::common::digest::{sha256, sha256_file};
use crate::common::error::{Doing, Error, Result};
use crate::common::files::write_atomically;
use crate::common::ui::megabytes;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Body;
use ureq::http::{Response, StatusCode};

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Most interruptions in total, even if each try makes progress.
const MAX_INTERRUPTIONS: u32 = 50;

/// What is known about a file before its download.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Its size.
    pub size: Option<u64>,
    /// Its digest.
    pub sha256: Option<&'a str>,
    /// Most bytes that it may have.
    pub limit: u64,
}

/// A complete download.
#[derive(Debug)]
pub struct Got {
    /// Its temporary path; the caller moves the file away.
    pub path: PathBuf,
    /// Its size.
    pub size: u64,
    /// Its digest.
    pub sha256: String,
    /// The server's name for this version of the file (ETag or date).
    pub validator: Option<String>,
    _lock: File,
}

/// Identifies the file that a partial download belongs to.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    url: String,
    validator: Option<String>,
}

/// A download in progress.
struct Partial<'a> {
    url: &'a str,
    path: PathBuf,
    file: File,
    have: u64,
    origin: Origin,
    bar: &'a ProgressBar,
}

/// Downloads one file.
pub fn download(
    client: &Client,
    patience: Patience,
    cache: &Cache,
    url: &str,
    expected: Expected,
    bar: &ProgressBar,
) -> Result<Got> {
    let key = &sha256(url.as_bytes())[..32];
    let lock = cache.lock(&format!("partial-{key}"))?;
    let mut partial = Partial::open(cache.room("partial")?.join(key), url, expected, bar)?;
    loop {
        let resumed = partial.have > 0;
        partial.complete(client, patience, expected)?;
        let found = sha256_file(&partial.path)?;
        if expected.sha256.is_none_or(|digest| digest == found) {
            let Partial { path, have, origin, .. } = partial;
            let _ = fs::remove_file(origin_of(&path));
            return Ok(Got { path, size: have, sha256: found, validator: origin.validator, _lock: lock });
        }
        // The old part may belong to another version of the file.
        if resumed {
            partial.restart()?;
            continue;
        }
        fs::remove_file(&partial.path).doing("removing", &partial.path)?;
        return Err(Error::new(format!("{url}: expected sha256 {}, found {found}", expected.sha256.unwrap_or_default()))
            .hint("the publisher has replaced the file, or it is not the publisher's: compare with the publisher, then resolve again: pins resolve"));
    }
}

fn origin_of(path: &Path) -> PathBuf {
    path.with_extension("json")
}

impl<'a> Partial<'a> {
    fn open(path: PathBuf, url: &'a str, expected: Expected, bar: &'a ProgressBar) -> Result<Self> {
        let origin: Origin = read_json(&origin_of(&path)).unwrap_or_default();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .doing("opening", &path)?;
        let have = file.metadata().doing("reading", &path)?.len();
        let mut partial = Self { url, path, file, have, origin, bar };
        // If the server does not identify its version, only a digest shows whether the parts belong
        // together.
        let same =
            partial.origin.url == url && (partial.origin.validator.is_some() || expected.sha256.is_some());
        if !same || partial.have > expected.size.unwrap_or(expected.limit) {
            partial.restart()?;
        }
        bar.inc(partial.have);
        Ok(partial)
    }

    fn restart(&mut self) -> Result<()> {
        self.bar.dec(self.have.min(self.bar.position()));
        self.file.set_len(0).doing("truncating", &self.path)?;
        self.file.rewind().doing("truncating", &self.path)?;
        self.have = 0;
        self.origin = Origin::default();
        Ok(())
    }

    /// Downloads until the file is complete.
    fn complete(&mut self, client: &Client, patience: Patience, expected: Expected) -> Result<()> {
        let (mut in_vain, mut interruptions) = (0, 0);
        while expected.size.is_none_or(|size| self.have < size) {
            let before = self.have;
            let failure = match self.go_on(client, patience, expected) {
                Ok(()) => return self.file.sync_all().doing("writing", &self.path),
                Err(failure) => failure,
            };
            in_vain = if self.have.saturating_sub(before) >= patience.least() { 1 } else { in_vain + 1 };
            interruptions += 1;
            let Failure::Transient(why, asked) = failure else { return Err(failure.give_up(self.url, 1)) };
            if in_vain >= patience.tries || interruptions >= MAX_INTERRUPTIONS {
                return Err(Failure::Transient(why, None).give_up(self.url, interruptions));
            }
            let pause = patience.pause.saturating_mul(1 << (in_vain - 1).min(16)).min(MAX_PAUSE);
            std::thread::sleep(asked.unwrap_or(pause));
        }
        Ok(())
    }

    /// Makes one request, from the current position to the end.
    fn go_on(
        &mut self,
        client: &Client,
        patience: Patience,
        expected: Expected,
    ) -> std::result::Result<(), Failure> {
        let mut headers = Vec::new();
        if self.have > 0 {
            headers.push(("Range", format!("bytes={}-", self.have)));
            headers.extend(self.origin.validator.clone().map(|validator| ("If-Range", validator)));
        }
        let mut response = client.get(self.url, &headers)?;
        if !self.goes_on(&response) {
            self.restart().map_err(Failure::Final)?;
            if response.status() != StatusCode::OK {
                return Err(Failure::Transient("the server does not resume the download".into(), None));
            }
        }
        let rest = header(&response, "content-length").and_then(|text| text.parse::<u64>().ok());
        let total = rest.map(|rest| self.have.saturating_add(rest));
        self.check_size(total, expected).map_err(Failure::Final)?;
        self.remember(&response).map_err(Failure::Final)?;
        self.file.seek(SeekFrom::Start(self.have)).doing("writing", &self.path).map_err(Failure::Final)?;
        receive(response.body_mut(), patience, |part| self.take(part, expected))?;
        match total {
            Some(total) if total > self.have => Err(Failure::Transient(
                format!("the connection ended {} early", megabytes(total - self.have)),
                None,
            )),
            _ => Ok(()),
        }
    }

    /// Checks whether the server resumes at the current position; otherwise the download restarts
    /// or fails.
    fn goes_on(&self, response: &Response<Body>) -> bool {
        let range = header(response, "content-range").unwrap_or_default();
        let start = range.strip_prefix("bytes ").and_then(|span| span.split('-').next()?.parse().ok());
        response.status() == StatusCode::PARTIAL_CONTENT && self.have > 0 && start == Some(self.have)
    }

    fn check_size(&self, total: Option<u64>, expected: Expected) -> Result<()> {
        let Some(total) = total else { return Ok(()) };
        if let Some(size) = expected.size.filter(|size| *size != total) {
            return Err(Error::new(format!("{}: expected {size} bytes, the server has {total}", self.url))
                .hint("the publisher has replaced the file: compare with the publisher, then resolve again: pins resolve"));
        }
        if total > expected.limit { Err(self.too_big(expected.limit)) } else { Ok(()) }
    }

    fn too_big(&self, limit: u64) -> Error {
        Error::new(format!("{}: expected at most {}, found more", self.url, megabytes(limit)))
            .hint("this is not the file of the profile: check the address")
    }

    fn remember(&mut self, response: &Response<Body>) -> Result<()> {
        // A weak ETag does not guarantee the same bytes.
        let strong = header(response, "etag").filter(|tag| !tag.starts_with("W/"));
        let validator = strong.or_else(|| header(response, "last-modified"));
        let origin = Origin { url: self.url.to_owned(), validator };
        if origin == self.origin {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&origin).expect("texts are JSON");
        let path = origin_of(&self.path);
        write_atomically(&path, 0o644, |file| file.write_all(&bytes).doing("writing", &path))?;
        self.origin = origin;
        Ok(())
    }

    fn take(&mut self, part: &[u8], expected: Expected) -> std::result::Result<(), Failure> {
        let got = part.len() as u64;
        let most = expected.size.unwrap_or(expected.limit);
        if self.have + got > most {
            return Err(Failure::Final(self.too_big(most)));
        }
        self.file.write_all(part).doing("writing", &self.path).map_err(Failure::Final)?;
        self.have += got;
        self.bar.inc(got);
        Ok(())
    }
}
