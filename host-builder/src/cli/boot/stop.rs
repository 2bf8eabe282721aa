//! Stops the guest on the first signal to `boot`: with a request over vsock, or with its power
//! button if it cannot be asked.

use crate::cli::stop::BESIDES;
use crate::common::error::{Error, Result};
use crate::common::interrupt::FirstChance;
use crate::common::ui::say;
use crate::guest_client::{self, QueryError, Target};
use crate::vm::qmp::press_power_button;
use image::config::{Config, STOP_GRACE};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time for a guest to accept a request to stop.
const ASKED: Duration = Duration::from_secs(3);
/// Longest time for QEMU's monitor to answer.
const PRESSED: Duration = Duration::from_secs(3);
/// Time between two attempts to stop a guest that is still booting.
const AGAIN: Duration = Duration::from_secs(1);

/// How to stop the guest; clones refer to the same one.
#[derive(Clone)]
pub struct Stop {
    target: Target,
    /// QEMU's monitor, for this alone, because it serves one client at a time.
    monitor: PathBuf,
    /// Longest time from the power button to the end of the guest.
    longest: Duration,
    /// When the guest is ended. Not set until its power button was pressed: a guest that has
    /// accepted a request ends by itself.
    end: Arc<OnceLock<Instant>>,
}

impl Stop {
    /// For the guest at `target`, with its kernel command line and its monitor's socket.
    pub fn new(target: Target, monitor: PathBuf, cmdline: &str) -> Self {
        let grace = Config::from_cmdline(cmdline).map_or(STOP_GRACE, |config| config.stop_grace);
        Self { target, monitor, longest: grace + BESIDES, end: Arc::default() }
    }

    /// Stops the guest on the first interrupt. The next one ends it at once.
    pub fn on_interrupt(&self) -> FirstChance {
        let stop = self.clone();
        FirstChance::new(move || stop.begin())
    }

    /// Returns the time that the guest has had, once it is over.
    pub fn is_over(&self) -> Option<Duration> {
        self.end.get().is_some_and(|end| Instant::now() >= *end).then_some(self.longest)
    }

    /// Returns whether the guest was told.
    fn begin(&self) -> bool {
        let way = Way::choose(|| self.ask(), || self.press());
        say(&way.message(self.longest));
        let Way::PowerButton(error) = &way else { return matches!(way, Way::Request) };
        let _ = self.end.set(Instant::now() + self.longest);
        if error.is_passing() {
            let stop = self.clone();
            thread::spawn(move || stop.repeat());
        }
        true
    }

    /// A guest that is still booting has neither vsock nor a power button yet: repeats both until
    /// it answers. A repeated request has no effect.
    fn repeat(&self) {
        while self.is_over().is_none() {
            thread::sleep(AGAIN);
            match self.ask() {
                Err(error) if error.is_passing() => _ = self.press(),
                Err(_) => return drop(self.press()),
                Ok(()) => return,
            }
        }
    }

    fn ask(&self) -> std::result::Result<(), QueryError> {
        let deadline = Instant::now() + ASKED;
        guest_client::stop(&self.target, Signal::SIGTERM as i32, None, deadline).map(drop)
    }

    fn press(&self) -> Result<()> {
        press_power_button(&self.monitor, PRESSED)
    }
}

/// How the guest was told to stop.
#[derive(Debug)]
enum Way {
    /// It has accepted a request.
    Request,
    /// With its power button, because the request failed.
    PowerButton(QueryError),
    /// Not at all, because both failed.
    None(QueryError, Error),
}

impl Way {
    fn choose(
        ask: impl FnOnce() -> std::result::Result<(), QueryError>,
        press: impl FnOnce() -> Result<()>,
    ) -> Self {
        match ask() {
            Ok(()) => Self::Request,
            Err(error) => match press() {
                Ok(()) => Self::PowerButton(error),
                Err(other) => Self::None(error, other),
            },
        }
    }

    /// What the user reads.
    fn message(&self, longest: Duration) -> String {
        match self {
            Self::Request => "stopping the guest over vsock; interrupt again to end it at once".into(),
            Self::PowerButton(error) => format!(
                "stopping the guest with its power button, because it cannot be asked over vsock: {}; \
                 it is ended after {} s; interrupt again to end it at once",
                error.chain(),
                longest.as_secs()
            ),
            Self::None(asked, pressed) => {
                format!("the guest cannot be stopped in order: {}; {}", asked.chain(), pressed.chain())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_client::tests::{FakeGuest, after_ok, frame, status_frame};
    use image::status::Outcome;
    use image::wire::Reply;
    use std::io::Write;
    use std::path::Path;

    /// How `boot` stops a guest that answers like this, with a power button or without one.
    fn way(answer: &[u8], button: bool) -> Way {
        let guest = FakeGuest::answering(after_ok(answer));
        let stop = Stop::new(guest.target(), PathBuf::from("/no/such/monitor"), "");
        Way::choose(|| stop.ask(), || if button { Ok(()) } else { stop.press() })
    }

    #[test]
    fn guest_that_accepts_the_request_keeps_its_power_button() {
        let way = way(&status_frame(Outcome::Ready), false);
        assert!(matches!(way, Way::Request), "{way:?}");
        assert!(way.message(BESIDES).contains("over vsock; interrupt again"));
    }

    #[test]
    fn guest_that_refuses_the_request_gets_the_power_button() {
        let refusal = frame(&Reply::Refused("gpu_initrd.control=none".into()));
        let pressed = way(&refusal, true);
        assert!(matches!(&pressed, Way::PowerButton(error) if !error.is_passing()), "{pressed:?}");
        let message = pressed.message(Duration::from_secs(40));
        assert!(message.contains("power button") && message.contains("control=none"), "{message}");
        assert!(message.contains("it is ended after 40 s"), "{message}");
        let none = way(&refusal, false);
        assert!(matches!(none, Way::None(..)), "{none:?}");
        assert!(none.message(BESIDES).contains("/no/such/monitor"), "{}", none.message(BESIDES));
    }

    #[test]
    fn guest_that_is_still_booting_is_asked_until_it_accepts() {
        let (sender, asked) = std::sync::mpsc::channel();
        let guest = FakeGuest::new(move |number, mut stream| {
            sender.send(number).unwrap();
            if number == 1 {
                stream.write_all(&after_ok(&status_frame(Outcome::Pending))).unwrap();
            }
        });
        let stop = Stop::new(guest.target(), PathBuf::from("/no/such/monitor"), "");
        stop.repeat();
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn guest_that_does_not_stop_is_ended_when_its_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::Unix { path: dir.path().join("v.sock"), port: 1042 };
        let stop = Stop::new(target, "/no/such/monitor".into(), "");
        let way = Way::choose(|| stop.ask(), || Ok(()));
        assert!(matches!(&way, Way::PowerButton(error) if error.is_passing()), "{way:?}");
        assert!(!stop.begin() && stop.is_over().is_none(), "neither way works");
        stop.end.set(Instant::now()).unwrap();
        assert_eq!(stop.is_over(), Some(STOP_GRACE + BESIDES));
        stop.repeat();
    }

    #[test]
    fn time_for_the_power_button_includes_the_guests_grace_period() {
        let target: Target = "vsock:5".parse().unwrap();
        let of = |cmdline| Stop::new(target.clone(), Path::new("/m").into(), cmdline).longest;
        assert_eq!(of("gpu_initrd.stop_grace=2s -- sh"), Duration::from_secs(2) + BESIDES);
        assert_eq!(of("quiet"), STOP_GRACE + BESIDES);
    }
}
