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
use super::peek::{self, Begun};
use super::plain;
use super::routes::Routes;
use super::tunnels::TunnelDoor;
use crate::identity::HostIdentityHandle;
use crate::listener::limits::Outcome;
use crate::listener::{Accepted, Admitted};
use crate::origin::take_header;
use crate::proxy::Entrance;
use crate::rpc::tls::auth_alpn;
use crate::rpc::{Activity, BoxedIo, Prefixed, ScopeExecutor};
use crate::tunnel;

/// How long the ClientHello, the TLS handshake and a request's header may take, each.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may do nothing.
const IDLE: Duration = Duration::from_secs(30);
/// The protocol (ALPN) by which whoever may speak nothing but TLS asks for SSH within it.
pub const SSH_ALPN: &[u8] = b"teleport-proxy-ssh";
/// Requests of one connection at the same time.
const MAX_STREAMS: u32 = 32;

pub(super) struct Connections {
    pub(super) routes: Arc<Routes>,
    /// `None` if the provider cannot do TLS, which does not happen.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// The same for SSH within TLS.
    pub(super) tls_ssh: Option<Arc<ServerConfig>>,
    /// The same for authorities that ask for a proof of a name.
    #[cfg(feature = "acme")]
    pub(super) proofs: Option<Arc<ServerConfig>>,
    pub(super) identity: HostIdentityHandle,
    /// The way to the auth service, if there is one.
    pub(super) passes: Option<Passes>,
    /// Where tunnels of nodes are taken in, if they are.
    pub(super) tunnels: Option<TunnelDoor>,
    /// Whether that is at a port of its own.
    pub(super) tunnels_apart: bool,
    /// The proxy's SSH server, if it is led to.
    pub(super) ssh: Option<Entrance>,
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
            let begun = peek::begin(&mut stream).await?;
            Ok::<_, io::Error>((header, begun, stream))
        };
        let (header, begun, stream) = match tokio::time::timeout(self.patience(), begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a connection without a beginning");
                return;
            }
            Err(_) => {
                admitted.record(Outcome::GraceExceeded);
                return;
            }
        };
        let hello = match begun {
            Begun::Tls(hello) => hello,
            // What another proxy says of its client is for the auth service, and that speaks TLS.
            _ if header.is_some() => return,
            Begun::Ssh(read) => {
                return self.lead_to_ssh(Box::new(Prefixed::new(read, stream)), peer, admitted);
            }
            Begun::Http => {
                let _ = tokio::time::timeout(self.patience(), plain::refuse(stream)).await;
                return;
            }
        };
        let ours = auth_alpn(&self.identity.current().cluster);
        if hello.protocols.contains(&ours) {
            let Some(passes) = &self.passes else { return };
            let Some(pass) = passes.admit(peer) else { return };
            // It counts at this port no longer: it has limits of its own, and may last as long as a node.
            admitted.record(Outcome::Authenticated);
            drop(admitted);
            passes.pass_on(stream, (header, hello), pass, &shutdown).await;
            return;
        }
        if header.is_some() {
            return;
        }
        let asks = |name: &[u8]| hello.protocols.iter().any(|asked| asked == name);
        if let Some(tunnels) = &self.tunnels
            && asks(tunnel::ALPN)
            && !self.tunnels_apart
        {
            let stream = Prefixed::new(hello.bytes, stream);
            tunnels.serve(stream, peer, (admitted, self.patience()), &shutdown).await;
            return;
        }
        // Whoever asks for what there is not here hears so: no protocol of the configuration is theirs.
        let config = if self.ssh.is_some() && asks(SSH_ALPN) { &self.tls_ssh } else { &self.tls };
        let Some(config) = config.clone() else { return };
        let stream = Prefixed::new(hello.bytes, stream);
        #[cfg(feature = "acme")]
        if hello.protocols == [crate::acme::TLS_ALPN] {
            let Some(config) = self.proofs.clone() else { return };
            // Those who ask so want to see the certificate, and nothing else.
            let _ = tokio::time::timeout(self.patience(), TlsAcceptor::from(config).accept(stream)).await;
            return;
        }
        match tokio::time::timeout(self.patience(), TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(tls)) if tls.get_ref().1.alpn_protocol() == Some(SSH_ALPN) => {
                self.lead_to_ssh(Box::new(tls), peer, admitted);
            }
            Ok(Ok(tls)) => self.requests(tls, peer, shutdown).await,
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a TLS handshake failed");
            }
            Err(_) => admitted.record(Outcome::GraceExceeded),
        }
    }

    /// Serves one connection to the port of tunnels.
    pub(super) async fn serve_tunnel(self: Arc<Self>, accepted: Accepted, shutdown: Shutdown) {
        let Accepted { mut stream, peer, mut admitted, .. } = accepted;
        let Some(tunnels) = &self.tunnels else { return };
        match tokio::time::timeout(self.patience(), peek::hello(&mut stream)).await {
            Ok(Ok(hello)) if hello.protocols.iter().any(|asked| asked == tunnel::ALPN) => {
                let stream = Prefixed::new(hello.bytes, stream);
                tunnels.serve(stream, peer, (admitted, self.patience()), &shutdown).await;
            }
            Ok(_) => tracing::debug!(%peer, "no tunnel at the port of tunnels"),
            Err(_) => admitted.record(Outcome::GraceExceeded),
        }
    }

    /// From here on it counts at the door of SSH, and not at this one any more.
    fn lead_to_ssh(&self, stream: BoxedIo, peer: SocketAddr, mut admitted: Admitted) {
        admitted.record(Outcome::Unblamed);
        drop(admitted);
        match &self.ssh {
            Some(entrance) => entrance.enter(stream, peer),
            None => tracing::debug!(%peer, "SSH is not served at this port"),
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
