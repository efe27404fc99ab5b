//! Ports and unix sockets that are forwarded over a connection to a node, as `ssh -L`, `-R` and `-D` do.
//!
//! ```text
//! Forward::local("8080:db:5432")?   a Forward: where is listened, where each connection goes
//! BoundForward::bind(..)            listens on this machine;  serve(node, connections) passes connections on to the node
//! node.forward_remote(..)           has the node listen;      serve(connections) passes its connections on from here
//! ```
//!
//! A forward is for this machine alone unless its text says otherwise: where none is given, the address is that of loopback.
//! What the node opens towards this client is refused, unless it belongs to a forward that was asked for.

mod incoming;
mod local;
mod remote;
mod socks;
mod spec;
mod splice;
mod x11;

pub use self::local::{BoundForward, ListenOptions};
pub use self::remote::{ForwardedAgent, RemoteForward};
pub use self::socks::{MAX_REQUEST, SocksError, SocksEvent, SocksVersion, next_event};
pub use self::spec::{BindAddress, Destination, Forward, InvalidForward, Listen, Target};
pub use self::x11::{Display, ForwardedDisplay, InvalidDisplay};

pub(super) use self::incoming::{Incoming, Opened, Purpose};
pub(super) use self::x11::PROTOCOL as X11_PROTOCOL;

/// The most connections of one forward at a time; whoever comes then waits to be accepted.
pub const MAX_CONNECTIONS: usize = 4096;

/// Why a forward is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// This machine does not let it listen.
    #[error("cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The node does not let it listen, or its roles allow no forwarding.
    #[error("the node refused to listen on {listen}")]
    Refused {
        /// Where.
        listen: String,
    },
    /// The same was asked for before.
    #[error("{listen} is forwarded already")]
    Twice {
        /// Where.
        listen: String,
    },
    /// The connection is gone.
    #[error("the connection to the node ended")]
    Gone,
}
