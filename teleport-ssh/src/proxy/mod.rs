//! The proxy's SSH server: the one door of a cluster, through which users reach nodes.
//!
//! ```text
//!   ssh ──► proxy:3023          user certificate, any login
//!             │ direct-tcpip host:port            (ssh -J)
//!             │ subsystem proxy:host:port[@cluster]
//!             ▼
//!           route::resolve      among the nodes that are registered and that the user may see
//!             ▼
//!           NodeDialer          to the address that the node announced
//!             ▼
//!   ssh ◄═══ splice ═══► node   a second handshake, end to end: the proxy has none of its keys
//! ```
//!
//! The web port ([`proxy_web`](crate::proxy_web)) leads whoever speaks SSH there to the same server ([`Entrance`]); with
//! [`listen_nowhere`](ProxyBuilder::listen_nowhere) that is the only way in.
//!
//! To a registered SSH server that is none of ours the second handshake ends here, too: the proxy is a node in the server's place
//! ([`StandIns`](crate::node::StandIns)).
//!
//! The proxy decides who may knock at a node; the node itself decides who may enter. There is no shell here, no command, no
//! file transfer, and no forwarding to anything but nodes.

mod dial;
mod entrance;
mod handler;
mod journal;
mod local;
mod nodes;
pub mod route;
mod server;
mod visitor;

pub use self::dial::{DIAL_TIMEOUT, DialError, Direct, NodeDialer};
pub use self::entrance::Entrance;
pub use self::nodes::{NodeTable, NodeView};
pub use self::server::{BoundProxy, DEFAULT_SSH_PORT, ProxyBuilder, ProxyServer};
