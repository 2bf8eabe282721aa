//! Stops the guest on request: the program receives a signal, and after the grace period the rest is killed. Requests come from
//! the host over vsock, from Ctrl-Alt-Del, from the power button, and as SIGTERM to guest-init.

use super::shutdown::end_machine;
use crate::container::cgroup;
use crate::kernel::kmsg_writer;
use crate::locks::{Lock, Locked};
use crate::status::{Board, helper};
use image::config::PowerAction;
use image::event::{Happening, StopBy};
use image::status::{Outcome, Phase};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// Maximum time from the end of the grace period to the end of the machine, apart from the linger time: for the kill, the last
/// lines of output, the last events, and unmounting.
const LIMIT: Duration = Duration::from_secs(20);
/// Number of the signal with which systemd powers off: SIGRTMIN+4 (systemd(1)), with the SIGRTMIN of glibc. That of musl, and so of
/// this program, is another number.
const SYSTEMD_POWER_OFF: i32 = 34 + 4;

/// What the guest was asked to do.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// Number of the signal for the program.
    pub signal: i32,
    /// When the program is killed.
    pub deadline: Instant,
}

/// What receives the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipient {
    /// The container's program, which [`super::run`] watches.
    Program,
    /// The image's init, as PID 1 of the guest.
    Init,
}

/// The guest's stop switch; clones refer to the same one.
#[derive(Clone)]
pub struct StopSwitch(Arc<Shared>);

struct Shared {
    order: Lock<Option<Order>>,
    changed: Condvar,
    /// Readable once there is an order; signalled again when it changes. Without it, an order is noticed late.
    wake: nix::Result<EventFd>,
    board: Board,
    recipient: Recipient,
    /// Grace period of requests without one, and the linger time that follows the program's end.
    grace: Lock<(Duration, Duration)>,
}

impl StopSwitch {
    /// Creates the switch, not used yet.
    pub fn new(board: &Board, recipient: Recipient) -> Self {
        Self(Arc::new(Shared {
            order: Lock::new(None),
            changed: Condvar::new(),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK),
            board: board.clone(),
            recipient,
            grace: Lock::new((image::config::STOP_GRACE, image::config::LINGER)),
        }))
    }

    /// Sets the configured grace period and linger time.
    pub fn configure(&self, grace: Duration, linger: Duration) {
        if let Err(errno) = &self.0.wake {
            log::warn!("a request to stop may be noticed late: cannot create a descriptor: {errno}");
        }
        *self.0.grace.lock() = (grace, linger);
    }

    fn lock(&self) -> Locked<'_, Option<Order>> {
        self.0.order.lock()
    }

    /// Asks the guest to stop. A repeated request can only shorten the grace period.
    pub fn ask(&self, by: StopBy, signal: i32, grace: Option<Duration>) {
        let (configured, linger) = *self.0.grace.lock();
        let grace = grace.unwrap_or(configured);
        let deadline = Instant::now() + grace;
        let mut order = self.lock();
        let is_first = order.is_none();
        let deadline = order.map_or(deadline, |order| order.deadline.min(deadline));
        let signal = order.map_or(signal, |order| order.signal);
        *order = Some(Order { signal, deadline });
        drop(order);
        self.0.changed.notify_all();
        self.wake();
        if !is_first {
            return;
        }
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        log::info!("stopping the guest: signal {signal}, then SIGKILL after {grace_ms} ms");
        self.0.board.happened(Happening::Stop { by, signal, grace_ms });
        if self.0.board.look(|status| status.phase != Phase::Exited && status.outcome != Outcome::Failed) {
            self.0.board.begin(Phase::Stopping);
        }
        if self.0.recipient == Recipient::Init {
            ask_init();
        }
        let switch = self.clone();
        let enforced = helper::start("stop", &self.0.board, move || switch.enforce(linger));
        if let Err(error) = enforced {
            log::error!("the end of the grace period is not enforced: cannot start a thread: {error}");
        }
    }

    /// Returns the order, if there is one.
    pub fn order(&self) -> Option<Order> {
        *self.lock()
    }

    /// Waits for an order, at most for this long. Returns whether there is one.
    pub fn wait(&self, longest: Duration) -> bool {
        let begun = Instant::now();
        let mut order = self.lock();
        while order.is_none() {
            let left = longest.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return false;
            }
            order = order.wait(&self.0.changed, left);
        }
        true
    }

    /// The board that stops are reported on.
    pub fn board(&self) -> &Board {
        &self.0.board
    }

    /// Returns the descriptor that is readable when the order has changed since [`StopSwitch::clear`]. Without one, the order must
    /// be read now and then.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.wake.as_ref().ok().map(AsFd::as_fd)
    }

    /// Clears the descriptor's signal, before [`StopSwitch::order`] is read.
    pub fn clear(&self) {
        let _ = self.0.wake.as_ref().map(EventFd::read);
    }

    fn wake(&self) {
        let _ = self.0.wake.as_ref().map(|wake| wake.write(1));
    }

    /// Kills the container when the grace period is over, and ends the machine if its shutdown does not.
    fn enforce(&self, linger: Duration) {
        let mut order = self.lock();
        while let Some(deadline) = order.map(|order| order.deadline) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            order = order.wait(&self.0.changed, left);
        }
        drop(order);
        if self.0.recipient == Recipient::Init {
            kmsg_writer::emergency("the image's init did not stop within the grace period");
            end_machine(PowerAction::Off);
        }
        self.wake();
        cgroup::kill_all();
        std::thread::sleep(LIMIT + linger);
        kmsg_writer::emergency("the guest did not stop in time: ending the machine");
        end_machine(PowerAction::Off);
    }
}

/// Asks the image's init to power off: systemd by its signal, others by that of busybox and OpenRC's init.
fn ask_init() {
    let is_systemd = std::fs::exists("/proc/1/root/run/systemd/system").unwrap_or(false);
    let number = if is_systemd { SYSTEMD_POWER_OFF } else { libc::SIGUSR2 };
    if let Err(errno) = send(Pid::from_raw(1), number) {
        log::error!("cannot send signal {number} to the image's init: {errno}");
    }
}

/// Sends a signal by its number: real-time signals have no names.
pub fn send(process: Pid, number: i32) -> nix::Result<()> {
    // SAFETY: kill(2) takes two integers.
    nix::Error::result(unsafe { libc::kill(process.as_raw(), number) }).map(drop)
}

/// Signals to PID 1 that ask the guest to stop. The kernel sends SIGINT for Ctrl-Alt-Del.
pub fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// Follows these signals, which every thread has blocked, and makes the kernel send one for Ctrl-Alt-Del instead of a reboot.
pub fn follow_signals(switch: &StopSwitch) -> io::Result<()> {
    // SAFETY: reboot(2) takes an integer; this one changes a setting.
    if unsafe { libc::reboot(libc::RB_DISABLE_CAD) } != 0 {
        log::warn!("Ctrl-Alt-Del resets the guest: {}", io::Error::last_os_error());
    }
    let (board, switch) = (switch.board(), switch.clone());
    helper::start("signals", board, move || {
        let signals = signals();
        loop {
            match signals.wait() {
                Ok(Signal::SIGINT) => switch.ask(StopBy::CtrlAltDel, libc::SIGTERM, None),
                Ok(_) => switch.ask(StopBy::Signal, libc::SIGTERM, None),
                Err(errno) => log::debug!("cannot wait for signals: {errno}"),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch() -> (Board, StopSwitch) {
        let board = Board::new("k".into());
        let switch = StopSwitch::new(&board, Recipient::Program);
        (board, switch)
    }

    #[test]
    fn a_later_request_can_only_shorten_the_grace_period() {
        let (board, switch) = switch();
        assert!(!switch.wait(Duration::ZERO) && switch.order().is_none());
        let hour = Duration::from_hours(1);
        switch.ask(StopBy::Host, libc::SIGINT, Some(hour));
        let first = switch.order().unwrap();
        switch.ask(StopBy::PowerButton, libc::SIGTERM, Some(hour * 2));
        assert_eq!(switch.order().unwrap().deadline, first.deadline);
        switch.ask(StopBy::PowerButton, libc::SIGTERM, Some(hour / 2));
        let last = switch.order().unwrap();
        assert!(last.deadline < first.deadline && last.signal == libc::SIGINT);
        assert!(switch.wait(Duration::ZERO));
        let status = board.snapshot();
        assert_eq!(status.phase, Phase::Stopping);
        let stops = board.events(0, Instant::now()).events;
        let stops = stops.iter().filter(|event| matches!(event.what, Happening::Stop { .. }));
        assert_eq!(stops.count(), 1, "one event, however often it is asked");
    }

    #[test]
    fn a_switch_without_a_descriptor_works() {
        let (_, StopSwitch(shared)) = switch();
        let shared = Shared { wake: Err(nix::Error::EMFILE), ..Arc::into_inner(shared).unwrap() };
        let switch = StopSwitch(Arc::new(shared));
        switch.ask(StopBy::Host, libc::SIGTERM, Some(Duration::from_hours(1)));
        switch.clear();
        assert!(switch.descriptor().is_none() && switch.wait(Duration::ZERO) && switch.order().is_some());
    }

    #[test]
    fn an_order_makes_the_descriptor_readable() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let (_, switch) = switch();
        let readable = || {
            let mut fds = [PollFd::new(switch.descriptor().unwrap(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO) == Ok(1)
        };
        assert!(!readable());
        switch.ask(StopBy::Host, libc::SIGTERM, Some(Duration::from_hours(1)));
        assert!(readable());
        switch.clear();
        assert!(!readable());
    }
}
