//! One request, one reply.

use super::*;
use std::io::{BufRead, BufReader};

#[test]
fn ready_failed_and_pending_arrive_unchanged() {
    for outcome in [Outcome::Ready, Outcome::Failed, Outcome::Pending] {
        let guest = FakeGuest::answering(after_ok(&status_frame(outcome)));
        assert_eq!(guest.ask().unwrap(), a_status(outcome));
    }
}

#[test]
fn the_request_arrives_as_asked() {
    let guest = FakeGuest::new(|_, mut stream| {
        stream.write_all(b"OK 1\n").unwrap();
        let request: Request = wire::read(&mut stream, MAX_REQUEST).unwrap();
        let outcome = if request == Request::Status { Outcome::Ready } else { Outcome::Failed };
        stream.write_all(&status_frame(outcome)).unwrap();
    });
    assert_eq!(guest.ask().unwrap().outcome, Outcome::Ready);
    assert_eq!(wait(&guest.target(), Until::Ready, SOON).unwrap().outcome, Outcome::Failed);
}

#[test]
fn no_socket_and_a_socket_without_anyone_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let target = Target::Unix { path: path.clone(), port: 1042 };
    let error = status(&target, SOON).unwrap_err();
    assert!(matches!(error, QueryError::NoSocket { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(status(&target, SOON), Err(QueryError::NoSocket { .. })));
    let long = Target::Unix { path: "x".repeat(200).into(), port: 1 };
    // Which is known at once.
    let start = Instant::now();
    let error = wait(&long, Until::Ready, LATE).unwrap_err();
    assert!(matches!(error, QueryError::NoSocket { .. }) && error.hint().contains("107"), "{error:?}");
    assert!(start.elapsed() < SOON);
}

#[test]
fn closed_after_connect_is_a_guest_that_does_not_listen() {
    let guest = FakeGuest::new(|_, stream| drop(stream));
    let error = guest.ask().unwrap_err();
    assert!(matches!(error, QueryError::NotListening { port: 1042 }), "{error:?}");
}

#[test]
fn each_defect_of_a_reply_has_its_own_error() {
    let of = |bytes: &[u8]| FakeGuest::answering(bytes.to_vec()).ask().unwrap_err();
    assert!(matches!(of(b"HTTP/1.1 400 Bad Request\r\n\r\n"), QueryError::NotOurProtocol { .. }));
    assert!(matches!(of(&[b'x'; 4096]), QueryError::NotOurProtocol { .. }));
    assert!(matches!(of(&after_ok(b"SSH-2.0-OpenSSH_9.2")), QueryError::NotOurProtocol { .. }));
    assert!(matches!(of(&after_ok(b"gpui\x07\0\0\0\xff\xff\xff\xff")), QueryError::TooLarge { .. }));
    assert!(matches!(of(&after_ok(b"gpui\x09\0\0\0\x01\0\0\0\0")), QueryError::OtherVersion { found: 9 }));
    assert!(matches!(of(&after_ok(b"gpui\x07\0\0\0\x01\0\0\0\x77")), QueryError::Malformed { .. }));
    let refused = of(&after_ok(&frame(&Reply::Refused("\x1b[2Jno".into()))));
    assert!(matches!(&refused, QueryError::Refused { reason } if reason == "no"), "{refused:?}");
}

#[test]
fn a_reply_that_ends_early_is_closed() {
    let guest = FakeGuest::new(|_, mut stream| {
        let _ = stream.write_all(&after_ok(&status_frame(Outcome::Ready)[..40]));
    });
    let error = guest.ask().unwrap_err();
    assert!(matches!(error, QueryError::Closed { step: Step::Reply }), "{error:?}");
}

#[test]
fn a_trickle_ends_at_the_deadline_of_the_whole() {
    for prefix in [&b""[..], b"OK 1\n"] {
        let guest = FakeGuest::new(move |_, mut stream| {
            let reply = if prefix.is_empty() { vec![b'9'; 300] } else { status_frame(Outcome::Ready) };
            let _ = stream.write_all(prefix);
            for byte in reply {
                thread::sleep(Duration::from_millis(200));
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
        let start = Instant::now();
        let error = status(&guest.target(), Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, QueryError::TimedOut { .. }), "{error:?}");
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    }
}

#[test]
fn waiting_outlasts_everything_on_the_way_to_ready() {
    let guest = FakeGuest::new(|number, mut stream| match number {
        0 => drop(stream),
        1 => stream.write_all(&after_ok(&status_frame(Outcome::Pending))).unwrap(),
        _ => {
            stream.write_all(b"OK 1\n").unwrap();
            let request: Request = wire::read(&mut stream, MAX_REQUEST).unwrap();
            assert!(
                matches!(request, Request::Wait { until: Until::Ready, timeout_ms: 1..=19_500 }),
                "{request:?}"
            );
            thread::sleep(Duration::from_millis(100));
            stream.write_all(&status_frame(Outcome::Ready)).unwrap();
        }
    });
    assert_eq!(wait(&guest.target(), Until::Ready, SOON).unwrap().outcome, Outcome::Ready);
}

#[test]
fn waiting_for_a_socket_that_appears_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let target = Target::Unix { path: path.clone(), port: 1042 };
    let guest = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        let listener = UnixListener::bind(path).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        (&stream).write_all(&after_ok(&status_frame(Outcome::Failed))).unwrap();
    });
    assert_eq!(wait(&target, Until::Ready, SOON).unwrap().outcome, Outcome::Failed);
    guest.join().unwrap();
}

#[test]
fn a_wait_that_gives_up_says_what_the_last_attempt_met() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::Unix { path: dir.path().join("v.sock"), port: 1042 };
    let start = Instant::now();
    let error = wait(&target, Until::Ready, Duration::from_millis(500)).unwrap_err();
    assert!(start.elapsed() < SOON);
    let chain = crate::common::error::Error::from(error).chain();
    assert!(chain.starts_with("could not query the guest: gave up after "), "{chain}");
    assert!(chain.contains("no socket: ") && chain.ends_with("(os error 2)"), "{chain}");
    // Pending to the end is an answer, not an error.
    let guest = FakeGuest::answering(after_ok(&status_frame(Outcome::Pending)));
    let status = wait(&guest.target(), Until::Ready, Duration::from_millis(500)).unwrap();
    assert_eq!(status.outcome, Outcome::Pending);
}
