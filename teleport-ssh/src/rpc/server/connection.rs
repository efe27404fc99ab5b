//! One connection: handshake, who is it, requests, and the ends that it can come to.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use teleport_core::access::Unwelcome;
use teleport_core::api::{ApiError, ApiErrorKind, ApiResult, AuthApi};
use teleport_core::auth::Caller;
use teleport_core::cert::{CertRejected, Identity};
use teleport_core::clock::Clock;
use teleport_core::origin::{Audience, OriginRejected};
use teleport_core::task::{Shutdown, TaskScope};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::Services;
use super::calls::Calls;
use super::figures::ApiFigures;
use super::strangers::Strangers;
use crate::listener::Admitted;
use crate::listener::limits::Outcome;
use crate::origin::{Arrival, OriginVerifier, take_header};
use crate::rpc::http::{Answer, ErrorBody, json, refuse};
use crate::rpc::routes::Route;
use crate::rpc::tls::{Authenticator, TlsServer};
use crate::rpc::{Activity, Prefixed, ScopeExecutor, trace};
use crate::view::AccessCache;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection without a certificate may last: joining and logging in is one request each.
const STRANGER_LIFE: Duration = Duration::from_secs(15);
/// How long after it what was begun may take.
const STRANGER_FAREWELL: Duration = Duration::from_secs(5);
/// When a connection is older than this, whoever is at its other end has shown a certificate that is accepted: with some seconds for the
/// way. Proxies, which see nothing of what they pass on, know their strangers by it.
pub(crate) const STRANGERS_GONE: Duration = HANDSHAKE
    .saturating_add(STRANGER_LIFE)
    .saturating_add(STRANGER_FAREWELL)
    .saturating_add(Duration::from_secs(5));
/// How often it is looked whether a certificate is still accepted, beside at each request.
const LOOK: Duration = Duration::from_secs(20);
/// Requests and watches of one connection at the same time, and calls that go on although nobody waits for them any more.
const MAX_STREAMS: u32 = 256;
/// How much a connection without a certificate may ask for in all: joining takes one call, and whom to trust another.
const STRANGER_CALLS: u32 = 4;
/// How often the other side is asked whether it is still there, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How much of an answer waits for a slow reader, for each stream.
const SEND_BUFFER: usize = 256 << 10;

/// What a connection occupies.
#[derive(Debug)]
pub(super) enum Place {
    /// One at a port.
    Door(Admitted),
    /// None: a service of this process.
    Member,
    /// None here: a proxy of this process, which has limits for them, passes somebody on, and says so.
    Passed,
}

impl Place {
    fn record(&mut self, outcome: Outcome) {
        if let Self::Door(admitted) = self {
            admitted.record(outcome);
        }
    }

    /// A call of this connection panicked.
    pub(super) fn crashed(&self) {
        if let Self::Door(admitted) = self {
            admitted.crashed();
        }
    }

    /// Behind whose address there may be many: nobody here sees how many.
    fn is_crowd(&self) -> bool {
        matches!(self, Self::Door(admitted) if admitted.is_exempt())
    }
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
struct Origin {
    arrival: Arrival,
    /// As the service hears of it; `None` for services of this process alone, which is how it knows them.
    remote: Option<SocketAddr>,
    /// Whether it is the address of a proxy.
    crowd: bool,
}

impl Origin {
    /// The client, or what stands for it.
    fn peer(&self) -> SocketAddr {
        self.arrival.client()
    }
}

/// Why a connection did not come to its requests.
#[derive(Debug, thiserror::Error)]
enum NotBegun {
    #[error(transparent)]
    Origin(#[from] OriginRejected),
    #[error(transparent)]
    Tls(#[from] io::Error),
}

/// Serves connections, wherever they come from.
#[derive(Debug)]
pub(super) struct Connections {
    service: Arc<dyn Services>,
    tls: TlsServer,
    clock: Arc<dyn Clock>,
    origins: OriginVerifier,
    /// Which proxies there are, which of them are locked, and whom to trust; followed while the server serves.
    pub(super) view: AccessCache,
    handshake: Duration,
    stranger_life: Duration,
    strangers: Strangers,
    /// What was asked.
    pub(super) figures: ApiFigures,
}

impl Connections {
    pub(super) fn new(
        service: Arc<dyn Services>,
        tls: TlsServer,
        clock: Arc<dyn Clock>,
        grace: Duration,
    ) -> Self {
        let (handshake, stranger_life) = (HANDSHAKE.min(grace), STRANGER_LIFE.min(grace));
        let strangers = Strangers::default();
        let origins = OriginVerifier::new(Audience::Auth, Arc::clone(&clock));
        let view = AccessCache::new(Duration::MAX);
        let figures = ApiFigures::default();
        Self { service, tls, clock, origins, view, handshake, stranger_life, strangers, figures }
    }

    /// Where a connection comes from, and what was read of it beside.
    async fn arrive(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        peer: SocketAddr,
    ) -> Result<(Arrival, BytesMut), NotBegun> {
        let (header, rest) = take_header(stream).await?;
        let Some(header) = header else { return Ok((Arrival::direct(peer), rest)) };
        // In the first moment after a start there is none yet.
        let view = self.view.ready().await.ok_or(OriginRejected::Trust)?;
        let origin = self.origins.verify(&header, &view.trust)?;
        Ok((Arrival::carried(peer, origin, &view, self.clock.now()), rest))
    }

    /// The address for credentials that are bound to one.
    fn address(&self, arrival: &Arrival) -> Option<IpAddr> {
        arrival.address(&*self.view.current()?, self.clock.now())
    }

    /// Serves one connection to its end. What goes wrong here is the peer's doing and is not a warning. Calls run in `calls`, which
    /// outlives the connection.
    pub(super) async fn serve<S>(
        self: Arc<Self>,
        mut stream: S,
        peer: SocketAddr,
        mut place: Place,
        calls: TaskScope,
        shutdown: Shutdown,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let built = match self.tls.current() {
            Ok(built) => built,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the auth server has no usable identity"
                );
                return;
            }
        };
        let begin = async {
            let (arrival, read) = self.arrive(&mut stream, peer).await?;
            let acceptor = TlsAcceptor::from(Arc::clone(&built.config));
            Ok::<_, NotBegun>((acceptor.accept(Prefixed::new(read, stream)).await?, arrival))
        };
        let (tls, arrival) = match tokio::time::timeout(self.handshake, begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(NotBegun::Origin(reason))) => {
                place.record(Outcome::Failed);
                tracing::warn!(%peer, error = &reason as &dyn std::error::Error, "a connection was refused");
                return;
            }
            Ok(Err(error)) => {
                place.record(Outcome::Failed);
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a TLS handshake failed");
                return;
            }
            Err(_) => {
                place.record(Outcome::GraceExceeded);
                tracing::debug!(%peer, "a TLS handshake took too long");
                return;
            }
        };
        let peer = arrival.client();
        let carried = arrival.proxy().is_some();
        if carried && matches!(place, Place::Member) {
            place = Place::Passed;
        }
        let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let leaf = leaf.map(|leaf| leaf.clone().into_owned());
        let remote = (!matches!(place, Place::Member)).then_some(peer);
        let origin = Origin { arrival, remote, crowd: !carried && place.is_crowd() };
        let guard = match Guard::new(leaf, origin, Arc::clone(&built.authenticator), Arc::clone(&self)) {
            Ok(guard) => guard,
            Err(reason) => {
                place.record(Outcome::Failed);
                tracing::info!(%peer, %reason, "a client certificate was refused");
                return;
            }
        };
        if guard.is_known() {
            place.record(Outcome::Authenticated);
        }
        let guard = Arc::new(guard);
        let most = if guard.is_known() { MAX_STREAMS } else { STRANGER_CALLS };
        let figures = self.figures.clone();
        let calls = Calls::new(calls, most, place, Arc::clone(&guard), shutdown.clone(), figures);
        let calls = Arc::new(calls);
        self.requests(tls, guard, calls, shutdown).await;
    }

    async fn requests<S>(&self, tls: S, guard: Arc<Guard>, calls: Arc<Calls>, shutdown: Shutdown)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let scope = TaskScope::new();
        let activity = Arc::new(Activity::default());
        let streams = calls.most();
        let service = service_fn(|request: Request<Incoming>| {
            let (guard, calls, busy) = (Arc::clone(&guard), Arc::clone(&calls), activity.begin());
            async move {
                let answer = match Self::admit(&request, &guard) {
                    Ok(route) => {
                        let traced = guard.trace_of(&request);
                        calls.run(route, request.into_body(), busy, traced).await
                    }
                    Err(refusal) => *refusal,
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let mut http = http2::Builder::new(ScopeExecutor(scope.clone()));
        http.timer(TokioTimer::new())
            .max_concurrent_streams(streams)
            .max_header_list_size(16 << 10)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1);
        let mut connection = pin!(http.serve_connection(TokioIo::new(tls), service));
        let mut wordless = pin!(activity.idle_for(None, self.handshake));
        let mut old = pin!(async {
            match guard.is_known() {
                true => std::future::pending().await,
                false => tokio::select! {
                    () = tokio::time::sleep(self.stranger_life) => {}
                    () = guard.spent.notified() => {}
                },
            }
        });
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = wordless.as_mut() => return,
            () = old.as_mut() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(STRANGER_FAREWELL, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
            () = guard.no_longer_accepted() => {
                // What was begun is finished, a refusal included; nothing new is taken.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = shutdown.draining() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %guard.origin.peer(), error = &error as &dyn std::error::Error, "a connection broke off");
        }
    }

    /// What is asked for, if the caller may ask at all.
    fn admit<B>(request: &Request<B>, guard: &Guard) -> Result<Route, Box<Answer>> {
        let Some(route) = Route::parse(request.method(), request.uri().path()) else {
            return Err(refuse(&ApiError::not_found("the route")).into());
        };
        if let Err(why) = guard.way() {
            guard.refused.notify_one();
            return Err(refuse(&guard.not_this_way(why)).into());
        }
        if !guard.still_accepted() {
            guard.refused.notify_one();
            return Err(unauthorized("the certificate is no longer accepted").into());
        }
        if !guard.is_known() && !route.is_public() {
            return Err(unauthorized("a client certificate is needed").into());
        }
        if !guard.is_known() {
            guard.spend(route == Route::Join).map_err(|error| refuse(&error))?;
        }
        Ok(route)
    }

    /// By whom certificates are judged now; what was judged by an older one is judged again.
    fn authenticator(&self) -> Option<Arc<Authenticator>> {
        self.tls.current().ok().map(|built| Arc::clone(&built.authenticator))
    }
}

fn unauthorized(reason: &str) -> Answer {
    json(StatusCode::UNAUTHORIZED, &ErrorBody::new(&ApiError::new(ApiErrorKind::Denied, reason)))
}

/// Who is at the other end, looked at again with each request: a connection ends with the certificate or the trust that it was
/// opened with.
#[derive(Debug)]
pub(super) struct Guard {
    leaf: Option<CertificateDer<'static>>,
    identity: Option<Identity>,
    origin: Origin,
    /// What a stranger may still ask for.
    allowance: AtomicU32,
    /// It may ask for nothing more.
    spent: Notify,
    connections: Arc<Connections>,
    api: Arc<dyn AuthApi>,
    /// By whom the certificate was accepted last; `None` once it was refused.
    accepted_by: Mutex<Option<Arc<Authenticator>>>,
    refused: Notify,
}

impl Guard {
    fn new(
        leaf: Option<CertificateDer<'static>>,
        origin: Origin,
        authenticator: Arc<Authenticator>,
        connections: Arc<Connections>,
    ) -> Result<Self, CertRejected> {
        let clock = connections.clock.as_ref();
        let identity = match &leaf {
            Some(leaf) => Some(authenticator.identify(leaf, connections.address(&origin.arrival), clock)?),
            None => None,
        };
        let caller = match identity.clone() {
            Some(identity) => Caller::Identity(identity, origin.remote),
            None => Caller::Anonymous { remote: origin.remote },
        };
        Ok(Self {
            leaf,
            identity,
            origin,
            allowance: AtomicU32::new(STRANGER_CALLS),
            spent: Notify::new(),
            api: connections.service.acting_as(caller),
            connections,
            accepted_by: Mutex::new(Some(authenticator)),
            refused: Notify::new(),
        })
    }

    /// Resolves when the certificate was refused, at the latest [`LOOK`] after the reason came up. Cancel safe.
    async fn no_longer_accepted(&self) {
        let mut changes = self.connections.view.changes();
        if self.way().is_err() {
            // Who comes in spite of that is told by the answer to the first request.
            return self.refused.notified().await;
        }
        while self.still_accepted() {
            tokio::select! {
                () = self.refused.notified() => return,
                () = changes.next() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// The trace that a request is part of. Only hosts are believed: whoever else named one could have calls not be traced.
    fn trace_of<B>(&self, request: &Request<B>) -> Option<String> {
        matches!(self.identity, Some(Identity::Host(_))).then(|| trace::named(request.headers()))?
    }

    /// The API as the caller may use it.
    pub(super) fn api(&self) -> &dyn AuthApi {
        self.api.as_ref()
    }

    /// Counts a call of a stranger, and ends the connection with the last one.
    fn spend(&self, joins: bool) -> ApiResult<()> {
        let before =
            self.allowance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if before.is_err() || before == Ok(1) {
            self.spent.notify_one();
        }
        let (peer, crowd) = (self.origin.peer(), self.origin.crowd);
        let connections = &self.connections;
        if before.is_err()
            || joins && !connections.strangers.may_join(peer.ip(), crowd, connections.clock.now())
        {
            tracing::info!(%peer, "too many calls without a certificate");
            return Err(ApiError::new(ApiErrorKind::TooMany, "too many requests; try again in a minute"));
        }
        Ok(())
    }

    fn is_known(&self) -> bool {
        self.identity.is_some()
    }

    /// Whether the proxy that carries the connection, if there is one, may. Hosts may come through any: what they say goes to the end, and
    /// they have to hear of locks, that of the proxy included.
    fn way(&self) -> Result<(), Unwelcome> {
        match (self.origin.arrival.proxy(), &self.identity) {
            (None, _) | (_, Some(Identity::Host(_))) => Ok(()),
            (Some(proxy), _) => match self.connections.view.current() {
                Some(view) => view.keep_way(proxy, self.connections.clock.now()),
                None => Err(Unwelcome::Way { proxy: proxy.host_id }),
            },
        }
    }

    /// The answer to whoever comes another way than may be: users hear of a lock.
    fn not_this_way(&self, why: Unwelcome) -> ApiError {
        tracing::info!(peer = %self.origin.peer(), reason = %why, "a call was refused");
        match why {
            Unwelcome::Locked(locked) if self.is_known() => ApiError::locked(&locked),
            why => ApiError::denied().because(why),
        }
    }

    /// Whether the certificate, if there is one, and the way are accepted at this moment.
    pub(super) fn still_accepted(&self) -> bool {
        if self.way().is_err() {
            return false;
        }
        let (Some(leaf), Some(identity)) = (&self.leaf, &self.identity) else { return true };
        let clock = self.connections.clock.as_ref();
        if clock.now() >= identity.expires() {
            return false;
        }
        let Some(current) = self.connections.authenticator() else { return false };
        let mut accepted_by = self.accepted_by.lock().unwrap_or_else(PoisonError::into_inner);
        match accepted_by.as_ref() {
            None => return false,
            Some(before) if Arc::ptr_eq(before, &current) => return true,
            Some(_) => {}
        }
        // The trust has changed since: judged anew, and it must still be the same caller.
        let again = current.identify(leaf, self.connections.address(&self.origin.arrival), clock);
        *accepted_by = (again.as_ref() == Ok(identity)).then_some(current);
        accepted_by.is_some()
    }
}
