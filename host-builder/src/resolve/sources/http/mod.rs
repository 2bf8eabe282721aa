//! Files on web servers: several downloads in parallel, resumed and retried, with every byte
//! checked.

mod client;
mod transfer;

pub use self::client::{Client, Failure, Patience};

use self::client::header;
use self::transfer::{Expected, download};
use super::source::{Access, Offer, Source, WantedArtifact, check};
use crate::artifacts::tree::{Tree, read_json};
use crate::common::digest::sha256;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::{base_name, write_atomically};
use crate::common::parallel;
use crate::common::ui::Unit;
use crate::pins::artifact::MAX_UNPACKED;
use crate::pins::lock::{Artifact, Digest, SourceKind, is_digest};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use ureq::Body;
use ureq::http::StatusCode;

/// Number of parallel downloads.
const PARALLEL: usize = 4;
/// Most bytes of a file whose size is unknown.
const MAX_FILE: u64 = 16 << 30;
/// Most bytes of a list or an index.
const MAX_TEXT: usize = 32 << 20;

/// Files on web servers.
pub struct Http<'a> {
    access: Access<'a>,
    client: Client,
    patience: Patience,
}

/// A file to resolve.
pub struct RemoteFile<'a> {
    /// The artifact in the profile.
    pub wanted: WantedArtifact<'a>,
    /// Its address.
    pub url: String,
    /// Size, if the publisher states it.
    pub size: Option<u64>,
    /// Digest, if the publisher states it.
    pub sha256: Option<String>,
    /// The source that found it.
    pub kind: SourceKind,
    /// Its version.
    pub version: String,
}

/// What was downloaded from an address when it was last resolved.
#[derive(Serialize, Deserialize)]
struct Known {
    url: String,
    validator: String,
    size: u64,
    sha256: String,
}

impl<'a> Http<'a> {
    /// With the default timeouts.
    pub fn new(access: Access<'a>) -> Result<Self> {
        Self::patient(access, Patience::default())
    }

    /// With the given timeouts.
    pub fn patient(access: Access<'a>, patience: Patience) -> Result<Self> {
        access.online("asking web servers")?;
        Ok(Self { access, client: Client::new(patience), patience })
    }

    /// Fetches a text.
    pub fn text(&self, url: &str) -> Result<String> {
        let mut tries = 0;
        loop {
            tries += 1;
            let failure = match self.client.get(url, &[]) {
                Ok(mut response) => match self.whole(response.body_mut(), url) {
                    Ok(text) => return Ok(text),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let Failure::Transient(why, pause) = failure else { return Err(failure.give_up(url, tries)) };
            if tries >= self.patience.tries {
                return Err(Failure::Transient(why, None).give_up(url, tries));
            }
            std::thread::sleep(pause.unwrap_or(self.patience.pause * 2_u32.pow(tries - 1)));
        }
    }

    fn whole(&self, body: &mut Body, url: &str) -> std::result::Result<String, Failure> {
        let mut bytes = Vec::new();
        client::receive(body, self.patience, |part| {
            bytes.extend_from_slice(part);
            if bytes.len() <= MAX_TEXT {
                return Ok(());
            }
            let what = format!("{url}: expected a list of at most {MAX_TEXT} bytes, found more");
            Err(Failure::Final(Error::new(what).hint("check the address")))
        })?;
        String::from_utf8(bytes).map_err(|_| {
            let what = format!("{url}: expected a text, found other bytes");
            Failure::Final(Error::new(what).hint("check the address in a browser"))
        })
    }

    /// Fetches a file, and returns its entry for the lock: size, digest, and maximum unpacked size.
    pub fn pin(&self, file: &RemoteFile, bar: &ProgressBar) -> Result<Artifact> {
        let (size, sha256) = match self.unchanged(file)? {
            Some(known) => known,
            None => self.first(file, bar)?,
        };
        let declared = file.wanted.artifact.max_unpacked;
        let mut artifact = Artifact {
            name: file.wanted.artifact.name.clone(),
            version: file.version.clone(),
            arch: file.wanted.values.arch.into(),
            source: file.kind,
            url: Some(file.url.clone()),
            suite: String::new(),
            size,
            unpacked: declared,
            sha256,
            digest: if file.sha256.is_some() { Digest::Publisher } else { Digest::Recorded },
            only: file.wanted.artifact.only.clone(),
            sets: Vec::new(),
        };
        let tree = Tree::of(self.access.cache, &artifact)?;
        artifact.unpacked = Some(tree.files.iter().map(|file| file.size).sum::<u64>().min(MAX_UNPACKED));
        Ok(artifact)
    }

    /// The cached file, if the server says that it has not changed.
    fn unchanged(&self, file: &RemoteFile) -> Result<Option<(u64, String)>> {
        if let (Some(size), Some(sha256)) = (file.size, &file.sha256)
            && self.access.cache.has_blob(sha256, size)?
        {
            return Ok(Some((size, sha256.clone())));
        }
        let Ok(known) = read_json::<Known>(&self.known_path(&file.url)?) else { return Ok(None) };
        let wanted = file.sha256.as_ref().is_none_or(|digest| *digest == known.sha256);
        if known.url != file.url || !wanted || !self.access.cache.has_blob(&known.sha256, known.size)? {
            return Ok(None);
        }
        let name = if known.validator.starts_with('"') { "If-None-Match" } else { "If-Modified-Since" };
        match self.client.get(&file.url, &[(name, known.validator)]) {
            Ok(response) if response.status() == StatusCode::NOT_MODIFIED => {
                Ok(Some((known.size, known.sha256)))
            }
            Err(Failure::Final(error)) => Err(error),
            Ok(_) | Err(Failure::Transient(..)) => Ok(None),
        }
    }

    fn first(&self, file: &RemoteFile, bar: &ProgressBar) -> Result<(u64, String)> {
        let expected = Expected { size: file.size, sha256: file.sha256.as_deref(), limit: MAX_FILE };
        let cache = self.access.cache;
        let got = download(&self.client, self.patience, cache, &file.url, expected, bar)?;
        fs::rename(&got.path, cache.blob(&got.sha256)?).doing("moving into the cache", &got.path)?;
        if let Some(validator) = got.validator {
            let known =
                Known { url: file.url.clone(), validator, size: got.size, sha256: got.sha256.clone() };
            let bytes = serde_json::to_vec(&known).expect("texts and numbers are JSON");
            let path = self.known_path(&file.url)?;
            write_atomically(&path, 0o644, |out| out.write_all(&bytes).doing("writing", &path))?;
        }
        Ok((got.size, got.sha256))
    }

    fn known_path(&self, url: &str) -> Result<std::path::PathBuf> {
        Ok(self.access.cache.room("known")?.join(format!("{:.32}.json", sha256(url.as_bytes()))))
    }

    fn file<'w>(&self, wanted: WantedArtifact<'w>) -> Result<RemoteFile<'w>> {
        let url = wanted.url()?;
        let sha256 = match (&wanted.artifact.sha256, &wanted.artifact.checksums) {
            (Some(digest), _) => Some(digest.clone()),
            (None, Some(list)) => {
                let list = wanted.artifact.expand(list, wanted.values)?;
                Some(listed(&self.text(&list)?, &list, &url)?)
            }
            (None, None) => None,
        };
        Ok(RemoteFile {
            url,
            size: None,
            sha256,
            kind: SourceKind::Http,
            version: wanted.version().into(),
            wanted,
        })
    }

    fn get(&self, artifact: &Artifact, bar: &ProgressBar) -> Result<()> {
        let url = artifact.url.as_deref().unwrap_or_default();
        let expected =
            Expected { size: Some(artifact.size), sha256: Some(&artifact.sha256), limit: artifact.size };
        let cache = self.access.cache;
        let got = download(&self.client, self.patience, cache, url, expected, bar)?;
        check(artifact, got.size, &got.sha256)?;
        fs::rename(&got.path, cache.blob(&got.sha256)?).doing("moving into the cache", &got.path)
    }

    fn offer(&self, artifact: &Artifact) -> Result<Offer> {
        let url = artifact.url.as_deref().unwrap_or_default();
        let mut tries = 0;
        let response = loop {
            tries += 1;
            match self.client.head(url) {
                Ok(response) => break response,
                Err(Failure::Transient(_, pause)) if tries < self.patience.tries => {
                    std::thread::sleep(pause.unwrap_or(self.patience.pause * tries));
                }
                // If the network is down, this does not mean that the file is gone.
                Err(failure @ Failure::Transient(..)) => return Err(failure.give_up(url, tries)),
                Err(Failure::Final(error)) => return Ok(Offer::No(error.chain())),
            }
        };
        let size = header(&response, "content-length").and_then(|text| text.parse::<u64>().ok());
        Ok(match size {
            Some(size) if size != artifact.size => {
                Offer::No(format!("{url}: expected {} bytes, the server has {size}", artifact.size))
            }
            _ => Offer::Yes,
        })
    }
}

impl Source for Http<'_> {
    type Query<'w> = Vec<WantedArtifact<'w>>;

    fn resolve(&self, wanted: Vec<WantedArtifact>) -> Result<Vec<Artifact>> {
        let files = wanted.into_iter().map(|wanted| self.file(wanted)).collect::<Result<Vec<_>>>()?;
        self.pin_all(&files)
    }

    fn fetch(&self, artifacts: &[&Artifact]) -> Result<()> {
        let total = artifacts.iter().map(|artifact| artifact.size).sum();
        let label = format!("downloading {} files", artifacts.len());
        let bar = self.access.ui.bar(&label, total, Unit::Bytes);
        let result = parallel::map(artifacts, PARALLEL, |artifact| self.get(artifact, &bar));
        drop(bar);
        result.map(drop)
    }

    fn offers(&self, artifacts: &[&Artifact]) -> Result<Vec<Offer>> {
        parallel::map(artifacts, PARALLEL, |artifact| self.offer(artifact))
    }
}

impl Http<'_> {
    /// Pins files in parallel.
    pub fn pin_all(&self, files: &[RemoteFile]) -> Result<Vec<Artifact>> {
        let total = files.iter().filter_map(|file| file.size).sum();
        let bar = self.access.ui.bar(&format!("resolving {} files", files.len()), total, Unit::Bytes);
        let result = parallel::map(files, PARALLEL, |file| self.pin(file, &bar));
        drop(bar);
        result
    }
}

/// Finds the digest of a file in a list of sha256sum: `HEX  NAME` or `HEX *NAME`, where the name
/// may be a path.
fn listed(text: &str, list: &str, url: &str) -> Result<String> {
    let file = base_name(url);
    let line = text.lines().find_map(|line| {
        let (digest, name) = line.trim().split_once(char::is_whitespace)?;
        let name = name.trim_start().trim_start_matches('*');
        (base_name(name) == file).then(|| digest.to_ascii_lowercase())
    });
    let digest = line.ok_or_else(|| {
        Error::new(format!("{list}: has no digest of {file}")).hint(
            "use another list in the profile (`checksums`), or leave it out: then the digest is recorded",
        )
    })?;
    if is_digest(&digest) {
        return Ok(digest);
    }
    Err(Error::new(format!("{list}: expected a SHA-256 of {file}, found {digest:?}"))
        .hint("use a list of SHA-256 digests"))
}

#[cfg(test)]
mod tests;
