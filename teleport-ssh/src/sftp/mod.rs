//! Files over SSH: SFTP version 3 with OpenSSH's extensions.
//!
//! [`serve`] is the server. It runs as a process of the user, so that the kernel decides what it may do.

pub(crate) mod client;
pub(crate) mod files;
#[doc(hidden)]
pub mod fuzzing;
mod listing;
mod operation;
pub(crate) mod request;
mod server;
mod status;
pub(crate) mod watch;
mod watched;
pub(crate) mod wire;

pub use self::client::{Refusal, Sftp, SftpError};
pub use self::operation::{FileAction, FileOperation};
pub use self::server::{ServeError, serve};
pub(crate) use self::watched::Watched;
