//! The connection of a client: made when needed, shared by all calls, replaced when it is lost or the identity changes.

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use teleport_core::api::{ApiError, ApiResult};
use teleport_core::cert::{SERVICE_DNS_NAME, TrustBundle};
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::task::TaskScope;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::{ClientIdentity, Connector};
use crate::identity::HostMaterial;
use crate::rpc::io::{BoxedIo, ScopeExecutor};
use crate::rpc::routes::Route;
use crate::rpc::tls::{ServerTrust, TlsIdentity, client_config, server_roles};
use crate::rpc::trace;
use crate::view::jitter;

/// How long TLS and the beginning of HTTP/2 may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often the other side is asked whether it is there, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));
/// Waiting between attempts to connect: doubled with each failure, from the first to the last, less a random part.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How often a call that was not sent is tried over another connection.
const ATTEMPTS: u32 = 3;
/// What may be on its way to us at once: a part of a recording.
const WINDOW: u32 = 2 << 20;

/// Requests with whole bodies.
pub(crate) type H2 = SendRequest<Full<Bytes>>;

/// A connection that may be in use.
pub(crate) struct Live {
    sender: H2,
    /// The identity it was made with.
    material: Option<Arc<HostMaterial>>,
    /// When something was answered on it last; at first, when it was made.
    answered: std::sync::Mutex<Instant>,
    /// Drives it; it ends with the last call.
    _driver: TaskScope,
}

impl Live {
    fn heard(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_silent_since(&self, since: Instant) -> bool {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) <= since
    }
}

/// When to try again.
#[derive(Debug, Default)]
struct Attempts {
    failures: u32,
    not_before: Option<Instant>,
}

pub(super) struct Connections {
    connector: Arc<dyn Connector>,
    identity: ClientIdentity,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    live: ArcSwapOption<Live>,
    attempts: Mutex<Attempts>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("connector", &self.connector)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Connections {
    pub(super) fn new(
        connector: Arc<dyn Connector>,
        identity: ClientIdentity,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { connector, identity, clock, entropy, live: ArcSwapOption::empty(), attempts: Mutex::default() }
    }

    /// Sends a request. The connection is to be kept until the answer has been read.
    pub(super) async fn send(
        &self,
        route: &Route,
        body: Bytes,
        deadline: Instant,
    ) -> ApiResult<(Response<Incoming>, Arc<Live>)> {
        let mut attempt = 1;
        loop {
            let live = self.live(deadline).await?;
            let request = request(route, body.clone())?;
            match live.sender.clone().try_send_request(request).await {
                Ok(answer) => {
                    live.heard();
                    // The certificate was renewed while the connection lived: the new one may do better.
                    let stale = answer.status() == StatusCode::UNAUTHORIZED && !self.is_current(&live);
                    if !stale || attempt >= ATTEMPTS {
                        return Ok((answer, live));
                    }
                }
                Err(mut failed) => {
                    self.forget(&live);
                    // What comes back was never sent.
                    if failed.take_message().is_none() || attempt >= ATTEMPTS {
                        return Err(ApiError::unavailable(failed.into_error()));
                    }
                }
            }
            attempt += 1;
        }
    }

    /// A call that began at `since` has got no answer in its time. If nobody else has got one since either, the other side hangs or
    /// cannot be reached any more: the next call is for another connection, if there is another place then to that one. Those that
    /// still wait here go on.
    pub(super) fn doubt(&self, since: Instant) {
        let Some(live) = self.live.load_full() else {
            // All of the time went by before there was a connection.
            self.connector.pass_over();
            return;
        };
        if live.is_silent_since(since) {
            self.forget(&live);
            self.connector.pass_over();
        }
    }

    /// Something else on the same way has been silent since `since`. If nothing was answered here either since then, the next call is for
    /// another connection; those that wait go on.
    pub(super) fn suspect(&self, since: Instant) {
        if let Some(live) = self.live.load_full().filter(|live| live.is_silent_since(since)) {
            tracing::info!(
                "the network may be another one: the next call to the auth service goes by a new connection"
            );
            self.forget(&live);
        }
    }

    fn is_current(&self, live: &Live) -> bool {
        match (&self.identity, &live.material) {
            (ClientIdentity::Host(handle), Some(material)) => Arc::ptr_eq(&handle.current(), material),
            _ => true,
        }
    }

    fn usable(&self) -> Option<Arc<Live>> {
        self.live.load_full().filter(|live| !live.sender.is_closed() && self.is_current(live))
    }

    fn forget(&self, live: &Arc<Live>) {
        self.live.rcu(|current| current.clone().filter(|current| !Arc::ptr_eq(current, live)));
    }

    /// The connection; a new one if there is none that can be used. One caller makes it, the others wait for that.
    async fn live(&self, deadline: Instant) -> ApiResult<Arc<Live>> {
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        let mut attempts = self.attempts.lock().await;
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        if let Some(not_before) = attempts.not_before {
            if not_before >= deadline {
                return Err(ApiError::unavailable(
                    "connecting has failed just now, the next attempt is later",
                ));
            }
            tokio::time::sleep_until(not_before).await;
        }
        match self.connect_somewhere().await {
            Ok(live) => {
                *attempts = Attempts::default();
                let live = Arc::new(live);
                self.live.store(Some(Arc::clone(&live)));
                Ok(live)
            }
            Err(error) => {
                let wait = pause(attempts.failures, &*self.entropy);
                attempts.failures = attempts.failures.saturating_add(1);
                attempts.not_before = Some(Instant::now() + wait);
                Err(ApiError::unavailable(error))
            }
        }
    }

    /// A connection to one of the places that there are. That one of them is reached does not say that somebody serves there.
    async fn connect_somewhere(&self) -> io::Result<Live> {
        let mut left = self.connector.ways();
        loop {
            let stream = self.connector.connect().await?;
            left = left.saturating_sub(1);
            match self.begin(stream).await {
                Err(error) => {
                    self.connector.pass_over();
                    if left == 0 {
                        return Err(error);
                    }
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "one auth service does not answer"
                    );
                }
                live => return live,
            }
        }
    }

    async fn begin(&self, stream: BoxedIo) -> io::Result<Live> {
        let (material, config) = self.config().map_err(io::Error::other)?;
        let name = ServerName::try_from(SERVICE_DNS_NAME).map_err(io::Error::other)?;
        let (sender, driver, _) = handshake(stream, name, Arc::new(config)).await?;
        Ok(Live { sender, material, answered: std::sync::Mutex::new(Instant::now()), _driver: driver })
    }

    fn config(&self) -> Result<(Option<Arc<HostMaterial>>, ClientConfig), rustls::Error> {
        let build = |trust: &TrustBundle, identity| {
            let trust = ServerTrust::Bundle(trust.clone());
            let protocols = vec![self.connector.protocol()];
            client_config(trust, server_roles::AUTH, identity, protocols, Arc::clone(&self.clock), None)
        };
        match &self.identity {
            ClientIdentity::Anonymous(trust) => Ok((None, build(trust, None)?)),
            ClientIdentity::Host(handle) => {
                let material = handle.current();
                let certificate = material.tls_certificate.clone();
                let identity = TlsIdentity { certificate, key: material.tls.to_rustls() };
                let config = build(&material.trust, Some(identity))?;
                Ok((Some(material), config))
            }
            ClientIdentity::User(user) => {
                let identity =
                    TlsIdentity { certificate: user.certificate.clone(), key: user.tls.to_rustls() };
                Ok((None, build(&user.trust, Some(identity))?))
            }
        }
    }
}

/// How long nothing is tried after so many failures before. Thousands who have lost the same service in the same instant do not come
/// back in step: however their callers wait, this is where the calls of one process meet.
fn pause(failures: u32, entropy: &dyn Entropy) -> Duration {
    jitter(BACKOFF.0.saturating_mul(1 << failures.min(10)).min(BACKOFF.1), entropy)
}

/// TLS and HTTP/2 on a fresh connection; the third part is the leaf that the server presented. The scope drives the connection.
pub(crate) async fn handshake(
    stream: BoxedIo,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> io::Result<(H2, TaskScope, Vec<u8>)> {
    let begin = async {
        let tls = TlsConnector::from(config).connect(name, stream).await?;
        let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let leaf = leaf.map(|leaf| leaf.to_vec()).unwrap_or_default();
        let scope = TaskScope::new();
        let mut http = http2::Builder::new(ScopeExecutor(scope.clone()));
        http.timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 2)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .keep_alive_while_idle(true);
        let (sender, connection) = http.handshake(TokioIo::new(tls)).await.map_err(io::Error::other)?;
        scope.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "the connection broke off");
            }
        });
        Ok((sender, scope, leaf))
    };
    match tokio::time::timeout(HANDSHAKE, begin).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")),
    }
}

fn request(route: &Route, body: Bytes) -> ApiResult<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = route.method();
    *request.uri_mut() = format!("https://{SERVICE_DNS_NAME}{route}").parse().map_err(ApiError::internal)?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    trace::name(request.headers_mut());
    Ok(request)
}

/// Reads an answer of at most `max` bytes.
pub(crate) async fn read_answer(mut body: Incoming, max: usize) -> ApiResult<Bytes> {
    let mut bytes =
        BytesMut::with_capacity(usize::try_from(body.size_hint().lower()).unwrap_or(0).min(1 << 16));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(ApiError::unavailable)?.into_data() {
            if bytes.len().saturating_add(data.len()) > max {
                return Err(ApiError::unavailable("the answer is too long"));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use teleport_core::entropy::SystemEntropy;

    use super::*;

    #[test]
    fn those_who_lose_a_service_together_do_not_come_back_together() {
        let entropy = SystemEntropy::new();
        for failures in [0, 3, 7, 40] {
            let whole = BACKOFF.0.saturating_mul(1 << failures.min(10)).min(BACKOFF.1);
            let pauses: Vec<_> = (0..1000).map(|_| pause(failures, &entropy)).collect();
            assert!(pauses.iter().all(|pause| (whole / 2..=whole).contains(pause)), "{failures}");
            // In each tenth of the half that is left to chance there is somebody.
            let tenths =
                pauses.iter().map(|pause| ((*pause - whole / 2).as_nanos() * 19 / whole.as_nanos()).min(9));
            assert_eq!(tenths.collect::<BTreeSet<_>>().len(), 10, "{failures}");
        }
    }
}
