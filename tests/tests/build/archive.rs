//! A Debian archive on this machine, over HTTP, with the packages of the rig's cache. Downloads
//! fail on purpose.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use host_builder::common::digest::sha256;
use host_builder::pins::lock::Artifact;

/// The suite that it has.
pub const SUITE: &str = "rig";

/// What is served under a path.
#[derive(Clone)]
enum Content {
    Text(String),
    File(PathBuf),
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Content>,
    requests: Vec<String>,
    /// Requests for this path get no answer.
    held: Option<String>,
}

/// The archive; it answers as long as the test process lives.
pub struct Archive {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Archive {
    /// An archive of these packages.
    pub fn serve(packages: &[(Artifact, PathBuf)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let archive = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        archive.offer(packages);
        let state = Arc::clone(&archive.state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&state);
                // Some tests end the client on purpose.
                thread::spawn(move || drop(answer(&stream, &state)));
            }
        });
        archive
    }

    /// Its address, for a profile.
    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Replaces everything in it.
    pub fn offer(&self, packages: &[(Artifact, PathBuf)]) {
        let mut index = String::new();
        let mut files = BTreeMap::new();
        for (Artifact { name, version, arch, size, sha256, .. }, path) in packages {
            let file = pool(sha256);
            let stanza = format!(
                "Package: {name}\nVersion: {version}\nArchitecture: {arch}\nMaintainer: rig\nDescription: {name}\n\
                 Filename: {}\nSize: {size}\nSHA256: {sha256}\n\n",
                &file[1..]
            );
            index.push_str(&stanza);
            files.insert(file, Content::File(path.clone()));
        }
        let mut release = format!(
            "Origin: rig\nSuite: {SUITE}\nCodename: {SUITE}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n\
             Architectures: amd64\nComponents: main\nSHA256:\n"
        );
        let (digest, size) = (sha256(index.as_bytes()), index.len());
        writeln!(release, " {digest} {size} main/binary-amd64/Packages").unwrap();
        files.insert(format!("/dists/{SUITE}/Release"), Content::Text(release));
        files.insert(format!("/dists/{SUITE}/main/binary-amd64/Packages"), Content::Text(index));
        self.state.lock().unwrap().files = files;
    }

    /// Leaves requests for the package of this digest without an answer, or answers all.
    pub fn hold(&self, sha256: Option<&str>) {
        self.state.lock().unwrap().held = sha256.map(pool);
    }

    /// Whether the package of this digest was asked for.
    pub fn was_asked_for(&self, sha256: &str) -> bool {
        self.state.lock().unwrap().requests.contains(&pool(sha256))
    }
}

fn pool(sha256: &str) -> String {
    format!("/pool/{sha256}.deb")
}

fn answer(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut requests = BufReader::new(stream).lines();
    let mut stream = stream;
    while let Some(first) = requests.next().transpose()? {
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        // The headers, up to the empty line.
        while requests.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        state.lock().unwrap().requests.push(path.clone());
        while state.lock().unwrap().held.as_ref() == Some(&path) {
            thread::sleep(Duration::from_millis(10));
        }
        let content = state.lock().unwrap().files.get(&path).cloned();
        let (status, body) = match content {
            Some(Content::Text(text)) => ("200 OK", text.into_bytes()),
            Some(Content::File(path)) => ("200 OK", fs::read(path)?),
            None => ("404 Not Found", Vec::new()),
        };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(&body)?;
    }
    Ok(())
}
