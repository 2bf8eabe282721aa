//! The text of metrics, and a server that is given bad requests. An independent parser reads the
//! text in `tests/`.

use super::Collector;
use super::families::{FAMILIES, samples};
use super::serve::{bind, serve};
use super::text::{Labels, Page, label};
use crate::guest_client::tests::{FakeGuest, after_ok, status_frame};
use image::status::{Code, Container, Exit, Finding, Gpu, GpuState, Memory, Outcome, Severity, Status, Xid};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

fn page_of(status: &Status, known: &mut Labels) -> String {
    let mut page = Page::default();
    for sample in samples(status) {
        page.add("vsock:3", known, &sample);
    }
    page.text()
}

#[test]
fn a_status_becomes_series_with_help_and_type_once() {
    let gpu = Gpu {
        bdf: "0000:01:00.0".into(),
        state: GpuState::Ready,
        init_ms: Some(4321),
        xids: vec![Xid { code: 79, count: 2, last_ms: 9 }],
        xids_left_out: 2,
        ..Gpu::default()
    };
    let container = Container {
        pid: 9,
        command: vec![],
        start_ms: 1,
        restarts: 3,
        exit: Some(Exit { code: None, signal: Some(9), oom: true }),
        last_exit: None,
        oom_kills: 1,
        output: vec![],
    };
    let status = Status {
        outcome: Outcome::Ready,
        kernel: "6.12 \"x\" \\ \x1b[2J\n".into(),
        gpus: vec![gpu],
        container: Some(container),
        memory: Some(Memory { total: 1024, available: 512, init: 64 }),
        ..Status::default()
    };
    let text = page_of(&status, &mut Labels::default());
    for line in [
        "gpu_initrd_info{target=\"vsock:3\",driver=\"none\",kernel=\"6.12 \\\"x\\\" \\\\  \",version=\"\"} 1",
        "gpu_initrd_ready{target=\"vsock:3\"} 1",
        "gpu_initrd_gpus{target=\"vsock:3\",state=\"ready\"} 1",
        "gpu_initrd_gpus{target=\"vsock:3\",state=\"lost\"} 0",
        "gpu_initrd_gpu_init_seconds{target=\"vsock:3\",bdf=\"0000:01:00.0\"} 4.321",
        "gpu_initrd_xid_total{target=\"vsock:3\",bdf=\"0000:01:00.0\",xid=\"79\"} 2",
        "gpu_initrd_container_running{target=\"vsock:3\"} 0",
        "gpu_initrd_container_exit_code{target=\"vsock:3\"} 137",
        "gpu_initrd_container_restarts_total{target=\"vsock:3\"} 3",
        "gpu_initrd_memory_bytes{target=\"vsock:3\",kind=\"available\"} 512",
        "gpu_initrd_memory_bytes{target=\"vsock:3\",kind=\"init\"} 64",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    for family in FAMILIES {
        assert!(text.matches(&format!("# TYPE {} ", family.name)).count() <= 1);
    }
    assert!(text.contains("# TYPE gpu_initrd_xid_total counter\n"));
}

#[test]
fn the_number_of_series_is_bounded_in_a_scrape_and_over_many() {
    let mut known = Labels::default();
    let mut series = std::collections::BTreeSet::new();
    for scrape in 0..50_u32 {
        let gpu = |number: u32| Gpu {
            bdf: format!("{scrape} {number} {}", "x".repeat(5000)),
            init_ms: Some(u64::MAX),
            xids: (0..1000)
                .map(|code| Xid { code: code + 1000 * scrape, count: u32::MAX, last_ms: 0 })
                .collect(),
            ..Gpu::default()
        };
        let finding = Finding {
            code: Code::Internal,
            severity: Severity::Error,
            at_ms: 0,
            message: String::new(),
            evidence: vec![],
            hint: String::new(),
            link: String::new(),
        };
        let status = Status {
            kernel: format!("kernel {scrape}"),
            gpus: (0..1000).map(gpu).collect(),
            findings: vec![finding; 10_000],
            ..Status::default()
        };
        let text = page_of(&status, &mut known);
        assert!(text.len() < 200_000, "{}", text.len());
        assert!(text.contains(
            "gpu_initrd_findings{target=\"vsock:3\",code=\"internal\",severity=\"error\"} 10000\n"
        ));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        series.extend(lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()));
    }
    assert!(series.len() < 5000, "{}", series.len());
    assert!(series.iter().any(|name| name.contains("kernel=\"other\"")));
    assert_eq!(label("a\x1b[2J\u{202e}b\n"), "ab ");
}

fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(request);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    String::from_utf8(reply).unwrap()
}

#[test]
fn bad_requests_get_their_answer_and_do_not_end_the_server() {
    let listener = bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(&listener, || "page 1\n".into()));
    let good = b"GET /metrics?x HTTP/1.1\r\nHost: x\r\n\r\n";
    assert!(ask(address, good).starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"));
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"GET /metrics\r\n\r\n", "400"),
        (&[&b"GET /metrics HTTP/1.1\r\nX: "[..], &[b'x'; 9000]].concat(), "431"),
        (&[&b"GET /metrics HTTP/1.1\r\n"[..], &b"X: y\r\n".repeat(100)].concat(), "431"),
    ] {
        let reply = ask(address, request);
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply:?}");
    }
    drop(TcpStream::connect(address).unwrap());
    let head = ask(address, b"HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.contains("Content-Length: 7\r\n") && head.ends_with("\r\n\r\n"), "{head:?}");
    assert!(ask(address, good).ends_with("\r\n\r\npage 1\n"));
}

#[test]
fn silent_clients_take_all_places_for_a_while_only() {
    let listener = bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(&listener, || "page\n".into()));
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let start = std::time::Instant::now();
    while !ask(address, b"GET /metrics HTTP/1.1\r\n\r\n").ends_with("page\n") {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(silent);
}

#[test]
fn an_address_that_is_taken_is_an_error_that_says_what_to_do() {
    let held = bind("127.0.0.1:0").unwrap();
    let error = bind(&held.local_addr().unwrap().port().to_string()).unwrap_err();
    assert!(error.remedy().unwrap().contains("choose another port"), "{error:?}");
    assert!(bind("nonsense").unwrap_err().remedy().unwrap().contains("HOST:PORT"));
}

#[test]
fn a_scrape_has_one_deadline_however_many_guests_are_silent() {
    let silent: Vec<_> = (0..60).map(|_| FakeGuest::silent()).collect();
    let good = FakeGuest::answering(after_ok(&status_frame(Outcome::Ready)));
    let targets: Vec<_> = silent.iter().chain([&good]).map(FakeGuest::target).collect();
    let begin = std::time::Instant::now();
    let scrape = Collector::default().scrape(&targets, Duration::from_millis(600));
    // One after the other they would take more than half a minute.
    assert!(begin.elapsed() < Duration::from_secs(18), "{:?}", begin.elapsed());
    assert_eq!(scrape.down, 60);
    let up = |value: u8| {
        let end = format!("\"}} {value}");
        let is_one = |line: &&str| line.starts_with("gpu_initrd_up{") && line.ends_with(&end);
        scrape.text.lines().filter(is_one).count()
    };
    assert_eq!((up(0), up(1)), (60, 1));
}
