//! What connects the guest with its host: vsock with the status server and the events, and the power button. The program needs none of
//! it, so it comes up in a thread of its own. With one processor its turn is when the boot waits for something else, since the kernel
//! checks a module's signature without a break, but the host must not wait for long.

use crate::kernel::modules;
use crate::lifecycle::power_button;
use crate::locks::Lock;
use crate::vsock::push;
use crate::vsock::server::{self, Guest};
use image::config::Config;
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long the boot may have the only processor for itself.
const TURN: Duration = Duration::from_secs(2);

/// The link to the host; clones refer to the same one.
#[derive(Clone, Default)]
pub struct HostLink(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Whether the boot has had its turn.
    is_its_turn: Lock<bool>,
    changed: Condvar,
    /// Set once it has begun to come up.
    begun: OnceLock<()>,
    /// Set once it is up: the socket of the status server. `None`: this guest has no vsock.
    listener: OnceLock<Option<RawFd>>,
}

impl HostLink {
    /// Begins to load the modules, and then to answer and to tell.
    pub fn begin(&self, config: &Config, guest: Guest) {
        let _ = self.0.begun.set(());
        let (link, config) = (self.clone(), config.clone());
        let come_up = move || link.come_up(&config, guest.clone());
        if let Err(error) = thread::Builder::new().name("host link".into()).spawn(come_up.clone()) {
            log::warn!("the boot waits for vsock: cannot start a thread: {error}");
            self.take_turn();
            come_up();
        }
    }

    /// Lets it come up: the boot waits for something else, or has ended.
    pub fn take_turn(&self) {
        *self.0.is_its_turn.lock() = true;
        self.0.changed.notify_all();
    }

    fn wait_for_turn(&self) {
        let deadline = Instant::now() + TURN;
        let mut turn = self.0.is_its_turn.lock();
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|_| !*turn) {
            turn = turn.wait(&self.0.changed, left);
        }
    }

    fn come_up(&self, config: &Config, guest: Guest) {
        if thread::available_parallelism().is_ok_and(|count| count.get() == 1) {
            self.wait_for_turn();
        }
        modules::for_host_link();
        if let Err(error) = power_button::follow(&guest.stop) {
            log::warn!("cannot follow the power button: {error}");
        }
        push::start(config, &guest.board);
        let _ = self.0.listener.set(listen(config, guest));
    }

    /// Waits until it is up, if it has begun to, and returns the socket of the status server.
    pub fn wait(&self) -> Option<RawFd> {
        self.0.begun.get()?;
        self.take_turn();
        *self.0.listener.wait()
    }
}

/// Starts the status server. A guest without vsock boots all the same.
fn listen(config: &Config, guest: Guest) -> Option<RawFd> {
    match server::start(config.vsock_port, guest) {
        Ok(listener) => Some(listener),
        Err(error) => {
            log::warn!("the status server is not running: vsock port {}: {error}", config.vsock_port);
            None
        }
    }
}
