//! The end of a guest: says how it went to everybody who listens, lingers, and ends the machine.

use super::{GuestTrouble, reap};
use crate::kernel::kmsg_writer;
use crate::status::Board;
use image::config::{Config, FailureAction, LINGER, LINGER_FAILED, PowerAction};
use image::layout;
use image::status::{Exit, Finding, Phase, PhaseOutcome};
use nix::mount::umount;
use nix::sys::reboot::{RebootMode, reboot};
use std::time::Duration;

/// Longest wait for the last events to be sent.
const TOLD: Duration = Duration::from_secs(2);

/// Ends the machine after a container, or a boot, that has ended. `Err(None)`: the findings on the board say why.
pub fn end(outcome: Result<Exit, Option<Finding>>, board: &Board, config: &Config) -> ! {
    let failed = match outcome {
        Ok(exit) => {
            if exit.oom {
                board.report(GuestTrouble::OomKilled { line: None });
            }
            board.end(Phase::Running, PhaseOutcome::Done);
            board.begin(Phase::Exited);
            false
        }
        Err(finding) => {
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
    std::thread::sleep(linger);
    let action = match config.power {
        _ if failed => config.on_failure,
        PowerAction::Off => FailureAction::PowerOff,
        PowerAction::Reboot => FailureAction::Reboot,
    };
    let word = match action {
        FailureAction::PowerOff => "powering off",
        FailureAction::Reboot => "rebooting",
        FailureAction::Hold => "holding",
    };
    let status = board.snapshot();
    let line = format!("{word}: {}; exit status {}", status.reason(), status.exit_status());
    if failed {
        log::error!("{line}");
    } else {
        log::info!("{line}");
    }
    match action {
        FailureAction::PowerOff => end_machine(PowerAction::Off),
        FailureAction::Reboot => end_machine(PowerAction::Reboot),
        FailureAction::Hold => loop {
            std::thread::sleep(Duration::from_hours(1));
        },
    }
}

/// Writes everything to the disks and ends the machine.
pub(super) fn end_machine(action: PowerAction) -> ! {
    // A disk that took the container's writes must not need its journal at the next boot.
    for path in [layout::ROOT_MERGED, layout::ROOT_SCRATCH, layout::ROOT_LOWER] {
        match umount(path) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => log::warn!("unmounting {path}: {errno}"),
        }
    }
    nix::unistd::sync();
    let mode = match action {
        PowerAction::Off => RebootMode::RB_POWER_OFF,
        PowerAction::Reboot => RebootMode::RB_AUTOBOOT,
    };
    let result = reboot(mode);
    kmsg_writer::emergency(&format!("the machine could not be ended: {result:?}"));
    loop {
        std::thread::sleep(Duration::from_hours(1));
    }
}
