//! The text output for guests: findings first, then the state. All text from a guest is cleaned,
//! and every list is limited; `--json` has everything.

mod head;
mod lines;
mod parts;
mod screen;
mod table;
mod timeline;

pub use self::lines::{event_line, log_line};
pub use self::screen::worst;
pub use self::table::{Row, table, table_parts};
pub use timeline::plot;

use self::screen::View;
use crate::common::terminal::Look;
use image::status::Status;

/// The status as text.
pub fn screen(status: &Status, look: Look) -> String {
    let mut view = View { out: String::new(), look };
    view.header(status);
    view.findings(&status.findings);
    view.timeline(status);
    view.gpus(status);
    view.nodes(status);
    view.files(status);
    view.resolved(status);
    view.container(status);
    view.memory(status);
    look.wrap(&view.out)
}
