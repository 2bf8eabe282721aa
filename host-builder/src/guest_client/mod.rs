//! Queries guests. A guest is not trusted: every wait has a deadline, every reply has a size limit,
//! and every defect of a reply has its own error.

pub(crate) mod connection;
mod control;
pub mod copy;
pub(crate) mod documents;
mod error;
mod follow;
mod listen;
mod many;
pub mod metrics;
pub(crate) mod quota;
mod request;
pub mod session;
mod spoken;
mod target;
mod targets;
#[cfg(test)]
pub(crate) mod tests;
pub mod view;

pub use self::control::{Stopped, stop, wait_until_gone};
pub use self::documents::{
    Answer, EVENT_SCHEMA, EventLine, EventNews, Failure, Given, SCHEMA, STATUS_SCHEMA,
};
pub use self::error::{QueryError, Step};
pub use self::follow::{End, Followed, Part, all, follow};
pub use self::listen::{Address, News, listen};
pub use self::many::{AT_ONCE, Told, of_each};
pub use self::request::{ask, is_decisive, status, status_by, wait, wait_by, wait_for_change};
pub use self::target::Target;
pub use self::targets::{Expanded, Guests, expand};
