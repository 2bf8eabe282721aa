use super::*;
use std::time::{Duration, Instant};

/// For a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon's and QEMU's ends of a gate that is between them.
struct Scene {
    gate: Gate,
    qemu: UnixStream,
    daemon: UnixStream,
    hybrid: UnixListener,
    uds: PathBuf,
    _dir: tempfile::TempDir,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (front, back, uds, aside) = (at("front"), at("back"), at("uds"), at("aside"));
    let (hybrid, daemon) = (UnixListener::bind(&uds).unwrap(), UnixListener::bind(&back).unwrap());
    let gate = Gate::start(&Paths { front: &front, back: &back, uds: &uds, aside: &aside }).unwrap();
    assert_closed(&uds);
    let qemu = UnixStream::connect(&front).unwrap();
    let daemon = daemon.accept().unwrap().0;
    for stream in [&qemu, &daemon] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    Scene { gate, qemu, daemon, hybrid, uds, _dir: dir }
}

/// A connection to the hybrid socket is closed without a word.
fn assert_closed(uds: &Path) {
    let mut stream = UnixStream::connect(uds).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
}

fn message(kind: u32, payload: &[u8]) -> Message {
    let mut message = Message::request(kind);
    message.bytes[8..12].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    message.bytes.extend_from_slice(payload);
    message
}

impl Scene {
    /// QEMU says this, and the daemon hears it.
    fn say(&self, kind: u32, payload: &[u8]) {
        message(kind, payload).send(&self.qemu).unwrap();
        let heard = Message::receive(&self.daemon).unwrap().unwrap();
        assert_eq!((heard.kind, &heard.bytes[HEADER..]), (kind, payload));
    }

    fn enable(&self, ring: u8) {
        self.say(SET_VRING_ENABLE, &[ring, 0, 0, 0, 1, 0, 0, 0]);
    }

    /// The daemon is asked whether it is done, and answers; QEMU does not hear of it.
    fn done(&self) {
        let question = Message::receive(&self.daemon).unwrap().unwrap();
        assert_eq!((question.kind, question.bytes.len()), (GET_FEATURES, HEADER));
        assert_closed(&self.uds);
        message(GET_FEATURES, &[0; 8]).send(&self.daemon).unwrap();
        self.hybrid.set_nonblocking(true).unwrap();
        let end = Instant::now() + PATIENCE;
        while self.hybrid.accept().is_err() {
            assert!(Instant::now() < end, "the daemon's socket did not come back");
            drop(UnixStream::connect(&self.uds));
        }
    }
}

#[test]
fn the_door_opens_when_the_daemon_has_enabled_both_rings() {
    let scene = scene();
    scene.say(SET_FEATURES, &(PROTOCOL_FEATURES | 1).to_le_bytes());
    scene.say(SET_VRING_KICK, &[0; 8]);
    scene.say(SET_VRING_KICK, &[1, 0, 0, 0, 0, 0, 0, 0]);
    scene.enable(0);
    assert_closed(&scene.uds);
    scene.enable(1);
    scene.done();
    // From now on nothing but the two of them.
    scene.enable(1);
    message(GET_FEATURES, &[7; 8]).send(&scene.daemon).unwrap();
    assert_eq!(Message::receive(&scene.qemu).unwrap().unwrap().bytes[HEADER..], [7; 8]);
    drop(scene.qemu);
    assert!(Message::receive(&scene.daemon).unwrap().is_none());
    assert!(scene.gate.trouble().is_none());
}

#[test]
fn without_protocol_features_the_kicks_start_the_rings() {
    let scene = scene();
    scene.say(SET_FEATURES, &1_u64.to_le_bytes());
    scene.say(SET_VRING_KICK, &[1, 0, 0, 0, 0, 0, 0, 0]);
    scene.say(SET_VRING_KICK, &[0; 8]);
    scene.done();
}

#[test]
fn descriptors_come_along() {
    let scene = scene();
    let (reader, mut writer) = io::pipe().unwrap();
    let with = Message { fds: vec![reader.into()], ..message(SET_VRING_KICK, &[0; 8]) };
    with.send(&scene.qemu).unwrap();
    drop(with);
    let mut heard = Message::receive(&scene.daemon).unwrap().unwrap();
    writer.write_all(b"!").unwrap();
    drop(writer);
    let mut text = String::new();
    std::fs::File::from(heard.fds.pop().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "!");
}

#[test]
fn a_message_too_long_to_be_one_ends_it_and_is_told() {
    let mut scene = scene();
    let mut bytes = Message::request(5).bytes;
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    (&scene.qemu).write_all(&bytes).unwrap();
    assert!(Message::receive(&scene.daemon).unwrap().is_none());
    scene.gate.thread.take().unwrap().join().unwrap();
    assert!(scene.gate.trouble().unwrap().to_string().contains("claims 4294967295 bytes"));
}

#[test]
fn it_ends_with_its_owner_although_nobody_came() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (uds, aside) = (at("uds"), at("aside"));
    let _hybrid = UnixListener::bind(&uds).unwrap();
    drop(Gate::start(&Paths { front: &at("front"), back: &at("back"), uds: &uds, aside: &aside }).unwrap());
    assert!(aside.exists());
}
