//! The older protocol of `scp` (`scp -O`, and OpenSSH before 9.0), spoken by the node itself.
//!
//! A command that is no more than what such a client sends (`scp -t dir`, `scp -rf 'a b'`) starts no shell and no `scp`: the node reads
//! and writes the protocol, and has its files from an SFTP server that runs as the user. So the kernel decides what may be read and
//! written, each file is in the audit log, and the host needs no `scp`. Any other command line that has `scp` in it is an ordinary
//! command.

mod command;
#[doc(hidden)]
pub mod fuzzing;
mod record;
mod serve;
mod sink;
mod source;
mod wire;

pub use self::command::ScpCommand;
pub(crate) use self::serve::serve;
