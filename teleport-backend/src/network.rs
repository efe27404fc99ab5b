//! The network, as drivers for servers need it. This crate opens no sockets: the program gives an implementation.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use teleport_core::entropy::Entropy;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// A connection, with or without TLS.
pub type BoxedStream = Box<dyn ByteStream>;

/// How a connection is secured. The files are read for each connection, so renewed ones are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsOptions {
    /// The authorities that may have signed the server's certificate, in PEM; those of the system if absent.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The protocol to agree upon (ALPN).
    pub protocol: Option<&'static str>,
}

/// Makes connections.
///
/// # Contract
/// TLS means that the server's certificate was verified for the host; nothing weaker is offered. Dropping a future closes what it
/// had opened. The drivers bound the time of every call.
#[async_trait]
pub trait Network: fmt::Debug + Send + Sync + 'static {
    /// A TCP connection, without delays for small packets.
    ///
    /// # Errors
    /// Those of the network.
    async fn connect(&self, host: &str, port: u16) -> io::Result<BoxedStream>;

    /// TLS over a connection.
    ///
    /// # Errors
    /// A file cannot be used, or the server's certificate is not the host's.
    async fn secure(&self, stream: BoxedStream, host: &str, tls: &TlsOptions) -> io::Result<BoxedStream>;
}

/// What drivers for servers need beyond a clock.
#[derive(Clone, Debug)]
pub struct Remote {
    network: Arc<dyn Network>,
    entropy: Arc<dyn Entropy>,
}

impl Remote {
    /// `entropy` spreads the times of reconnecting and names the holders of short-lived claims.
    pub fn new(network: Arc<dyn Network>, entropy: Arc<dyn Entropy>) -> Self {
        Self { network, entropy }
    }

    pub(crate) fn network(&self) -> &dyn Network {
        &*self.network
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }
}
