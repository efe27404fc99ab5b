//! One connection to the proxy's HTTPS.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use teleport_core::api::ProxyAccess;
use teleport_core::task::{Shutdown, TaskScope};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::pass::Passes;
use super::peek;
use super::routes::Routes;
use super::tunnels::TunnelDoor;
use crate::identity::HostIdentityHandle;
use crate::listener::Accepted;
use crate::listener::limits::Outcome;
use crate::origin::take_header;
use crate::rpc::tls::auth_alpn;
use crate::rpc::{Activity, Prefixed, ScopeExecutor};
use crate::tunnel;

/// How long the ClientHello, the TLS handshake and a request's header may take, each.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may do nothing.
const IDLE: Duration = Duration::from_secs(30);
/// Requests of one connection at the same time.
const MAX_STREAMS: u32 = 32;

pub(super) struct Connections {
    pub(super) routes: Arc<Routes>,
    /// `None` if the provider cannot do TLS, which does not happen.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// The same for authorities that ask for a proof of a name.
    #[cfg(feature = "acme")]
    pub(super) proofs: Option<Arc<ServerConfig>>,
    pub(super) identity: HostIdentityHandle,
    /// The way to the auth service, if there is one.
    pub(super) passes: Option<Passes>,
    /// Where tunnels of nodes are taken in, if they are.
    pub(super) tunnels: Option<TunnelDoor>,
    pub(super) grace: Duration,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Connections {
    fn patience(&self) -> Duration {
        HANDSHAKE.min(self.grace)
    }

    /// Lets connections to the auth service pass once it has answered `api`.
    pub(super) async fn open_passes(&self, api: &dyn ProxyAccess) {
        if let Some(passes) = &self.passes {
            passes.open(api).await;
        }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(self: Arc<Self>, accepted: Accepted, shutdown: Shutdown) {
        let Accepted { mut stream, peer, mut admitted, .. } = accepted;
        let begin = async {
            let (header, read) = take_header(&mut stream).await?;
            let mut stream = Prefixed::new(read, stream);
            let hello = peek::hello(&mut stream).await?;
            Ok::<_, io::Error>((header, hello, stream))
        };
        let (header, hello, stream) = match tokio::time::timeout(self.patience(), begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "not a TLS client");
                return;
            }
            Err(_) => {
                admitted.record(Outcome::GraceExceeded);
                return;
            }
        };
        let ours = auth_alpn(&self.identity.current().cluster);
        if hello.protocols.contains(&ours) {
            let Some(passes) = &self.passes else { return };
            let Some(pass) = passes.admit(peer) else { return };
            // It no longer counts among the strangers of this port: it has limits of its own.
            admitted.record(Outcome::Authenticated);
            passes.pass_on(stream, (header, hello), pass, &shutdown).await;
            return;
        }
        if header.is_some() {
            // What another proxy says of its client is for the auth service.
            return;
        }
        if hello.protocols.iter().any(|name| name == tunnel::ALPN) {
            let Some(tunnels) = &self.tunnels else { return };
            let stream = Prefixed::new(hello.bytes, stream);
            tunnels.serve(stream, peer, (&mut admitted, self.patience()), &shutdown).await;
            return;
        }
        let stream = Prefixed::new(hello.bytes, stream);
        #[cfg(feature = "acme")]
        if hello.protocols == [crate::acme::TLS_ALPN] {
            let Some(config) = self.proofs.clone() else { return };
            // Those who ask so want to see the certificate, and nothing else.
            let _ = tokio::time::timeout(self.patience(), TlsAcceptor::from(config).accept(stream)).await;
            return;
        }
        let Some(config) = self.tls.clone() else { return };
        match tokio::time::timeout(self.patience(), TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(tls)) => self.requests(tls, peer, shutdown).await,
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a TLS handshake failed");
            }
            Err(_) => admitted.record(Outcome::GraceExceeded),
        }
    }

    async fn requests<S>(&self, tls: S, peer: SocketAddr, shutdown: Shutdown)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let scope = TaskScope::new();
        let activity = Arc::new(Activity::default());
        let service = service_fn(|request: Request<Incoming>| {
            let (routes, busy) = (Arc::clone(&self.routes), activity.begin());
            async move {
                let answer = routes.answer(request, peer.ip()).await;
                drop(busy);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut http = auto::Builder::new(ScopeExecutor(scope.clone()));
        http.http1().timer(TokioTimer::new()).header_read_timeout(self.patience()).max_buf_size(64 << 10);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(16 << 10)
            .keep_alive_interval(Duration::from_secs(20));
        let mut connection = pin!(http.serve_connection(TokioIo::new(tls), service));
        let mut idle = pin!(activity.idle_for(Some(IDLE), self.patience()));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = idle.as_mut() => return,
            () = shutdown.draining() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error = &*error, "a connection broke off");
        }
    }
}
