//! `GET /metrics` over HTTP: one request per connection, a deadline for every step, a limited
//! number of connections.

use crate::common::error::{Error, Result};
use crate::common::ui;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Most open connections. More are closed at once.
const MAX_CONNECTIONS: usize = 16;
/// Largest head of a request.
const MAX_HEAD: usize = 8 << 10;
/// Most header fields of a request.
const MAX_FIELDS: usize = 64;
/// Longest time for the head of the request, and for the reply.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest rest of a request that is read before the connection is closed, so that the reply is not
/// lost.
const MAX_REST: usize = 64 << 10;
const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Listens on `HOST:PORT`, or on `PORT` of the loopback address.
pub fn bind(address: &str) -> Result<TcpListener> {
    let listener = match address.parse::<u16>() {
        Ok(port) => TcpListener::bind(("127.0.0.1", port)),
        Err(_) => TcpListener::bind(address),
    };
    listener.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "stop the program that listens there, or choose another port",
            io::ErrorKind::PermissionDenied => "choose a port above 1023",
            io::ErrorKind::AddrNotAvailable => "choose an address of this machine, or 127.0.0.1",
            _ => "use HOST:PORT, such as 127.0.0.1:9400 or [::]:9400, or a port",
        };
        Error::new(format!("could not listen on {address}")).hint(hint).source(error)
    })
}

/// Serves requests until the program ends. `page` creates the text for each request.
pub fn serve(listener: &TcpListener, page: impl Fn() -> String + Send + Sync + 'static) -> ! {
    let page = Arc::new(page);
    let active = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors, say: let others finish first.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let slot = Slot(active.clone());
        if active.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            continue;
        }
        let page = page.clone();
        let spawned = std::thread::Builder::new().spawn(move || {
            let _slot = slot;
            // A client that has disconnected needs no answer.
            let _ = answer(&stream, &*page);
        });
        if let Err(error) = spawned {
            ui::say(&format!("warning: cannot start a thread for a connection: {error}"));
        }
    }
}

/// A counted connection, released on drop.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn answer(stream: &TcpStream, page: &dyn Fn() -> String) -> io::Result<()> {
    let (status, body, is_head) = match wanted(stream, Instant::now() + PATIENCE)? {
        Wanted::Page { is_head } => ("200 OK", page(), is_head),
        Wanted::Nothing(status) => (status, format!("{status}; get the metrics from /metrics\n"), false),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let body = if is_head { "" } else { &body };
    send(stream, (head + body).as_bytes(), Instant::now() + PATIENCE)?;
    // A socket that is closed with something unread would take the reply with it.
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    io::copy(&mut stream.take(MAX_REST as u64), &mut io::sink()).map(drop)
}

enum Wanted {
    Page { is_head: bool },
    Nothing(&'static str),
}

/// Reads the head of a request. On an error there is no client to answer.
fn wanted(mut stream: &TcpStream, deadline: Instant) -> io::Result<Wanted> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(&head) {
            Err(httparse::Error::TooManyHeaders) => {
                return Ok(Wanted::Nothing("431 Request Header Fields Too Large"));
            }
            Err(_) => return Ok(Wanted::Nothing("400 Bad Request")),
            Ok(httparse::Status::Complete(_)) => return Ok(route(&request)),
            Ok(httparse::Status::Partial) if head.len() >= MAX_HEAD => {
                return Ok(Wanted::Nothing("431 Request Header Fields Too Large"));
            }
            Ok(httparse::Status::Partial) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Wanted::Nothing("408 Request Timeout"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => head.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}

fn route(request: &httparse::Request<'_, '_>) -> Wanted {
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    match (request.method, path) {
        (Some("GET"), "/metrics") => Wanted::Page { is_head: false },
        (Some("HEAD"), "/metrics") => Wanted::Page { is_head: true },
        (_, "/metrics") => Wanted::Nothing("405 Method Not Allowed"),
        _ => Wanted::Nothing("404 Not Found"),
    }
}

/// Writes everything with one deadline.
fn send(mut stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
