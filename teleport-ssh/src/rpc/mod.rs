//! The wire between the processes of a cluster: the auth service's API over HTTP/2 in mutually authenticated TLS.
//!
//! [`AuthServer`] offers an auth service on a port; [`AuthClient`] implements the same traits over the wire. Who calls is known
//! from the certificate of the connection: verified with the authorities of hosts and of users separately, so that no name that a
//! user may have gives the rights of a host.

mod activity;
mod ahead;
mod client;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod http;
mod io;
pub(crate) mod limits;
pub(crate) mod routes;
mod server;
pub(crate) mod tls;
pub(crate) mod trace;
pub(crate) mod x509;

pub(crate) use self::activity::{Activity, Busy};
pub(crate) use self::ahead::ReadAhead;
pub use self::client::{
    AuthClient, AuthClientBuilder, ClientIdentity, Connector, ProxyConnector, TcpConnector, UserCredentials,
};
pub(crate) use self::client::{dial, dial_straight, handshake, read_answer};
pub use self::io::{BoxedIo, Io, PipeConnector, PipeListener, pipe};
pub(crate) use self::io::{Prefixed, ScopeExecutor};
pub use self::limits::Rate;
pub use self::server::{
    ApiFigures, AuthServer, AuthServerBuilder, BoundAuth, CALL_BOUNDS, CallFigures, Services,
};
pub(crate) use self::server::{STRANGERS_GONE, SecretBody};
pub use self::trace::{TraceContext, carry_traces};
