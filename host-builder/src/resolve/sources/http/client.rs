//! HTTP requests: TLS with the machine's own roots, proxies of the environment, deadlines, and which failures are worth
//! another try.

use crate::common::error::Error;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::http::{Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// A connection that takes longer has failed.
const CONNECT: Duration = Duration::from_secs(20);
/// A server that says nothing for so long has stalled.
const STALL: Duration = Duration::from_secs(30);
/// A server that sends fewer bytes than so many a second, through as long a time as it may be silent, has stalled, too.
const LEAST: u64 = 1 << 10;
/// Redirects in a row.
const REDIRECTS: u32 = 8;
/// The longest pause that a server may ask for.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// Makes requests.
pub struct Client {
    agent: Agent,
}

/// Why there is no answer.
pub enum Failure {
    /// Another try may succeed, after this pause where the server asked for one.
    Transient(String, Option<Duration>),
    /// No other try will.
    Final(Error),
}

impl Failure {
    /// As an error of the last try.
    pub fn give_up(self, url: &str, tries: u32) -> Error {
        match self {
            Self::Final(error) => error,
            Self::Transient(why, _) => Error::new(format!("{url}: {why}, tried {tries} times")).hint(
                "check the network and the proxy settings (HTTPS_PROXY, NO_PROXY); what was fetched so far is kept",
            ),
        }
    }
}

/// How long to wait, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a byte.
    pub stall: Duration,
    /// Before the second try; doubled before each further one.
    pub pause: Duration,
    /// Tries in a row that bring nothing, or next to nothing.
    pub tries: u32,
}

impl Patience {
    /// The bytes that must come while a server may be silent.
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

    /// Asks for a file, or for the part of it that the headers name.
    pub fn get(&self, url: &str, headers: &[(&str, String)]) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        // What began with https stays there.
        let https = url.starts_with("https://");
        let result = request.config().https_only(https).build().call();
        self.judge(url, result)
    }

    /// Asks whether a file is there, and of what size.
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

/// Reads a body to its end, in parts, from a server that must not become too slow.
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
                return Err(Failure::Transient(format!("only {came} bytes came in {took:.0} s"), None));
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
            format!("the server says {status}"),
            pause.map(|pause| pause.min(MAX_PAUSE)),
        );
    }
    let error = match code {
        404 | 410 => Error::new(format!("{url}: the server no longer offers it ({status})"))
            .hint("check name and version at its publisher; another one: pins update --driver VERSION, or a profile of your own"),
        401 | 403 | 407 => Error::new(format!("{url}: the server refuses it ({status})"))
            .hint("check the address, and whether a proxy stands in between; files that need a login must be fetched by hand: url = \"./FILE\""),
        _ => Error::new(format!("{url}: expected the file, the server says {status}"))
            .hint("check the address in a browser"),
    };
    Failure::Final(error)
}

fn of_error(url: &str, error: ureq::Error) -> Failure {
    use ureq::Error as E;
    match error {
        E::Timeout(what) => Failure::Transient(format!("no answer in time ({what})"), None),
        E::Io(error)
            if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) =>
        {
            Failure::Final(untrusted(url, &error.to_string()))
        }
        E::Io(error) => Failure::Transient(io_text(&error), None),
        E::ConnectProxyFailed(text) if !text.contains("responded 5") => Failure::Final(
            Error::new(format!("{url}: the proxy of the environment does not open a connection (CONNECT): {text}")).hint(
                "the first of ALL_PROXY, HTTPS_PROXY and HTTP_PROXY is used: check it, and its user and password; many proxies open connections for https:// only; NO_PROXY names hosts to be asked directly",
            ),
        ),
        error @ (E::ConnectionFailed | E::HostNotFound | E::BodyStalled | E::ConnectProxyFailed(_)) => {
            Failure::Transient(error.to_string(), None)
        }
        E::Protocol(error) => Failure::Transient(format!("the connection broke ({error})"), None),
        E::RequireHttpsOnly(_) => Failure::Final(
            Error::new(format!("{url}: redirects from https to an address without encryption")).hint(
                "that is refused: ask its publisher, or give the other address in a profile of your own",
            ),
        ),
        E::TooManyRedirects | E::RedirectFailed => Failure::Final(
            Error::new(format!("{url}: more than {REDIRECTS} redirects, or one that leads nowhere"))
                .hint("open the address in a browser, and put the last one into a profile of your own"),
        ),
        E::Tls(text) => Failure::Final(untrusted(url, text)),
        E::Rustls(error) => Failure::Final(untrusted(url, &error.to_string())),
        error => Failure::Final(
            Error::new(format!("{url}: cannot be asked for"))
                .source(error)
                .hint("check the address in the profile, and the proxy settings of the environment"),
        ),
    }
}

fn untrusted(url: &str, text: &str) -> Error {
    Error::new(format!("{url}: its server is not trusted: {text}")).hint(
        "install the machine's certificates (package ca-certificates), with those of a private authority or proxy among them; or set SSL_CERT_FILE",
    )
}

/// What an I/O error means for a connection.
pub fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "the server has stalled".into(),
        _ => format!("the connection broke ({error})"),
    }
}
