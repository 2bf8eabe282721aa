//! Sends notifications as sd_notify(3) and systemd's virtual machines do: `READY=1`, `STATUS=`, and at the end `EXIT_STATUS=`
//! and `ERRNO=`. Each is a packet or a separate connection.

use super::connection::{LOOK, PATIENCE, connect};
use crate::status::{Board, Follower};
use image::config::NotifySocket;
use image::event::{Event, Happening};
use image::status::{Code, Outcome, Phase, PhaseOutcome, Severity, Status};
use image::text::name;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, VsockAddr, connect as connect_to, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Sends a notification to a supervisor for each relevant event, beginning with the event `from`.
pub(crate) fn tell(to: NotifySocket, from: &AtomicU64, board: &Board, follower: &Follower) {
    loop {
        let events = board.events(from.load(Ordering::Relaxed), Instant::now() + LOOK);
        for event in &events.events {
            // An event that panics is not tried again.
            from.store(event.sequence + 1, Ordering::Relaxed);
            let Some(text) = message(event, &board.snapshot()) else { continue };
            if let Err(error) = deliver(to, &text) {
                log::debug!("cannot notify the supervisor on port {}: {error}", to.port);
            }
        }
        from.store(events.next, Ordering::Relaxed);
        follower.has_sent(events.next);
    }
}

/// Returns the notification for an event, if there is one.
fn message(event: &Event, status: &Status) -> Option<String> {
    let line = |text: &str| text.replace(['\n', '\r'], " ");
    match &event.what {
        // If the program is restarted, its end is not the end of the guest.
        Happening::Phase { phase: Phase::Exited, .. } | Happening::Outcome(Outcome::Failed) => {
            Some(end(status))
        }
        Happening::Phase { phase, outcome: PhaseOutcome::Running } => {
            Some(format!("STATUS={}\n", name(phase)))
        }
        Happening::Finding { code, severity: Severity::Error, message } => {
            Some(format!("STATUS={}: {}\n", code.name(), line(message)))
        }
        Happening::Stop { .. } => Some("STOPPING=1\nSTATUS=stopping\n".into()),
        Happening::Outcome(Outcome::Ready) => Some("READY=1\nSTATUS=running\n".into()),
        Happening::Phase { .. }
        | Happening::Finding { .. }
        | Happening::Outcome(Outcome::Pending)
        | Happening::Gpu { .. }
        | Happening::Xid { .. }
        | Happening::Started { .. }
        | Happening::SessionStarted { .. }
        | Happening::SessionEnded { .. }
        | Happening::Exited(_) => None,
    }
}

fn end(status: &Status) -> String {
    let mut text = format!(
        "STATUS={}\nEXIT_STATUS={}\n",
        status.reason().replace(['\n', '\r'], " "),
        status.exit_status()
    );
    // If the program ended by itself, its exit status is the reason, whatever the findings are.
    let is_oom = status.container.as_ref().and_then(|container| container.exit).is_some_and(|exit| exit.oom);
    let code = match status.fatal().filter(|_| status.outcome == Outcome::Failed) {
        Some(finding) => Some(finding.code),
        None => is_oom.then_some(Code::OomKilled),
    };
    if let Some(code) = code {
        text.push_str(&format!("ERRNO={}\n", errno(code) as i32));
    }
    text
}

/// Returns the errno that matches a finding best.
fn errno(code: Code) -> Errno {
    match code {
        Code::NoGpu | Code::GpuCountMismatch | Code::GpuUnsupported | Code::GpuLost => Errno::ENODEV,
        Code::NoSpace => Errno::ENOSPC,
        Code::StepTimedOut => Errno::ETIMEDOUT,
        Code::OomKilled | Code::LowMemory => Errno::ENOMEM,
        Code::EntrypointNotFound | Code::ModuleMissing | Code::FirmwareMissing | Code::PayloadDiskMissing => {
            Errno::ENOENT
        }
        Code::EntrypointNotExecutable => Errno::EACCES,
        Code::ModuleRejected => Errno::EKEYREJECTED,
        Code::KernelMismatch | Code::ModuleVersionMismatch | Code::CudaRequirementUnmet => Errno::ENOEXEC,
        Code::ConfigInvalid | Code::ManifestInvalid => Errno::EINVAL,
        _ => Errno::EIO,
    }
}

fn deliver(to: NotifySocket, text: &str) -> io::Result<()> {
    if !to.packets {
        return connect(to.port)?.write_all(text.as_bytes());
    }
    let socket = socket(AddressFamily::Vsock, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(PATIENCE.as_secs().cast_signed(), 0))?;
    connect_to(socket.as_raw_fd(), &VsockAddr::new(to.cid, to.port))?;
    send(socket.as_raw_fd(), text.as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::status::{Exit, Finding};

    #[test]
    fn what_systemd_defines_is_said_at_the_right_moments() {
        let board = Board::new("k".into());
        let said = |what| message(&Event { sequence: 1, at_ms: 0, what }, &board.snapshot());
        let phase = |outcome| Happening::Phase { phase: Phase::Gpu, outcome };
        assert_eq!(said(phase(PhaseOutcome::Running)).as_deref(), Some("STATUS=gpu\n"));
        assert_eq!(said(phase(PhaseOutcome::Done)), None);
        assert_eq!(said(Happening::Outcome(Outcome::Ready)).as_deref(), Some("READY=1\nSTATUS=running\n"));
        board.report(Finding::new(Code::NoGpu, Severity::Error, "there\nis none", vec![]));
        board.update(|status| status.outcome = Outcome::Failed);
        let text = message(
            &Event { sequence: 1, at_ms: 0, what: Happening::Outcome(Outcome::Failed) },
            &board.snapshot(),
        );
        assert_eq!(
            text.as_deref(),
            Some("STATUS=the boot failed: no-gpu: there is none\nEXIT_STATUS=1\nERRNO=19\n")
        );
    }

    #[test]
    fn the_exit_status_is_the_programs() {
        let board = Board::new("k".into());
        // A GPU that was optional says nothing about the program.
        board.report(Finding::new(Code::NoGpu, Severity::Error, "there is none", vec![]));
        let ended = |exit| {
            board.update(|status| {
                status.outcome = Outcome::Ready;
                let started = crate::status::started(9, vec![], 0);
                status.container = Some(image::status::Container { exit: Some(exit), ..started });
            });
        };
        ended(Exit { code: Some(3), signal: None, oom: false });
        let event = Event {
            sequence: 1,
            at_ms: 0,
            what: Happening::Phase { phase: Phase::Exited, outcome: PhaseOutcome::Running },
        };
        assert_eq!(
            message(&event, &board.snapshot()).as_deref(),
            Some("STATUS=the container ended: exit code 3\nEXIT_STATUS=3\n")
        );
        ended(Exit { code: None, signal: Some(9), oom: true });
        let text = message(&event, &board.snapshot()).unwrap();
        assert!(text.ends_with("EXIT_STATUS=137\nERRNO=12\n"), "{text}");
    }
}
