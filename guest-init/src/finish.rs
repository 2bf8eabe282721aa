//! The end of a guest: says how it went to everybody who listens, lingers, and ends the machine.

use crate::report::{self, Board};
use crate::{notify, power, supervise, watch};
use image::config::{Config, FailureAction, LINGER, LINGER_FAILED, PowerAction};
use image::status::{Code, Exit, Finding, Outcome, Phase, PhaseOutcome, Severity, Status};
use std::time::Duration;

/// Ends the machine after a container, or a boot, that has ended. `Err(None)`: the findings on the board say why.
pub fn end(outcome: Result<Exit, Option<Finding>>, board: &Board, config: &Config) -> ! {
    let failed = match outcome {
        Ok(exit) => {
            if exit.oom {
                board.finding(watch::oom_killed());
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
    supervise::end_the_rest();
    notify::finish(board);
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
    let line = format!("{word}: {}; exit status {}", reason(&status), exit_status(&status));
    if failed {
        log::error!("{line}");
    } else {
        log::info!("{line}");
    }
    match action {
        FailureAction::PowerOff => power::end(PowerAction::Off),
        FailureAction::Reboot => power::end(PowerAction::Reboot),
        FailureAction::Hold => loop {
            std::thread::sleep(Duration::from_hours(1));
        },
    }
}

/// Puts a panic on the board, whose log already has it: the kernel's, since the panic may have happened inside our own.
pub fn panicked(text: String, board: &Board) {
    let hint = "this is a defect of guest-init: report it with the kernel log";
    board.fatal(report::error(Code::Internal, text, hint));
    board.fail();
}

/// Why it ended, in one line.
pub fn reason(status: &Status) -> String {
    if let Some(exit) = exit(status) {
        return format!("the container ended: {exit}");
    }
    match fatal(status).or(status.findings.last()) {
        Some(finding) => format!("the boot failed: {}: {}", finding.code.name(), finding.message),
        None => "the boot failed".into(),
    }
}

/// What went wrong: the first error. [`Board::fatal`] puts what ended the boot before what it survived.
pub fn fatal(status: &Status) -> Option<&Finding> {
    status.findings.iter().find(|finding| finding.severity == Severity::Error)
}

/// As a shell would say it: the program's exit code, 128 and the signal that killed it, 1 for a boot that failed.
pub fn exit_status(status: &Status) -> i32 {
    exit(status).map_or(1, Exit::shell_status)
}

fn exit(status: &Status) -> Option<Exit> {
    status.container.as_ref()?.exit.filter(|_| status.outcome != Outcome::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{error, started};

    #[test]
    fn the_last_line_says_why_and_what_a_shell_would() {
        let board = Board::new("k".into());
        board.begin(Phase::Gpu);
        board.finding(error(Code::NoGpu, "there is none", ""));
        board.fail();
        let status = board.snapshot();
        assert_eq!(reason(&status), "the boot failed: no-gpu: there is none");
        assert_eq!((exit_status(&status), status.phases[0].outcome), (1, PhaseOutcome::Failed));
        let ended = |exit| Status {
            container: Some(image::status::Container { exit: Some(exit), ..started(9, vec![], 0) }),
            ..Status::default()
        };
        let killed = ended(Exit { code: None, signal: Some(9), oom: true });
        assert_eq!(
            (exit_status(&killed), reason(&killed).as_str()),
            (137, "the container ended: killed by SIGKILL, out of memory")
        );
        assert_eq!(exit_status(&ended(Exit { code: Some(3), signal: None, oom: false })), 3);
    }
}
