//! The client: many requests on their way at a time, and nothing believed that the server says.
//!
//! Requests may be made from many places at once; each waits for its own answer, in whatever order the server gives them. What is on its
//! way is bounded in bytes, by what is asked for and not by what comes: an answer that is longer than its request allows, or that
//! answers nothing, ends the connection.

mod answer;
mod connection;
mod error;
mod file;
mod operations;
mod reads;
mod writes;

pub(crate) use self::answer::Entry;
#[doc(hidden)]
pub(super) use self::answer::fuzzed;
pub use self::connection::Sftp;
pub use self::error::{Refusal, SftpError};
pub(crate) use self::file::{RemoteDir, RemoteFile};
pub(crate) use self::reads::Reads;
pub(crate) use self::writes::Writes;

#[cfg(test)]
pub(crate) mod tests;
