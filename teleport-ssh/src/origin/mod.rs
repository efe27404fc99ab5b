//! Where connections come from: proxies say so ([`OriginSigner`]), nodes and the auth service hear it ([`OriginVerifier`]).
//!
//! What is said, and what is believed, is in [`teleport_core::origin`].

mod sign;
mod verify;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use teleport_core::api::AccessView;
use teleport_core::cert::HostIdentity;
use teleport_core::clock::Timestamp;
use teleport_core::origin::{Beginning, Origin, OriginRejected, beginning};
use tokio::io::{AsyncRead, AsyncReadExt as _};

pub(crate) use self::sign::{CannotState, OriginSigner};
pub(crate) use self::verify::OriginVerifier;

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    peer: SocketAddr,
    /// The proxy that carries it, and what it says; nothing, if its word did not count when it said so.
    via: Option<(Arc<HostIdentity>, Option<SocketAddr>)>,
}

impl Arrival {
    /// From the other end of the socket.
    pub(crate) const fn direct(peer: SocketAddr) -> Self {
        Self { peer, via: None }
    }

    /// Through a proxy. The word of one that is locked or was removed does not count.
    pub(crate) fn carried(peer: SocketAddr, origin: Origin, view: &AccessView, now: Timestamp) -> Self {
        let stated = view.keep_way(&origin.proxy, now).is_ok().then_some(origin.client);
        Self { peer, via: Some((Arc::new(origin.proxy), stated)) }
    }

    /// Where the client is, for the log, the audit events and limits: as far as that is known.
    pub(crate) fn client(&self) -> SocketAddr {
        self.via.as_ref().and_then(|(_, stated)| *stated).unwrap_or(self.peer)
    }

    /// The address for credentials that are bound to one, by the newest view.
    pub(crate) fn address(&self, view: &AccessView, now: Timestamp) -> Option<IpAddr> {
        match &self.via {
            Some((proxy, stated)) => stated.filter(|_| view.keep_way(proxy, now).is_ok()).map(|at| at.ip()),
            None => view.direct_address(self.peer.ip()),
        }
    }

    /// The proxy that carries it.
    pub(crate) fn proxy(&self) -> Option<&HostIdentity> {
        self.via.as_ref().map(|(proxy, _)| &**proxy)
    }
}

/// What has become known of where a connection comes from, while its first bytes were read.
#[derive(Clone, Debug)]
pub(crate) struct Whence {
    peer: SocketAddr,
    heard: Arc<OnceLock<Result<Arrival, OriginRejected>>>,
    /// Where it comes from since it was resumed.
    moved: Arc<ArcSwapOption<Arrival>>,
}

impl Whence {
    /// A connection from `peer`, of which nothing is heard yet.
    pub(crate) fn new(peer: SocketAddr) -> Self {
        Self { peer, heard: Arc::default(), moved: Arc::default() }
    }

    /// The other end of the socket.
    pub(crate) const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// There was a statement. A connection has one at most.
    ///
    /// # Errors
    /// Why it is not believed.
    pub(crate) fn hear(&self, heard: Result<Arrival, OriginRejected>) -> Result<(), OriginRejected> {
        let outcome = heard.as_ref().map(drop).map_err(|why| *why);
        let _ = self.heard.set(heard);
        outcome
    }

    /// Where the connection comes from, by what is known.
    pub(crate) fn arrival(&self) -> Arrival {
        if let Some(arrival) = &*self.moved.load() {
            return Arrival::clone(arrival);
        }
        match self.heard.get() {
            Some(Ok(arrival)) => arrival.clone(),
            _ => Arrival::direct(self.peer),
        }
    }

    /// The connection goes on from there.
    pub(crate) fn moves(&self, arrival: Arrival) {
        self.moved.store(Some(Arc::new(arrival)));
    }

    /// Why the connection was cut, if it was for a statement.
    pub(crate) fn rejected(&self) -> Option<OriginRejected> {
        self.heard.get().and_then(|heard| heard.as_ref().err().copied())
    }
}

/// Reads the statement that a connection begins with, if it does, whole and unverified; and what came behind it. Waits for the client's
/// first word. Not cancel safe: what was read is lost.
pub(crate) async fn take_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(Option<Bytes>, BytesMut)> {
    let mut bytes = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match beginning(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Beginning::Header(len) => {
                let header = bytes.split_to(len).freeze();
                return Ok((Some(header), bytes));
            }
            Beginning::Other => return Ok((None, bytes)),
            Beginning::Partial => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
