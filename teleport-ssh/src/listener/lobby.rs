//! Where connections wait whose load balancer has yet to say where they come from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use teleport_core::entropy::Entropy;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::limits::{Limits, Outcome};
use super::{Accepted, Door};
use crate::mux::{Beginning, Expect, Header, HeaderMode, Protocol, ProxyProtocol, protocol};

/// How long a header, and in the place of one the first byte, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that wait at the same time, of one load balancer and in all: there are few balancers, and each has many clients.
const WAITING: u32 = 4096;

/// Takes headers of the PROXY protocol off connections, before they count as those of their clients.
#[derive(Clone, Debug)]
pub(crate) struct Lobby {
    protocol: Arc<ProxyProtocol>,
    /// Counts those that wait.
    door: Door,
}

impl Lobby {
    pub(crate) fn new(protocol: ProxyProtocol, entropy: Arc<dyn Entropy>) -> Self {
        let limits = Limits {
            per_source: WAITING,
            startup_begin: WAITING,
            startup_full: WAITING,
            penalties: false,
            ..Limits::default()
        };
        Self { protocol: Arc::new(protocol), door: Door::new(limits, entropy) }
    }

    /// By which door a connection from `peer` comes in first: this one if it may begin with a header, else that of its port.
    pub(super) fn door<'a>(&'a self, port: &'a Door, peer: IpAddr) -> Option<&'a Door> {
        match self.protocol.expect(peer) {
            Expect::None => Some(port),
            Expect::Either | Expect::Header => Some(&self.door),
            Expect::Refuse => {
                tracing::info!(%peer, "refused: it is none of proxy_protocol_sources, and every connection is to come from these");
                None
            }
        }
    }

    /// The connection as its client's, admitted by the door of its port. None if it is not to be served.
    pub(super) async fn lead_in(&self, accepted: Accepted, port: &Door) -> Option<Accepted> {
        let expect = self.protocol.expect(accepted.peer.ip());
        if expect == Expect::None {
            return Some(accepted);
        }
        let Accepted { mut stream, peer: sender, local, admitted: mut waiting } = accepted;
        let reading = tokio::time::timeout(PATIENCE, read(&mut stream, expect == Expect::Either));
        let source = match reading.await {
            Ok(Ok(source)) => source,
            // As those come who look whether the port is open.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Ok(Err(error)) => {
                tracing::info!(%sender, error = &error as &dyn std::error::Error, "no header of the PROXY protocol");
                waiting.record(Outcome::Failed);
                return None;
            }
            Err(_) => {
                tracing::info!(%sender, "no header of the PROXY protocol came in time");
                waiting.record(Outcome::GraceExceeded);
                return None;
            }
        };
        let peer = source.unwrap_or(sender);
        let admitted = port.admit_or_say(peer.ip(), &stream)?;
        Some(Accepted { stream, peer, local, admitted })
    }

    /// Whether headers are taken from anybody.
    pub(crate) fn is_open(&self) -> bool {
        self.protocol.mode() != HeaderMode::Off
    }
}

/// Takes the header off, and says where the client is, if it says so. Reads nothing that is behind it.
async fn read(stream: &mut TcpStream, optional: bool) -> io::Result<Option<SocketAddr>> {
    if optional {
        // The first byte tells: neither SSH nor TLS begins as a header does.
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !begins_header(first) {
            return Ok(None);
        }
    }
    let mut bytes = BytesMut::new();
    loop {
        match Header::read(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Beginning::Header(header) => return Ok(header.source),
            Beginning::Needs(more) => {
                let begin = bytes.len();
                bytes.resize(begin + more, 0);
                stream.read_exact(bytes.get_mut(begin..).unwrap_or_default()).await?;
            }
        }
    }
}

fn begins_header(first: [u8; 1]) -> bool {
    matches!(first, [b'P' | b'\r']) && protocol(&first) == Protocol::Partial
}
