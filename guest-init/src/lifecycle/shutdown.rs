//! The end of a guest: says how it went to everybody who listens, lingers, and ends the machine.

use super::{GuestTrouble, StopSwitch, panic, reap};
use crate::kernel::bounded::within;
use crate::kernel::kmsg_writer;
use crate::status::Board;
use image::config::{Config, FailureAction, LINGER, LINGER_FAILED, PowerAction};
use image::layout;
use image::status::{Exit, Finding, Phase, PhaseOutcome};
use nix::mount::umount;
use nix::sys::reboot::{RebootMode, reboot};
use std::time::Duration;

/// Maximum time for each unmount at the end, and for the last write to the disks.
const UNMOUNT: Duration = Duration::from_secs(10);
/// Longest wait for the last events to be sent.
const TOLD: Duration = Duration::from_secs(2);

/// How a boot, or the container after it, ended.
pub enum Ending {
    /// The program has ended.
    Exited(Exit),
    /// The guest was stopped before the program ran.
    Stopped,
    /// The boot has failed. `None`: the findings on the board say why.
    Failed(Option<Finding>),
}

/// Ends the machine, unless another thread does already.
pub fn end(ending: Ending, stop: &StopSwitch, board: &Board, config: &Config) -> ! {
    panic::end_here();
    let failed = match ending {
        Ending::Exited(exit) => {
            if exit.oom {
                board.report(GuestTrouble::OomKilled { line: None });
            }
            exited(board);
            false
        }
        Ending::Stopped => {
            exited(board);
            false
        }
        Ending::Failed(finding) => {
            if let Some(finding) = finding {
                board.fatal(finding);
            }
            board.fail();
            true
        }
    };
    reap::end_the_rest();
    board.wait_until_sent(TOLD);
    let linger = config.linger.unwrap_or(if failed { LINGER_FAILED } else { LINGER });
    if failed && !linger.is_zero() {
        let seconds = linger.as_secs_f32();
        log::info!("status is answered for {seconds} s more; gpu_initrd.linger=TIME makes that shorter");
    }
    if failed {
        // A stop request ends the time in which a failed guest can be asked why.
        stop.wait(linger);
    } else {
        std::thread::sleep(linger);
    }
    let action = match config.power {
        // A guest that was asked to stop must not start again, or stay.
        _ if failed && stop.order().is_none() => config.on_failure,
        PowerAction::Off => FailureAction::PowerOff,
        PowerAction::Reboot => FailureAction::Reboot,
    };
    let status = board.snapshot();
    let line = format!("{}: {}; exit status {}", word(action), status.reason(), status.exit_status());
    if failed {
        log::error!("{line}");
    } else {
        log::info!("{line}");
    }
    carry_out(action, stop, config)
}

/// Ends the machine after a panic that leaves the board, or something else, locked for ever. Only the kernel log has the reason.
pub(super) fn end_at_once(reason: &str, stop: &StopSwitch, config: &Config) -> ! {
    reap::end_the_rest();
    kmsg_writer::emergency(&format!("{}: {reason}; exit status 1", word(config.on_failure)));
    carry_out(config.on_failure, stop, config)
}

/// Returns the word with which the last line begins.
fn word(action: FailureAction) -> &'static str {
    match action {
        FailureAction::PowerOff => "powering off",
        FailureAction::Reboot => "rebooting",
        FailureAction::Hold => "holding",
    }
}

fn carry_out(action: FailureAction, stop: &StopSwitch, config: &Config) -> ! {
    match action {
        FailureAction::PowerOff => end_machine(PowerAction::Off),
        FailureAction::Reboot => end_machine(PowerAction::Reboot),
        FailureAction::Hold => {
            while !stop.wait(Duration::from_hours(1)) {}
            log::info!("the guest was asked to stop");
            end_machine(config.power)
        }
    }
}

/// Ends the phases of a program that has ended, or never ran.
fn exited(board: &Board) {
    board.end(Phase::Running, PhaseOutcome::Done);
    board.end(Phase::Stopping, PhaseOutcome::Done);
    board.begin(Phase::Exited);
}

/// Writes everything to the disks and ends the machine.
pub(super) fn end_machine(action: PowerAction) -> ! {
    write_all();
    call(action)
}

/// Ends the machine without any more writes.
pub(super) fn reboot_only(action: FailureAction) -> ! {
    match action {
        FailureAction::PowerOff => call(PowerAction::Off),
        FailureAction::Reboot => call(PowerAction::Reboot),
        FailureAction::Hold => panic::stay(),
    }
}

fn call(action: PowerAction) -> ! {
    let mode = match action {
        PowerAction::Off => RebootMode::RB_POWER_OFF,
        PowerAction::Reboot => RebootMode::RB_AUTOBOOT,
    };
    let result = reboot(mode);
    kmsg_writer::emergency(&format!("the machine could not be ended: {result:?}"));
    panic::stay()
}

/// Unmounts the container's disks, and writes everything to the others.
fn write_all() {
    // A disk that took the container's writes must not need its journal at the next boot.
    for path in [layout::ROOT_MERGED, layout::ROOT_SCRATCH, layout::ROOT_LOWER] {
        match within(UNMOUNT, format!("unmounting {path}"), move || umount(path)) {
            Ok(Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT)) => {}
            Ok(Err(errno)) => log::warn!("unmounting {path}: {errno}"),
            Err(error) => log::error!("{error}: the last writes may be lost"),
        }
    }
    if let Err(error) = within(UNMOUNT, "writing to the disks (sync)".into(), nix::unistd::sync) {
        log::error!("{error}: the last writes may be lost");
    }
}
