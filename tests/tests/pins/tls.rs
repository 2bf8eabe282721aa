//! https: the machine's certificates decide which servers are trusted, and no redirect leads to
//! http.

use std::{
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rig::process::{poll, run};

use super::place::{Place, address};

/// `openssl s_server`: a file in its directory is a whole answer, with its headers.
struct Https {
    server: Child,
    port: u16,
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn openssl(dir: &Path, words: &str) {
    run(Command::new("openssl").current_dir(dir).args(words.split(' '))).unwrap();
}

/// A certificate authority of our own, and a server whose certificate it signed.
fn serve(dir: &Path) -> Https {
    openssl(
        dir,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=rig-authority",
    );
    openssl(
        dir,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out csr.pem -subj /CN=127.0.0.1",
    );
    fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n").unwrap();
    openssl(
        dir,
        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out cert.pem",
    );
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(["s_server", "-quiet", "-HTTP", "-cert", "cert.pem", "-key", "key.pem"]);
    command
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let https = Https { server: command.spawn().unwrap(), port };
    let up = poll(Duration::from_secs(10), || {
        Ok::<_, std::convert::Infallible>(TcpStream::connect(("127.0.0.1", port)).ok())
    });
    up.unwrap().expect("the server listens");
    https
}

/// Resolves with this authority as the machine's only one.
fn resolve(place: &Place, authority: &Path) -> (bool, String) {
    let mut command = place.command(&["pins", "resolve"]);
    let output = command.env("SSL_CERT_FILE", authority).env_remove("SSL_CERT_DIR").output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn https_uses_system_certificates_and_never_downgrades() {
    let dir = tempfile::tempdir().unwrap();
    let https = serve(dir.path());
    let mut place = Place::new();
    let kernel = fs::read(&rig::build::initrd().kernel).unwrap();
    let mut answer = fs::File::create(dir.path().join("vmlinux")).unwrap();
    write!(answer, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", kernel.len())
        .unwrap();
    answer.write_all(&kernel).unwrap();
    let http = format!("{}/onkernel/linux/releases/download/{{kernel}}/vmlinux-{{arch}}", place.server.uri());
    place.edit_profile(&http, &format!("https://127.0.0.1:{}/vmlinux", https.port));

    // Debian's authorities do not know ours.
    let (success, text) = resolve(&place, Path::new("/etc/ssl/certs/ca-certificates.crt"));
    assert!(!success && text.contains("is not trusted") && text.contains("ca-certificates"), "{text}");
    let ours = dir.path().join("ca.pem");
    let (success, text) = resolve(&place, &ours);
    assert!(success, "{text}");

    let to = format!("{}{}", place.server.uri(), address("vmlinux-x86_64"));
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    fs::write(dir.path().join("vmlinux"), redirect).unwrap();
    let before = place.server.requests().iter().filter(|request| request.contains("vmlinux")).count();
    let (success, text) = resolve(&place, &ours);
    assert!(!success && text.contains("without encryption"), "{text}");
    let after = place.server.requests().iter().filter(|request| request.contains("vmlinux")).count();
    assert_eq!(before, after, "the other address was asked");
}
