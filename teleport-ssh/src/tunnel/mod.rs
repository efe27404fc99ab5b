//! Nodes that open no port: they keep connections to the proxies, over which the proxies reach them.
//!
//! ```text
//!  node ── TLS to the proxy's web port, ALPN `teleport-reversetunnel` ──▶ proxy     both show their certificates
//!  node ◀── HTTP/2, the proxy asks: POST /v1/ssh ──────────────────────── proxy     a stream for each user's connection
//!  node's SSH server ◀══ the stream ══ the user's SSH, behind the proxy's statement of where the user is
//! ```
//!
//! The streams are those of HTTP/2 (RFC 9113) with the sides changed: the node has connected, and the proxy asks. So each stream has a window
//! of its own, which its reader opens, and one that nobody reads stops itself alone; pings find the dead; and the code is that of the API, in
//! the same TLS. SSH channels would encrypt everything once more, and the SSH library opens windows for what nobody has read.
//!
//! A tunnel is good for its node and nothing else: the proxy knows whose it is by the certificate that was shown, asks for no address, and
//! the node leads each stream to its own SSH server.
//!
//! A node has one tunnel to each proxy that is online ([`AccessView::proxy_ids`](teleport_core::api::AccessView::proxy_ids)), or to some, if proxies
//! ask each other ([`teleport_core::peering`], [`Peers`], [`PeerPort`]). It need not know their addresses: it
//! dials the ones that it was given, which may be a load balancer's, until it has all of them.

mod agent;
mod carry;
mod health;
mod hub;
mod peer;
mod place;
mod pool;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

use teleport_core::cert::HostIdentity;
use teleport_core::clock::Clock;

pub use self::hub::Tunnels;
pub use self::peer::{BoundPeerPort, PeerPort, Peers};
pub(crate) use self::pool::{PAUSE, Pool, serve};
use crate::view::AccessCache;

/// Names tunnels inside TLS.
pub(crate) const ALPN: &[u8] = b"teleport-reversetunnel";
/// What a reader has room for on each stream, in bytes: as much as OpenSSH's channels.
const WINDOW: u32 = 2 << 20;
/// The same of all streams of a tunnel together: no bound, because it would let one stop the others.
const ALL_WINDOWS: u32 = (1 << 31) - 1;
/// The longest frame, in bytes: with its head of 9 bytes it fills four records of TLS, which are written together. Longer ones would make
/// keystrokes of other streams wait behind them.
const FRAME: u32 = (64 << 10) - 9;
/// What may wait to be sent on each stream, in bytes.
const SEND_BUFFER: usize = 256 << 10;
/// The most streams of a tunnel.
const MAX_STREAMS: u32 = 1000;
/// The longest list of headers that is read.
const MAX_HEADERS: u32 = 4 << 10;

/// How long one of several ways has to answer before the next is tried.
const NEXT: Duration = Duration::from_secs(3);

/// HTTP/2 for whoever is asked.
fn server(streams: u32) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(ALL_WINDOWS)
        .max_frame_size(FRAME)
        .max_concurrent_streams(streams)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .header_table_size(0);
    builder
}

/// HTTP/2 for whoever asks.
fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(ALL_WINDOWS)
        .max_frame_size(FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .header_table_size(0)
        .enable_push(false);
    builder
}

/// Resolves when `proxy` is locked or was removed. Cancel safe.
async fn unwelcome(view: &AccessCache, proxy: &HostIdentity, clock: &dyn Clock) {
    let mut changes = view.changes();
    while view.current().is_none_or(|view| view.keep_way(proxy, clock.now()).is_ok()) {
        changes.next().await;
    }
}

/// What a proxy asks of a node.
mod path {
    /// A stream to the node's SSH server.
    pub(super) const SSH: &str = "/v1/ssh";
    /// Nothing: the proxy goes away, and the node should have a tunnel to another one.
    pub(super) const DRAIN: &str = "/v1/drain";
}
