//! Proxies that ask each other for nodes.
//!
//! ```text
//!  user ──▶ proxy ── TLS to the other's peer port, ALPN `teleport-proxy-peer` ──▶ proxy that has the node's tunnel
//!           proxy ── HTTP/2: POST /v1/node/<host id> ───────────────────────────▶ proxy ══ a stream of the tunnel ══▶ node
//! ```
//!
//! Both show their certificates, and both must be proxies of the cluster. Who asks names a node by its id and never an address; who is asked
//! leads to a tunnel that it has itself, or says no: it asks nobody else, so there are no loops. The stream is the user's SSH, behind the
//! statement of the proxy where the user is, which the node verifies: the proxy in between can neither read nor change either.
//!
//! Who may reach the node is decided where the user is, and by the node. A proxy that is locked or was removed is not answered, and what
//! runs through it ends.

mod answer;
mod ask;

pub use self::answer::{BoundPeerPort, PeerPort};
pub use self::ask::Peers;

/// Names the protocol inside TLS.
const ALPN: &[u8] = b"teleport-proxy-peer";
/// The most streams of one proxy to another, each a user's connection.
const MAX_STREAMS: u32 = 10_000;
/// What a node is asked for by, with its id behind it.
const NODE: &str = "/v1/node/";
