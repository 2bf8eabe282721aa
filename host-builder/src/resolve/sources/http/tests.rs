use super::*;
use crate::artifacts::cache::Cache;
use crate::common::ui::Ui;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// Answers normally.
    Right,
    /// Ends the connection after N bytes of the body.
    Cuts(usize),
    /// Sends N bytes and then nothing.
    Stalls(usize),
    /// Sends a byte from time to time, so that it is never silent for long.
    Trickles,
    /// Responds with this status.
    Says(u16),
    /// Ignores ranges.
    Whole,
    /// Redirects to another path.
    Leads(&'static str),
    /// Answers ranges with other bytes than requested.
    Lies,
}

#[derive(Default)]
struct State {
    content: Vec<u8>,
    etag: &'static str,
    /// Behaviour for the first requests; later ones are answered normally.
    script: BTreeMap<usize, Does>,
    requests: Vec<String>,
}

struct Server {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start(content: &[u8], script: &[Does]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let state = State {
            content: content.to_vec(),
            etag: "\"one\"",
            script: script.iter().copied().enumerate().collect(),
            requests: vec![],
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || drop(answer(&stream, &state)));
            }
        });
        Self { url, state }
    }

    fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

fn answer(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut out = stream;
    let lines: Vec<_> = BufReader::new(stream)
        .lines()
        .map_while(std::result::Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let header = |name: &str| {
        lines.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let (content, etag, does) = {
        let mut state = state.lock().unwrap();
        let at = state.requests.len();
        let range = header("range").unwrap_or_default();
        let first = lines.first().cloned().unwrap_or_default();
        state.requests.push(format!("{first} {range}").trim_end().to_owned());
        (state.content.clone(), state.etag, state.script.get(&at).copied().unwrap_or(Does::Right))
    };
    if header("if-none-match").as_deref() == Some(etag) {
        return write!(out, "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n");
    }
    let asked: Option<usize> = header("range")
        .filter(|_| header("if-range").is_none_or(|tag| tag == etag) && does != Does::Whole)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match does {
        Does::Says(status) => {
            return write!(out, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        Does::Leads(to) => {
            return write!(
                out,
                "HTTP/1.1 302 X\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        _ => {}
    }
    let start = asked.unwrap_or(0).min(content.len());
    let body = &content[start..];
    let (status, shift) = if asked.is_some() { ("206 Partial", 0) } else { ("200 OK", 0) };
    let told = if does == Does::Lies { start + 1 } else { start + shift };
    write!(
        out,
        "HTTP/1.1 {status}\r\nETag: {etag}\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    )?;
    if asked.is_some() {
        write!(out, "Content-Range: bytes {told}-{}/{}\r\n", content.len() - 1, content.len())?;
    }
    write!(out, "\r\n")?;
    match does {
        Does::Cuts(bytes) => out.write_all(&body[..bytes.min(body.len())]),
        Does::Stalls(bytes) => {
            out.write_all(&body[..bytes.min(body.len())])?;
            std::thread::sleep(Duration::from_secs(4));
            Ok(())
        }
        Does::Trickles => body.chunks(1).try_for_each(|byte| {
            std::thread::sleep(Duration::from_millis(100));
            out.write_all(byte)
        }),
        _ => out.write_all(body),
    }
}

const QUICK: Patience = Patience { stall: Duration::from_secs(1), pause: Duration::from_millis(5), tries: 3 };

struct Place {
    _dir: tempfile::TempDir,
    cache: Cache,
    ui: Ui,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        Self { _dir: dir, cache, ui: Ui::new(true) }
    }

    fn http(&self) -> Http<'_> {
        Http::patient(Access::new(&self.cache, &self.ui), QUICK).unwrap()
    }

    fn download(&self, url: &str, sha256: Option<&str>, size: Option<u64>) -> Result<Vec<u8>> {
        let expected = Expected { size, sha256, limit: 1 << 20 };
        let client = Client::new(QUICK);
        let got = download(&client, QUICK, &self.cache, url, expected, &ProgressBar::hidden())?;
        let bytes = fs::read(&got.path).unwrap();
        fs::remove_file(&got.path).unwrap();
        Ok(bytes)
    }
}

fn content() -> Vec<u8> {
    (0..200_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn download_resumes_where_it_was_cut_off() {
    let server =
        Server::start(&content(), &[Does::Cuts(70_000), Does::Stalls(50_000), Does::Says(503), Does::Right]);
    let place = Place::new();
    assert_eq!(place.download(&server.url, None, None).unwrap(), content());
    let requests = server.requests();
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert!(requests[1].ends_with("bytes=70000-") && requests[3].ends_with("bytes=120000-"), "{requests:?}");
}

#[test]
fn failed_run_leaves_its_part_for_the_next() {
    let server =
        Server::start(&content(), &[Does::Cuts(70_000), Does::Says(500), Does::Says(500), Does::Says(500)]);
    let place = Place::new();
    let error = place.download(&server.url, None, None).unwrap_err();
    assert!(error.to_string().contains("500") && error.to_string().contains("tried"), "{error}");
    assert!(error.remedy().unwrap().contains("completed downloads are kept"));
    assert_eq!(place.download(&server.url, None, None).unwrap(), content());
    assert!(server.requests().last().unwrap().ends_with("bytes=70000-"));
}

#[test]
fn server_with_a_byte_now_and_then_counts_as_stalled() {
    let server = Server::start(&content(), &[Does::Trickles, Does::Trickles, Does::Right]);
    let place = Place::new();
    assert_eq!(place.download(&server.url, None, None).unwrap(), content());
    assert_eq!(server.requests().len(), 3, "{:?}", server.requests());
    let server = Server::start(&content(), &[Does::Trickles; 9]);
    let error = place.download(&server.url, None, None).unwrap_err();
    assert!(error.to_string().contains("bytes in 1 s, tried 3 times"), "{error}");
    // Texts are read in the same way.
    let error = place.http().text(&server.url).unwrap_err();
    assert!(error.to_string().contains("bytes in 1 s, tried 3 times"), "{error}");
}

#[test]
fn file_that_changed_during_a_download_is_fetched_again() {
    let server = Server::start(&content(), &[Does::Cuts(70_000)]);
    let place = Place::new();
    let swap = Arc::clone(&server.state);
    std::thread::spawn(move || {
        while swap.lock().unwrap().requests.is_empty() {
            std::thread::yield_now();
        }
        let mut state = swap.lock().unwrap();
        state.content = b"another".to_vec();
        state.etag = "\"two\"";
    });
    let got = place.download(&server.url, None, None).unwrap();
    assert!(got == b"another" || got == content(), "a mixture of both came");
}

#[test]
fn ignored_or_wrong_ranges_do_no_harm() {
    for bad in [Does::Whole, Does::Lies, Does::Says(416)] {
        let server = Server::start(&content(), &[Does::Cuts(70_000), bad]);
        assert_eq!(Place::new().download(&server.url, None, None).unwrap(), content(), "{bad:?}");
    }
}

#[test]
fn missing_file_is_a_final_error() {
    let server = Server::start(&content(), &[Does::Says(404), Does::Says(403)]);
    let place = Place::new();
    let error = place.download(&server.url, None, None).unwrap_err().to_string();
    assert!(error.contains("no longer offers"), "{error}");
    assert!(place.download(&server.url, None, None).unwrap_err().to_string().contains("refuses"));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn wrong_digest_or_size_is_named_and_nothing_is_kept() {
    let server = Server::start(b"hello", &[]);
    let place = Place::new();
    let digest = "a".repeat(64);
    let error = place.download(&server.url, Some(&digest), None).unwrap_err().to_string();
    assert!(error.contains(&digest) && error.contains("2cf24dba"), "{error}");
    let error = place.download(&server.url, None, Some(6)).unwrap_err().to_string();
    assert!(error.contains("expected 6 bytes, the server has 5"), "{error}");
    assert_eq!(place.download(&server.url, None, Some(5)).unwrap(), b"hello");
}

#[test]
fn part_with_other_bytes_is_discarded_once() {
    let server = Server::start(&content(), &[]);
    let place = Place::new();
    let digest = sha256(&content());
    let room = place.cache.room("partial").unwrap();
    let key = &sha256(server.url.as_bytes())[..32];
    fs::write(room.join(key), "these are other bytes").unwrap();
    fs::write(room.join(format!("{key}.json")), format!("{{\"url\":\"{}\",\"validator\":null}}", server.url))
        .unwrap();
    assert_eq!(place.download(&server.url, Some(&digest), None).unwrap(), content());
}

#[test]
fn redirects_are_followed_and_limited() {
    let server = Server::start(b"hello", &[Does::Leads("/elsewhere")]);
    assert_eq!(Place::new().download(&server.url, None, None).unwrap(), b"hello");
    assert!(server.requests()[1].contains("/elsewhere"));
    let server = Server::start(b"hello", &[Does::Leads("/round"); 40]);
    assert!(Place::new().download(&server.url, None, None).unwrap_err().to_string().contains("redirects"));
}

#[test]
fn file_above_the_limit_is_refused_before_it_is_read() {
    let server = Server::start(&vec![0; 2 << 20], &[]);
    let error = Place::new().download(&server.url, None, None).unwrap_err().to_string();
    assert!(error.contains("expected at most 1.0 MB, found more"), "{error}");
}

#[test]
fn connection_failure_has_a_hint() {
    let error = Place::new().download("http://127.0.0.1:9/x", None, None).unwrap_err();
    assert!(
        error.to_string().contains("127.0.0.1:9") && error.remedy().unwrap().contains("proxy"),
        "{error}"
    );
}

#[test]
fn offline_fails_before_any_request() {
    let place = Place::new();
    let access = Access { offline: true, ..Access::new(&place.cache, &place.ui) };
    assert!(Http::new(access).err().unwrap().to_string().contains("--offline"));
}

#[test]
fn pinned_file_is_fetched_again_only_after_a_change() {
    let server = Server::start(b"hello", &[]);
    let place = Place::new();
    let text = format!("name = \"x\"\nsets = [\"driver\"]\nurl = \"{}\"\n", server.url);
    let artifact: crate::pins::profile::Artifact = toml::from_str(&text).unwrap();
    let values = crate::pins::profile::Values { driver: "1.2", kernel: None, arch: "x86_64" };
    let wanted = WantedArtifact { artifact: &artifact, values };
    for _ in 0..2 {
        let pinned = place.http().resolve(vec![wanted]).unwrap().remove(0);
        assert_eq!((pinned.size, pinned.unpacked, pinned.digest), (5, Some(5), Digest::Recorded));
        assert_eq!(pinned.version, "1.2");
        place.http().offers(&[&pinned]).unwrap();
    }
    let requests = server.requests();
    assert_eq!(requests.iter().filter(|request| request.starts_with("GET")).count(), 2, "{requests:?}");
    let mut known = artifact.clone();
    known.sha256 = Some(sha256(b"hello"));
    let wanted = WantedArtifact { artifact: &known, values };
    assert_eq!(place.http().resolve(vec![wanted]).unwrap()[0].digest, Digest::Publisher);
}

#[test]
fn file_is_offered_while_its_size_is_the_same() {
    let server = Server::start(b"hello", &[Does::Right, Does::Right, Does::Says(404)]);
    let place = Place::new();
    let mut artifact = crate::pins::lock::tests::artifact("x", 'a');
    artifact.url = Some(server.url.clone());
    artifact.size = 5;
    assert_eq!(place.http().offers(&[&artifact]).unwrap(), [Offer::Yes]);
    artifact.size = 6;
    assert!(
        matches!(&place.http().offers(&[&artifact]).unwrap()[0], Offer::No(why) if why.contains("has 5"))
    );
    assert!(
        matches!(&place.http().offers(&[&artifact]).unwrap()[0], Offer::No(why) if why.contains("no longer"))
    );
}

#[test]
fn checksum_lists_of_sha256sum_are_read() {
    let digest = "b".repeat(64);
    for line in [
        format!("{digest}  file.run"),
        format!("{digest} *./dir/file.run"),
        format!("x\n{}  file.run", digest.to_uppercase()),
    ] {
        assert_eq!(listed(&line, "list", "https://x.test/a/file.run").unwrap(), digest);
    }
    assert!(
        listed("", "list", "https://x.test/file.run")
            .unwrap_err()
            .to_string()
            .contains("no digest of file.run")
    );
    assert!(
        listed("abc  file.run", "list", "https://x.test/file.run")
            .unwrap_err()
            .to_string()
            .contains("SHA-256")
    );
}
