//! `tsh` as a library: log in, keep the certificate, reach nodes.
//!
//! * [`login`] makes keys and a [`Profile`]; [`ProfileStore`] keeps profiles on disk, [`Agent`] hands them to a running
//!   `ssh-agent`. An [`IdentityFile`] is the same for programs, in one file.
//! * [`SshClient`] connects to a proxy and, through it, to a node; both must prove who they are by host certificates of the
//!   user's cluster. [`NodeConnection::session`] starts shells and commands; [`forward`] has ports and sockets go over the connection.
//! * [`agent`] serves the certificate to stock clients, or hands it to an agent that runs.
//! * [`openssh`] writes what stock OpenSSH needs to do the same.
//!
//! Nothing here asks questions or prints: that is for programs.

pub mod agent;
mod connect;
mod connection;
pub mod copy;
mod credential_files;
mod error;
pub mod forward;
mod handler;
mod identity_file;
mod login;
pub mod openssh;
mod profile;
mod resume;
mod session;
mod shared_proxy;
pub mod terminal;

pub use self::agent::{Agent, AgentError};
pub use self::connect::{CONNECT_TIMEOUT, Credentials, SshClient};
pub use self::connection::{NodeConnection, ProxyConnection};
pub use self::credential_files::{FileFormat, NotWritten, existing, write_identity, write_openssh};
pub use self::error::{ConnectError, HostRejected};
pub use self::identity_file::{IdentityFile, IdentityFileError, ProxyAddresses, UnusableIdentityFile};
pub use self::login::{LoginError, LoginInput, login, ssh_address};
pub use self::profile::{Profile, ProfileError, ProfileStore};
pub use self::resume::{Notice, Resumption};
pub use self::session::{ClientSession, ExitStatus, SessionRequest, Terminal, TerminalSize, Without};
pub use self::shared_proxy::SharedProxy;
pub use crate::engine::{Cipher, UnknownCipher};
