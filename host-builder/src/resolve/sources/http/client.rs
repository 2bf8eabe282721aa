//! HTTP requests: TLS with the machine's own roots, the environment's proxies, deadlines, and the
//! decision which failures are worth a retry.

use crate::common::error::Error;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Longest time for a connection.
const CONNECT: Duration = Duration::from_secs(20);
/// Longest silence of a server before it counts as stalled.
const STALL: Duration = Duration::from_secs(30);
/// Minimum average speed in bytes per second, measured over the longest allowed silence. A slower
/// server counts as stalled.
const LEAST: u64 = 1 << 10;
/// Redirects in a row.
const REDIRECTS: u32 = 8;
/// Longest pause that a server may request.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// Makes requests.
pub struct Client {
    agent: Agent,
}

/// Why a request failed.
pub enum Failure {
    /// A retry may succeed, after this pause if the server requested one.
    Transient(String, Option<Duration>),
    /// A retry cannot succeed.
    Final(Error),
}

impl Failure {
    /// The error after the last try.
    pub fn give_up(self, url: &str, tries: u32) -> Error {
        match self {
            Self::Final(error) => error,
            Self::Transient(why, _) => Error::new(format!("{url}: {why}, tried {tries} times")).hint(
                "check the network and the proxy settings (HTTPS_PROXY, NO_PROXY); completed downloads are kept",
            ),
        }
    }
}

/// How long to wait, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest wait for a byte.
    pub stall: Duration,
    /// Pause before the second try; doubled before each further one.
    pub pause: Duration,
    /// Number of consecutive tries that may bring almost nothing.
    pub tries: u32,
}

impl Patience {
    /// The minimum number of bytes within the longest allowed silence.
    pub fn least(&self) -> u64 {
        LEAST * self.stall.as_secs().max(1)
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall: STALL, pause: Duration::from_millis(500), tries: 5 }
    }
}

impl Client {
    /// A client with the machine's roots and the environment's proxies.
    pub fn new(patience: Patience) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(REDIRECTS)
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_recv_response(Some(patience.stall))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            .user_agent(concat!("gpu-initrd/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent() }
    }

    /// Requests a file, or the part that the headers name.
    pub fn get(&self, url: &str, headers: &[(&str, String)]) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        // An https address must not be redirected to http.
        let https = url.starts_with("https://");
        let result = request.config().https_only(https).build().call();
        self.judge(url, result)
    }

    /// Requests whether a file exists, and its size.
    pub fn head(&self, url: &str) -> Result<Response<Body>, Failure> {
        let https = url.starts_with("https://");
        let result = self.agent.head(url).config().https_only(https).build().call();
        self.judge(url, result)
    }

    #[allow(clippy::unused_self)]
    fn judge(
        &self,
        url: &str,
        result: Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, Failure> {
        let response = result.map_err(|error| of_error(url, error))?;
        let status = response.status();
        let useful = matches!(status, StatusCode::NOT_MODIFIED | StatusCode::RANGE_NOT_SATISFIABLE);
        if status.is_success() || useful {
            return Ok(response);
        }
        Err(of_status(url, status, header(&response, "retry-after")))
    }
}

/// Reads a body to its end in parts, unless the server becomes too slow.
pub fn receive(
    body: &mut Body,
    patience: Patience,
    mut part: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut input = body.as_reader();
    let mut buffer = vec![0; 128 << 10];
    let least = patience.least();
    let (mut begin, mut came) = (Instant::now(), 0);
    loop {
        let got = input.read(&mut buffer).map_err(|error| Failure::Transient(io_text(&error), None))?;
        if got == 0 {
            return Ok(());
        }
        part(&buffer[..got])?;
        came += got as u64;
        if begin.elapsed() >= patience.stall {
            if came < least {
                let took = begin.elapsed().as_secs_f64();
                return Err(Failure::Transient(format!("received only {came} bytes in {took:.0} s"), None));
            }
            (begin, came) = (Instant::now(), 0);
        }
    }
}

/// A header as text.
pub fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn of_status(url: &str, status: StatusCode, retry_after: Option<String>) -> Failure {
    let code = status.as_u16();
    if status.is_server_error() || matches!(code, 408 | 425 | 429) {
        let pause = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        return Failure::Transient(
            format!("the server responded with {status}"),
            pause.map(|pause| pause.min(MAX_PAUSE)),
        );
    }
    let error = match code {
        404 | 410 => Error::new(format!("{url}: the server no longer offers it ({status})"))
            .hint("check name and version with the publisher; choose another one: pins update --driver VERSION, or your own profile"),
        401 | 403 | 407 => Error::new(format!("{url}: the server refuses it ({status})"))
            .hint("check the address, and whether there is a proxy in between; download files that need a login yourself, and use url = \"./FILE\""),
        _ => Error::new(format!("{url}: expected the file, the server responded with {status}"))
            .hint("check the address in a browser"),
    };
    Failure::Final(error)
}

fn of_error(url: &str, error: ureq::Error) -> Failure {
    use ureq::Error as E;
    match error {
        E::Timeout(what) => Failure::Transient(format!("the server did not answer in time ({what})"), None),
        E::Io(error)
            if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) =>
        {
            Failure::Final(untrusted(url, &error.to_string()))
        }
        E::Io(error) => Failure::Transient(io_text(&error), None),
        E::ConnectProxyFailed(text) if !text.contains("responded 5") => Failure::Final(
            Error::new(format!("{url}: the proxy of the environment does not open a connection (CONNECT): {text}")).hint(
                "check the proxy, its user and its password (ALL_PROXY, else HTTPS_PROXY, else HTTP_PROXY is used); many proxies open connections for https:// only; NO_PROXY lists hosts to connect to directly",
            ),
        ),
        error @ (E::ConnectionFailed | E::HostNotFound | E::BodyStalled | E::ConnectProxyFailed(_)) => {
            Failure::Transient(error.to_string(), None)
        }
        E::Protocol(error) => Failure::Transient(format!("the connection broke ({error})"), None),
        E::RequireHttpsOnly(_) => Failure::Final(
            Error::new(format!("{url}: redirects from https to an address without encryption")).hint(
                "this is not allowed: ask the publisher, or use the other address in your own profile",
            ),
        ),
        E::TooManyRedirects | E::RedirectFailed => Failure::Final(
            Error::new(format!("{url}: more than {REDIRECTS} redirects, or one without a valid target"))
                .hint("open the address in a browser, and use the final address in your own profile"),
        ),
        E::Tls(text) => Failure::Final(untrusted(url, text)),
        E::Rustls(error) => Failure::Final(untrusted(url, &error.to_string())),
        error => Failure::Final(
            Error::new(format!("{url}: cannot be requested"))
                .source(error)
                .hint("check the address in the profile, and the proxy settings of the environment"),
        ),
    }
}

fn untrusted(url: &str, text: &str) -> Error {
    Error::new(format!("{url}: its server is not trusted: {text}")).hint(
        "install the machine's certificates (package ca-certificates), including those of a private authority or proxy; or set SSL_CERT_FILE",
    )
}

/// The text for an I/O error of a connection.
pub fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "the server has stalled".into(),
        _ => format!("the connection broke ({error})"),
    }
}
