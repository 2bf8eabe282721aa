//! A web server for files on this machine: ranges, ETags, and a list of what was asked for.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

#[derive(Default)]
struct State {
    files: BTreeMap<String, PathBuf>,
    requests: Vec<String>,
    /// The connection ends after this number of bytes of the next answer for a path.
    cut: BTreeMap<String, u64>,
}

/// The server; it answers as long as the test process lives.
pub struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let state = Arc::clone(&server.state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&state);
                // Some tests end the client on purpose.
                thread::spawn(move || drop(answer(&stream, &state)));
            }
        });
        server
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Puts a file at a path, or removes it.
    pub fn offer(&self, path: &str, file: Option<&Path>) {
        let files = &mut self.state.lock().unwrap().files;
        match file {
            Some(file) => drop(files.insert(path.into(), file.to_owned())),
            None => drop(files.remove(path)),
        }
    }

    /// Ends the connection after `bytes` bytes of the next answer for this path.
    pub fn cut(&self, path: &str, bytes: u64) {
        self.state.lock().unwrap().cut.insert(path.into(), bytes);
    }

    /// The requests so far: method, path, range.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

fn answer(stream: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut out = stream;
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let lines: Vec<_> = lines.collect();
    let header = |name: &str| {
        let mut values = lines.iter().filter_map(|line| line.split_once(": "));
        values.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.to_owned()))
    };
    let mut words = lines.first().map_or("", String::as_str).split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let range = header("range");
    let (file, cut) = {
        let mut state = state.lock().unwrap();
        state
            .requests
            .push(format!("{method} {path} {}", range.as_deref().unwrap_or_default()).trim_end().to_owned());
        let cut = if method == "GET" { state.cut.remove(path) } else { None };
        (state.files.get(path).cloned(), cut)
    };
    let Some(mut file) = file.map(File::open).transpose()? else {
        return write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let metadata = file.metadata()?;
    let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
    let (size, etag) = (metadata.len(), format!("\"{}-{}\"", metadata.len(), modified.as_nanos()));
    if header("if-none-match").as_ref() == Some(&etag) {
        return write!(out, "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n");
    }
    let same = header("if-range").is_none_or(|tag| tag == etag);
    let start = range
        .filter(|_| same)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
    match start {
        Some(start) => write!(
            out,
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{size}\r\n",
            size - 1
        )?,
        None => write!(out, "HTTP/1.1 200 OK\r\n")?,
    }
    let start = start.unwrap_or(0);
    write!(out, "Content-Length: {}\r\nETag: {etag}\r\nConnection: close\r\n\r\n", size - start)?;
    if method == "HEAD" {
        return Ok(());
    }
    file.seek(SeekFrom::Start(start))?;
    io::copy(&mut file.take(cut.unwrap_or(u64::MAX)), &mut out).map(drop)
}
