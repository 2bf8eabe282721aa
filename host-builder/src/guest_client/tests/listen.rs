//! Guests that push their events: those that do, and others.

use super::*;
use image::event::{Event, Events};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

fn pushed(sequence: u64) -> Vec<u8> {
    let event = Event { sequence, at_ms: 1, what: Happening::Outcome(Outcome::Ready) };
    frame(&Reply::Events(Events { events: vec![event], next: sequence + 1, lost: 0 }))
}

/// What a listener told: the numbers of events, or how a connection ended.
#[derive(Debug, PartialEq)]
enum Told {
    Numbers(Vec<u64>),
    Ended(&'static str),
}

/// A listener in a thread, the socket it listens on, and what it tells.
fn listening() -> (tempfile::TempDir, PathBuf, Receiver<Told>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    // A socket without a listener is replaced.
    let socket = dir.path().join("v.sock_9000");
    drop(UnixListener::bind(&socket).unwrap());
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let sender = std::sync::Mutex::new(sender);
        let address = Address::Unix { path, port: 9000 };
        let _ = listen(&[address], |guest, news| {
            assert!(guest.ends_with("v.sock:9000"), "{guest}");
            let told = match news {
                News::Part(part) => Told::Numbers(part.items.iter().map(|event| event.sequence).collect()),
                News::Ended(error) => Told::Ended(error.name()),
            };
            let _ = sender.lock().unwrap().send(told);
        });
    });
    (dir, socket, receiver)
}

fn connect(socket: &Path) -> UnixStream {
    let deadline = Instant::now() + SOON;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn frames_of_several_guests_come_as_they_are_pushed() {
    let (_dir, socket, told) = listening();
    let (mut one, mut two) = (connect(&socket), connect(&socket));
    let next = || told.recv_timeout(SOON).unwrap();
    one.write_all(&pushed(1)).unwrap();
    assert_eq!(next(), Told::Numbers(vec![1]));
    two.write_all(&pushed(7)).unwrap();
    assert_eq!(next(), Told::Numbers(vec![7]));
    // In pieces, and two in one.
    let both = [pushed(2), pushed(3)].concat();
    let (front, back) = both.split_at(20);
    one.write_all(front).unwrap();
    thread::sleep(Duration::from_millis(50));
    one.write_all(back).unwrap();
    assert_eq!((next(), next()), (Told::Numbers(vec![2]), Told::Numbers(vec![3])));
    drop(one);
    assert_eq!(next(), Told::Ended("closed"));
    two.write_all(&pushed(8)).unwrap();
    assert_eq!(next(), Told::Numbers(vec![8]));
}

#[test]
fn sender_of_other_data_is_cut_off_and_the_others_continue() {
    let (_dir, socket, told) = listening();
    let mut good = connect(&socket);
    let next = || told.recv_timeout(SOON).unwrap();
    let lies = [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not-our-protocol"),
        (b"gpui\x07\0\0\0\xff\xff\xff\xff".to_vec(), "too-large"),
        (b"gpui\x03\0\0\0\x01\0\0\0\0".to_vec(), "other-version"),
        (frame(&Reply::Status(Box::default())), "malformed"),
    ];
    for (bytes, name) in lies {
        let mut stream = connect(&socket);
        stream.write_all(&bytes).unwrap();
        assert_eq!(next(), Told::Ended(name));
        // Its place is taken for a moment more.
        thread::sleep(Duration::from_millis(400));
    }
    good.write_all(&pushed(1)).unwrap();
    assert_eq!(next(), Told::Numbers(vec![1]));
    // The same number again.
    good.write_all(&pushed(1)).unwrap();
    assert_eq!(next(), Told::Ended("malformed"));
}

#[test]
fn a_socket_that_somebody_listens_on_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let held = UnixListener::bind(dir.path().join("v.sock_1")).unwrap();
    let address = Address::Unix { path: dir.path().join("v.sock"), port: 1 };
    let error = listen(&[address], |_, _| {}).unwrap_err();
    assert!(error.to_string().starts_with("could not listen on unix:/"), "{error}");
    assert!(error.remedy().is_some());
    held.set_nonblocking(true).unwrap();
    assert!(dir.path().join("v.sock_1").exists());
}

#[test]
fn guest_with_all_its_slots_in_use_is_refused_until_one_is_free() {
    let (_dir, socket, told) = listening();
    let mut held: Vec<_> = (1..=4).map(|_| connect(&socket)).collect();
    // Each has its place once it was heard.
    for (number, stream) in (1..).zip(&mut held) {
        stream.write_all(&pushed(number)).unwrap();
        assert_eq!(told.recv_timeout(SOON).unwrap(), Told::Numbers(vec![number]));
    }
    let mut fifth = connect(&socket);
    fifth.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(std::io::Read::read(&mut fifth, &mut [0]).unwrap_or(0), 0);
    drop(held);
    let deadline = Instant::now() + SOON;
    loop {
        assert!(Instant::now() < deadline, "no place became free");
        let mut stream = connect(&socket);
        let _ = stream.write_all(&pushed(9));
        let news = told.recv_timeout(Duration::from_millis(300));
        if news == Ok(Told::Numbers(vec![9])) {
            break;
        }
    }
}
