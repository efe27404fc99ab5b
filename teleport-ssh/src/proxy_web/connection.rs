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
use teleport_core::task::{Shutdown, TaskScope};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::peek::{self, Hello};
use super::routes::Routes;
use crate::identity::HostIdentityHandle;
use crate::listener::Accepted;
use crate::listener::limits::Outcome;
use crate::rpc::limits::Strangers;
use crate::rpc::tls::auth_alpn;
use crate::rpc::{Activity, Connector, Prefixed, ScopeExecutor};

/// How long the ClientHello, the TLS handshake and a request's header may take, each.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may do nothing.
const IDLE: Duration = Duration::from_secs(30);
/// How long connections to the auth service go on after draining has begun, or after the auth service has ended its side.
const FAREWELL: Duration = Duration::from_secs(5);
/// Requests of one connection at the same time.
const MAX_STREAMS: u32 = 32;

pub(super) struct Connections {
    pub(super) routes: Arc<Routes>,
    /// `None` if the provider cannot do TLS, which does not happen.
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) identity: HostIdentityHandle,
    pub(super) auth: Option<Arc<dyn Connector>>,
    pub(super) passed: Strangers,
    pub(super) grace: Duration,
}

/// Passes bytes both ways until both sides have ended. Once the auth service has, its client has a moment to do so too: it
/// cannot hold on to the connection, and with it to a place here, by saying nothing.
async fn pass(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    auth: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_auth, mut to_auth) = tokio::io::split(auth);
    let mut asking = pin!(async {
        tokio::io::copy(&mut from_client, &mut to_auth).await?;
        to_auth.shutdown().await
    });
    let mut answering = pin!(async {
        tokio::io::copy(&mut from_auth, &mut to_client).await?;
        to_client.shutdown().await
    });
    tokio::select! {
        asked = &mut asking => {
            asked?;
            answering.await
        }
        answered = &mut answering => {
            answered?;
            tokio::time::timeout(FAREWELL, asking).await.unwrap_or(Ok(()))
        }
    }
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

    /// Serves one connection to its end.
    pub(super) async fn serve(self: Arc<Self>, accepted: Accepted, shutdown: Shutdown) {
        let Accepted { mut stream, peer, mut admitted, .. } = accepted;
        let hello = match tokio::time::timeout(self.patience(), peek::hello(&mut stream)).await {
            Ok(Ok(hello)) => hello,
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
            // It no longer counts among the strangers of this port: it has limits of its own.
            let Some(guest) = self.passed.admit(peer.ip()) else {
                tracing::info!(%peer, "too many connections to the auth service");
                return;
            };
            admitted.record(Outcome::Authenticated);
            self.pass_on(stream, hello, peer, &shutdown).await;
            drop(guest);
            return;
        }
        let stream = Prefixed::new(hello.bytes, stream);
        let Some(config) = self.tls.clone() else { return };
        match tokio::time::timeout(self.patience(), TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(tls)) => self.requests(tls, peer, shutdown).await,
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a TLS handshake failed");
            }
            Err(_) => admitted.record(Outcome::GraceExceeded),
        }
    }

    /// Passes everything on to the auth service and back. It sees who its clients are and ends what is idle or refused.
    async fn pass_on(&self, mut stream: TcpStream, hello: Hello, peer: SocketAddr, shutdown: &Shutdown) {
        let Some(auth) = &self.auth else { return };
        let mut upstream = match auth.connect().await {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the auth service cannot be reached"
                );
                return;
            }
        };
        let mut downstream = Prefixed::new(hello.bytes, &mut stream);
        // There is no end to be seen in what is passed on: who is connected when this proxy drains has a moment to finish.
        let farewell = async {
            shutdown.draining().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            copied = pass(&mut downstream, &mut upstream) => {
                if let Err(error) = copied {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(%peer, error, "a connection to the auth service broke off");
                }
            }
            () = farewell => {}
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_after_the_end_loses_the_place() {
        let (mut client, mut near) = tokio::io::duplex(64);
        let (mut far, mut auth) = tokio::io::duplex(64);
        let passing = tokio::time::timeout(2 * FAREWELL, pass(&mut near, &mut far));
        let ends = async {
            auth.write_all(b"bye").await.unwrap();
            drop(auth);
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (passed, heard) = tokio::join!(passing, ends);
        assert!(passed.is_ok(), "it waited for a client that says nothing");
        assert_eq!(heard, b"bye");
    }

    #[tokio::test]
    async fn a_client_that_has_asked_still_gets_its_answer() {
        let (mut client, mut near) = tokio::io::duplex(64);
        let (mut far, mut auth) = tokio::io::duplex(64);
        let ends = async {
            client.write_all(b"ask").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = Vec::new();
            auth.read_to_end(&mut asked).await.unwrap();
            auth.write_all(b"answer").await.unwrap();
            drop(auth);
            let mut answered = Vec::new();
            client.read_to_end(&mut answered).await.unwrap();
            (asked, answered)
        };
        let (passed, (asked, answered)) = tokio::join!(pass(&mut near, &mut far), ends);
        passed.unwrap();
        assert_eq!((asked.as_slice(), answered.as_slice()), (&b"ask"[..], &b"answer"[..]));
    }
}
