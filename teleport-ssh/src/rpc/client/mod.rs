//! The auth service as its clients see it over the wire.

mod api;
mod connection;
mod connector;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use teleport_core::api::{ApiError, ApiErrorKind, ApiResult};
use teleport_core::auth::policy::Operation;
use teleport_core::cert::TrustBundle;
use teleport_core::clock::Clock;
use teleport_core::entropy::{Entropy, SystemEntropy};
use tokio::time::Instant;
use tracing::{Instrument, field};

use self::connection::{Connections, Live};
pub(crate) use self::connection::{handshake, read_answer};
pub use self::connector::{Connector, ProxyConnector, TcpConnector};
pub(crate) use self::connector::{dial, dial_straight};
use super::http::ErrorBody;
use super::routes::Route;
use super::trace;
use crate::identity::HostIdentityHandle;
use crate::keys::TlsKeyPair;

/// How long a call may take, unless the builder says otherwise.
const DEADLINE: Duration = Duration::from_secs(15);
/// The longest answer that is read: a list of a large cluster.
const MAX_ANSWER: usize = 64 << 20;

/// A user's X.509 identity.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "clients build it")]
pub struct UserCredentials {
    /// The key.
    pub tls: TlsKeyPair,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// Whom the user trusts.
    pub trust: TrustBundle,
}

impl fmt::Debug for UserCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserCredentials").field("cluster", &self.trust.cluster).finish_non_exhaustive()
    }
}

/// As whom a client calls.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientIdentity {
    /// As nobody; only the public part answers.
    Anonymous(TrustBundle),
    /// As a host. A renewed identity is used from the next call on.
    Host(HostIdentityHandle),
    /// As a user.
    User(UserCredentials),
}

/// Speaks with the auth service. Clones share one connection, which is made when it is first needed and again when it is lost.
///
/// Many calls run over it at the same time. A call that was not sent because the connection was gone is sent again over a new one; a
/// call whose answer was lost is not: it fails with [`ApiErrorKind::Unavailable`]. Where the connector leads to several services, it goes on
/// with another one when that to which it is connected ends, refuses, or is silent for as long as a call may take.
#[derive(Clone)]
pub struct AuthClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: Connections,
    deadline: Duration,
}

impl fmt::Debug for AuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuthClient").field(&self.0.connections).finish()
    }
}

/// Settings of an [`AuthClient`].
#[derive(Debug)]
pub struct AuthClientBuilder {
    connector: Arc<dyn Connector>,
    identity: ClientIdentity,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    deadline: Duration,
}

impl AuthClientBuilder {
    /// How long a call may take, from the connection to the last byte of the answer; watches, to their beginning. 15 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Where the random part of the pauses between attempts to connect comes from. The system, if not said.
    #[must_use]
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// The client. Nothing is connected yet.
    pub fn build(self) -> AuthClient {
        let connections = Connections::new(self.connector, self.identity, self.clock, self.entropy);
        AuthClient(Arc::new(Inner { connections, deadline: self.deadline }))
    }
}

impl AuthClient {
    /// A client that connects by `connector` and calls as `identity`. The other side must be the auth service of the cluster
    /// that the identity trusts.
    pub fn builder(
        connector: Arc<dyn Connector>,
        identity: ClientIdentity,
        clock: Arc<dyn Clock>,
    ) -> AuthClientBuilder {
        AuthClientBuilder {
            connector,
            identity,
            clock,
            entropy: Arc::new(SystemEntropy::new()),
            deadline: DEADLINE,
        }
    }

    /// Something else that goes the same way, like a tunnel, has had no answer for `silent`: the network may be another one. If this client has
    /// had none in that time either, its next call goes by a new connection, and does not wait in vain for the old one; calls that wait go on.
    /// Nothing is sent, so this costs nothing when it is said for no reason but the new connection.
    pub fn doubt(&self, silent: Duration) {
        if let Some(since) = Instant::now().checked_sub(silent) {
            self.0.connections.suspect(since);
        }
    }

    /// Sends a message, reads a message.
    async fn call<T: DeserializeOwned>(&self, route: Route, body: &impl Serialize) -> ApiResult<T> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        self.exchange(route, body.into()).await
    }

    /// Sends nothing, reads a message.
    async fn fetch<T: DeserializeOwned>(&self, route: Route) -> ApiResult<T> {
        self.exchange(route, Bytes::new()).await
    }

    async fn exchange<T: DeserializeOwned>(&self, route: Route, body: Bytes) -> ApiResult<T> {
        let bytes = self.bytes(route, body).await?;
        serde_json::from_slice(&bytes).map_err(not_understood)
    }

    /// Sends a message, reads that it was done.
    async fn order(&self, route: Route, body: &impl Serialize) -> ApiResult<()> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        self.bytes(route, body.into()).await.map(drop)
    }

    async fn bytes(&self, route: Route, body: Bytes) -> ApiResult<Bytes> {
        self.within_deadline(route.operation(), async |deadline| {
            let (answer, live) = self.0.connections.send(&route, body.clone(), deadline).await?;
            let bytes = successful(answer).await?;
            drop(live);
            Ok(bytes)
        })
        .await
    }

    async fn watch<T: DeserializeOwned + Send + 'static>(
        &self,
        route: Route,
    ) -> ApiResult<futures_util::stream::BoxStream<'static, ApiResult<T>>> {
        self.within_deadline(route.operation(), async |deadline| {
            let (answer, live) = self.0.connections.send(&route, Bytes::new(), deadline).await?;
            if answer.status().is_success() {
                return Ok(watch::items(answer.into_body(), live));
            }
            successful(answer).await?;
            Err(ApiError::internal("the auth service answered a watch with nothing"))
        })
        .await
    }

    async fn within_deadline<T>(
        &self,
        operation: Operation,
        call: impl AsyncFnOnce(Instant) -> ApiResult<T>,
    ) -> ApiResult<T> {
        let operation = operation.name();
        let span = tracing::info_span!("request", otel.kind = "client", operation, otel.status_code = field::Empty, error.type = field::Empty);
        let result = self.in_time(call).instrument(span.clone()).await;
        if let Err(error) = &result {
            trace::failed(&span, error);
        }
        result
    }

    async fn in_time<T>(&self, call: impl AsyncFnOnce(Instant) -> ApiResult<T>) -> ApiResult<T> {
        let began = Instant::now();
        let deadline = began + self.0.deadline;
        match tokio::time::timeout_at(deadline, call(deadline)).await {
            Ok(result) => result,
            Err(elapsed) => {
                self.0.connections.doubt(began);
                Err(ApiError::unavailable(elapsed))
            }
        }
    }
}

/// The body of an answer that is no error.
async fn successful(answer: Response<Incoming>) -> ApiResult<Bytes> {
    let status = answer.status();
    let bytes = read_answer(answer.into_body(), MAX_ANSWER).await?;
    if status.is_success() {
        return Ok(bytes);
    }
    match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => Err(body.into_error()),
        Err(_) => Err(ApiError::unavailable(format!("the answer was HTTP {status} without an explanation"))),
    }
}

fn not_understood(error: serde_json::Error) -> ApiError {
    // What could not be read may hold secrets; where it is does not.
    let place = format!("line {}, column {}", error.line(), error.column());
    ApiError::new(ApiErrorKind::Internal, "the answer of the auth service was not understood").because(place)
}

/// Keeps the connection of a watch alive.
type KeptAlive = Arc<Live>;
