//! The status of the guest: the board that the boot writes, its changes as events, and the limits of both.

mod board;
pub(crate) mod events;
mod followers;
pub mod helper;
pub mod limits;
pub mod ring;

pub use self::board::Board;
pub use self::followers::Follower;

use crate::kernel::sysinfo::uptime_ms;
use image::status::Container;
use limits::clip_lines;

/// Returns the status of a container that was just started.
pub fn started(pid: u32, mut command: Vec<String>, restarts: u32) -> Container {
    clip_lines(&mut command);
    let start_ms = uptime_ms();
    Container {
        pid,
        command,
        start_ms,
        restarts,
        exit: None,
        last_exit: None,
        oom_kills: 0,
        output: Vec::new(),
    }
}
