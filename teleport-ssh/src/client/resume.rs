//! Connections to nodes that survive the loss of what carries them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::entropy::Entropy;
use teleport_core::target::DialTarget;
use teleport_core::task::TaskScope;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::{SshClient, within};
use super::connection::ProxyConnection;
use super::error::ConnectError;
use super::openssh::ProxyAddress;
use super::shared_proxy::SharedProxy;
use crate::resume::{ClientLane, Observer, Redial, Undialled, identification};
use crate::rpc::{BoxedIo, Prefixed};

pub use crate::resume::Notice;

/// How long the last words of a connection may take.
pub(super) const GOODBYE: Duration = Duration::from_secs(1);

/// Resumes connections to nodes that offer it: a connection that breaks is carried on by another one, through the same proxy and with the
/// same credentials, and what runs over it does not notice. Shared by its clones, which end with the last of them.
#[derive(Clone)]
pub struct Resumption(Arc<Shared>);

struct Shared {
    entropy: Arc<dyn Entropy>,
    observer: Observer,
    tasks: TaskScope,
    lanes: Mutex<Vec<ClientLane>>,
}

impl fmt::Debug for Resumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumption").field("connections", &self.0.tasks.len()).finish_non_exhaustive()
    }
}

impl Resumption {
    /// `observer` hears of losses that last, and of their end.
    pub fn new(entropy: Arc<dyn Entropy>, observer: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        let shared = Shared {
            entropy,
            observer: Arc::new(observer),
            tasks: TaskScope::new(),
            lanes: Mutex::default(),
        };
        Self(Arc::new(shared))
    }

    /// Ends all connections, and tells the nodes, which would keep them for their return otherwise. Takes a second at most. To be
    /// called before a program ends, however it does.
    pub async fn finish(&self) {
        let lanes = std::mem::take(&mut *self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner));
        futures_util::future::join_all(lanes.iter().map(|lane| lane.finish(GOODBYE))).await;
    }

    /// A way to the node `name` over one through a proxy that was opened: one that can be resumed, if the node offers it. Whoever hears
    /// of it reads `shown`.
    pub(super) async fn begin(
        &self,
        mut wire: Wire,
        way: Way,
        name: &str,
        shown: &str,
    ) -> Result<(BoxedIo, Result<ClientLane, Arc<ProxyConnection>>), ConnectError> {
        let peer = format!("node {name}");
        let broken = |error| ConnectError::ssh(&peer, error);
        let identified = within(&peer, async { identification(&mut wire.io).await.map_err(broken) });
        let (mut read, end) = identified.await?;
        let Some(end) = end else {
            return Ok((Box::new(Prefixed::new(read, wire.io)), Err(wire.proxy)));
        };
        let name_line = read.split_to(end);
        let Shared { entropy, observer, tasks, lanes } = &*self.0;
        let (observer, entropy) = (Some(Arc::clone(observer)), Arc::clone(entropy));
        let begun = ClientLane::begin(wire, read, way, shown.to_owned(), observer, entropy);
        let (lane, stream, driver) = begun.map_err(|error| ConnectError::ssh(&peer, error))?;
        tasks.spawn(driver);
        let mut lanes = lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| !lane.is_finished());
        lanes.push(lane.clone());
        Ok((Box::new(Prefixed::new(name_line, stream)), Ok(lane)))
    }
}

/// Through what a node is reached.
pub(super) enum Through {
    /// A connection to a proxy that is for this node alone.
    Own(ProxyConnection),
    /// One that others use as well.
    Shared(SharedProxy),
}

/// Through what it is reached again.
pub(super) enum Again {
    Own(ProxyAddress),
    /// The one that was taken last, which does not count when it is lost.
    Shared(SharedProxy, Mutex<Arc<ProxyConnection>>),
}

impl From<ProxyConnection> for Through {
    fn from(proxy: ProxyConnection) -> Self {
        Self::Own(proxy)
    }
}

impl From<SharedProxy> for Through {
    fn from(proxy: SharedProxy) -> Self {
        Self::Shared(proxy)
    }
}

impl Through {
    /// A connection to the proxy, and how there is another one.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(super) async fn begin(
        self,
        client: &SshClient,
    ) -> Result<(Arc<ProxyConnection>, Again), ConnectError> {
        Ok(match self {
            Self::Own(proxy) => {
                let again = Again::Own(proxy.address().clone());
                (Arc::new(proxy), again)
            }
            Self::Shared(shared) => {
                let proxy = shared.open(None, client).await?;
                (Arc::clone(&proxy), Again::Shared(shared, Mutex::new(proxy)))
            }
        })
    }
}

impl Again {
    pub(super) fn way(self, client: &SshClient, target: &DialTarget) -> Way {
        Way { client: client.once(), again: self, target: target.clone() }
    }

    async fn proxy(&self, client: &SshClient) -> Result<Arc<ProxyConnection>, ConnectError> {
        match self {
            Self::Own(address) => Ok(Arc::new(client.proxy(address).await?)),
            Self::Shared(shared, last) => {
                let last = || last.lock().unwrap_or_else(PoisonError::into_inner);
                let lost = Arc::clone(&last());
                let proxy = shared.open(Some(&lost), client).await?;
                *last() = Arc::clone(&proxy);
                Ok(proxy)
            }
        }
    }
}

/// How the node is reached again.
pub(super) struct Way {
    client: SshClient,
    again: Again,
    target: DialTarget,
}

/// A stream to a node, and the connection to the proxy that it runs through.
pub(super) struct Wire {
    pub(super) io: BoxedIo,
    pub(super) proxy: Arc<ProxyConnection>,
}

#[async_trait]
impl Redial for Way {
    type Wire = Wire;

    async fn dial(&self) -> Result<Wire, Undialled> {
        let dialled = async {
            let proxy = self.again.proxy(&self.client).await?;
            let io = proxy.open(&self.target).await?;
            Ok(Wire { io, proxy })
        };
        dialled.await.map_err(|error: ConnectError| {
            let mut why = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                why = format!("{why}: {cause}");
                source = cause.source();
            }
            match error {
                ConnectError::Host { .. } | ConnectError::Labels | ConnectError::OwnCertificate { .. } => {
                    Undialled::Never(why)
                }
                ConnectError::Denied { .. } | ConnectError::Refused { .. } => Undialled::Refused(why),
                _ => Undialled::Unreachable(why),
            }
        })
    }

    async fn goodbye(&self, mut wire: Wire) {
        // What was said last has not reached the node as long as that has not ended its side: a proxy that is left forwards nothing more.
        let _ =
            tokio::time::timeout(GOODBYE / 2, tokio::io::copy(&mut wire.io, &mut tokio::io::sink())).await;
        if let Some(proxy) = Arc::into_inner(wire.proxy) {
            proxy.end(GOODBYE / 2).await;
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, out)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
