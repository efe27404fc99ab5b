//! Calls to whichever server of the cluster answers.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use teleport_core::storage::StorageError;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::config::EtcdConfig;
use super::grpc::{Answers, CallError, Channel, Source, code};
use super::messages::{self, Call, Header};
use super::proto::Malformed;
use crate::network::Remote;
use crate::shared::backoff;
use crate::shared::closed::Closed;
use crate::shared::described::describe;

/// How long one server may take to be connected before the next is tried.
const CONNECT: Duration = Duration::from_secs(4);

/// Why etcd did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// No server could be reached in time.
    #[error("etcd cannot be reached at {servers}: {reason}")]
    Unreachable {
        /// The servers that were tried.
        servers: String,
        /// What the last one did.
        reason: String,
    },
    /// A read had no answer in time.
    #[error("etcd did not answer within {} s", timeout.as_secs())]
    Timeout {
        /// How long was waited.
        timeout: Duration,
    },
    /// A write was sent, and there is no answer. It is not repeated: it may have been done.
    #[error("the answer of etcd was lost: whether the write was done is not known")]
    UnknownOutcome {
        /// What happened to the answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user is not let in.
    #[error("etcd refuses the user: {reason}")]
    Credentials {
        /// What etcd said.
        reason: String,
    },
    /// A batch does not fit into a request. Nothing was written.
    #[error(
        "the batch of {size} bytes is longer than etcd takes in one request ({reason}); etcd's option --max-request-bytes allows more"
    )]
    TooLong {
        /// The size of the request.
        size: usize,
        /// What etcd said.
        reason: String,
    },
    /// etcd refused for another reason.
    #[error("etcd refused: {reason}")]
    Refused {
        /// What etcd said.
        reason: String,
    },
    /// The answer cannot be understood.
    #[error("the answer is not what etcd says")]
    Answer {
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The servers are not of one cluster, or it was replaced by another one.
    #[error("another cluster of etcd answers than before")]
    OtherCluster,
    /// What is stored below the prefix is not what was written there.
    #[error("the stored item {key:?} is damaged")]
    Damaged {
        /// The item's key.
        key: String,
    },
    /// The keys below the prefix are of a newer version of this program, or of something else.
    #[error("below the prefix {prefix} {reason}")]
    Foreign {
        /// The prefix.
        prefix: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file with the password cannot be read.
    #[error("the password of the user cannot be read")]
    Password {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl EtcdError {
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::UnknownOutcome { .. })
    }
}

impl From<Malformed> for EtcdError {
    fn from(error: Malformed) -> Self {
        Self::Answer { source: error.into() }
    }
}

impl From<EtcdError> for StorageError {
    fn from(error: EtcdError) -> Self {
        if error.is_passing() { Self::unavailable(error) } else { Self::driver(error) }
    }
}

/// Why a call failed: the backend was closed, or etcd.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// Not an error for who asks for pages.
    #[error("the answer is too long")]
    AnswerTooLong,
    /// The revision that was asked for is not kept any more.
    #[error("the revision was compacted")]
    Compacted,
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Etcd(error.into())
    }
}

impl From<Failure> for StorageError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Closed(closed) => closed.into(),
            Failure::Etcd(error) => error.into(),
            other => Self::driver(other),
        }
    }
}

pub(super) struct Client {
    pub(super) config: EtcdConfig,
    remote: Remote,
    closed: AtomicBool,
    /// That of the first answer; 0 before it.
    cluster: AtomicU64,
    /// How many attempts in a row did not do what was asked; being connected is not enough.
    failures: AtomicU32,
    connection: Mutex<Connection>,
    trouble: SyncMutex<String>,
}

#[derive(Default)]
struct Connection {
    channel: Option<Arc<Channel>>,
    next: usize,
    not_before: Option<Instant>,
}

/// What a call was sent on and not answered yet.
type Sent = SyncMutex<Option<Arc<Channel>>>;

impl Client {
    pub(super) fn new(config: EtcdConfig, remote: Remote) -> Self {
        Self {
            config,
            remote,
            closed: AtomicBool::new(false),
            cluster: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            connection: Mutex::default(),
            trouble: SyncMutex::new("no server has answered yet".to_owned()),
        }
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whatever is asked from now on is refused.
    pub(super) fn refuse(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(super) async fn close(&self) {
        self.connection.lock().await.channel = None;
    }

    /// Calls, and repeats what may be repeated until the time is over.
    pub(super) async fn call(&self, call: &Call) -> Result<Bytes, Failure> {
        let timeout = self.config.timeout();
        let sent = Sent::default();
        let answer = match tokio::time::timeout(timeout, self.attempts(call, &sent)).await {
            Ok(answer) => answer?,
            Err(elapsed) => {
                let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
                if let Some(channel) = &sent {
                    self.late(channel);
                }
                return Err(if sent.is_some() && !call.repeatable {
                    EtcdError::UnknownOutcome { source: elapsed.into() }.into()
                } else if self.is_closed() {
                    Closed.into()
                } else if sent.is_some() {
                    EtcdError::Timeout { timeout }.into()
                } else {
                    self.unreachable().into()
                });
            }
        };
        self.check(messages::header_of(answer.clone())?)?;
        Ok(answer)
    }

    /// Opens a stream; the connection must do something within the time.
    pub(super) async fn stream(&self, call: &Call) -> Result<Answers, Failure> {
        let timeout = self.config.timeout();
        let open = async {
            let channel = self.channel().await?;
            let opened = channel.stream(call).await;
            match opened {
                Ok(answers) => Ok(answers),
                Err(error) => {
                    self.lost(&channel, &error).await;
                    Err(self.refusal(call, error))
                }
            }
        };
        tokio::time::timeout(timeout, open).await.unwrap_or_else(|_| Err(self.unreachable().into()))
    }

    /// All answers come from one cluster: the addresses may be those of several, by mistake.
    pub(super) fn check(&self, header: Header) -> Result<(), EtcdError> {
        match self.cluster.compare_exchange(0, header.cluster, Ordering::AcqRel, Ordering::Acquire) {
            Err(known) if known != header.cluster => Err(EtcdError::OtherCluster),
            _ => Ok(()),
        }
    }

    async fn attempts(&self, call: &Call, sent: &Sent) -> Result<Bytes, Failure> {
        let note = |channel| *sent.lock().unwrap_or_else(PoisonError::into_inner) = channel;
        let mut is_renewed = false;
        loop {
            let channel = self.channel().await?;
            note(Some(Arc::clone(&channel)));
            let error = match channel.unary(call, self.config.timeout()).await {
                Ok(answer) => {
                    self.failures.store(0, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let is_refused_login = matches!(
                &error,
                CallError::Refused { code: code::UNAUTHENTICATED | code::INVALID_ARGUMENT, message } if message.contains("auth")
            );
            let may_repeat = match &error {
                CallError::NotSent { .. } => true,
                CallError::Broken { .. } => call.repeatable,
                CallError::Refused { code: code::UNAVAILABLE | code::DEADLINE_EXCEEDED, .. } => {
                    call.repeatable
                }
                // The token has run out: nothing was done. A new connection gets a new one.
                CallError::Refused { .. } if is_refused_login && !is_renewed => {
                    is_renewed = true;
                    true
                }
                _ => false,
            };
            if matches!(
                error,
                CallError::NotSent { .. }
                    | CallError::Broken { .. }
                    | CallError::Refused { code: code::UNAVAILABLE | code::DEADLINE_EXCEEDED, .. }
            ) || is_refused_login
            {
                self.lost(&channel, &error).await;
            }
            if !may_repeat {
                return Err(self.refusal(call, error));
            }
            if self.is_closed() {
                return Err(Closed.into());
            }
            // Should the time be over before the next attempt, what this one died of is the reason.
            note(None);
        }
    }

    fn refusal(&self, call: &Call, error: CallError) -> Failure {
        let error = match error {
            CallError::TooLong => return Failure::AnswerTooLong,
            CallError::Refused { code: code::OUT_OF_RANGE, .. } => return Failure::Compacted,
            CallError::Refused { code, message: reason } => match code {
                code::UNAVAILABLE | code::DEADLINE_EXCEEDED if !call.repeatable => {
                    EtcdError::UnknownOutcome { source: reason.into() }
                }
                code::UNAVAILABLE | code::DEADLINE_EXCEEDED => {
                    EtcdError::Unreachable { servers: self.config.to_string(), reason }
                }
                code::INVALID_ARGUMENT | code::RESOURCE_EXHAUSTED
                    if reason.contains("too large") || reason.contains("larger than max") =>
                {
                    EtcdError::TooLong { size: call.message.len(), reason }
                }
                code::UNAUTHENTICATED | code::PERMISSION_DENIED => EtcdError::Credentials { reason },
                code::INVALID_ARGUMENT if reason.contains("auth") || reason.contains("user name") => {
                    EtcdError::Credentials { reason }
                }
                _ => EtcdError::Refused { reason },
            },
            CallError::Malformed { source } if call.repeatable => EtcdError::Answer { source },
            CallError::NotSent { source } => {
                EtcdError::Unreachable { servers: self.config.to_string(), reason: describe(&*source) }
            }
            CallError::Broken { source } | CallError::Malformed { source } => {
                EtcdError::UnknownOutcome { source }
            }
        };
        error.into()
    }

    fn unreachable(&self) -> EtcdError {
        let reason = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        EtcdError::Unreachable { servers: self.config.to_string(), reason }
    }

    /// Another server is tried next, after a wait.
    async fn lost(&self, channel: &Arc<Channel>, error: &CallError) {
        let mut connection = self.connection.lock().await;
        if connection.channel.as_ref().is_some_and(|current| Arc::ptr_eq(current, channel)) {
            connection.channel = None;
            connection.next += 1;
            self.note(&mut connection, describe(error));
        }
    }

    /// The time is over: the server may be one that answers pings and nothing else, so another one is tried next.
    fn late(&self, channel: &Arc<Channel>) {
        // Whoever holds the lock is making another connection.
        if let Ok(mut connection) = self.connection.try_lock()
            && connection.channel.as_ref().is_some_and(|current| Arc::ptr_eq(current, channel))
        {
            connection.channel = None;
            connection.next += 1;
        }
    }

    fn note(&self, connection: &mut Connection, reason: String) {
        let failures = self.failures.load(Ordering::Relaxed);
        let wait = backoff::wait(self.remote.entropy(), failures);
        self.failures.store(failures.saturating_add(1), Ordering::Relaxed);
        connection.not_before = Some(Instant::now() + wait);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// The connection, or a new one. Whoever asks bounds the time.
    async fn channel(&self) -> Result<Arc<Channel>, Failure> {
        let mut connection = self.connection.lock().await;
        loop {
            if self.is_closed() {
                return Err(Closed.into());
            }
            if let Some(channel) = connection.channel.as_ref().filter(|channel| !channel.is_over()) {
                return Ok(Arc::clone(channel));
            }
            connection.channel = None;
            if let Some(time) = connection.not_before.take_if(|time| *time > Instant::now()) {
                // Kept, in case that this future is dropped while it waits.
                connection.not_before = Some(time);
                tokio::time::sleep_until(time).await;
                continue;
            }
            let hosts = &self.config.server.hosts;
            let Some((host, port)) = hosts.get(connection.next % hosts.len().max(1)) else {
                return Err(self.unreachable().into());
            };
            // If this is given up half way, the next one to come tries the next server.
            connection.next += 1;
            match tokio::time::timeout(CONNECT, self.connect(host, *port)).await {
                Ok(Ok(channel)) => {
                    connection.next -= 1;
                    connection.not_before = None;
                    let channel = Arc::new(channel);
                    connection.channel = Some(Arc::clone(&channel));
                    return Ok(channel);
                }
                Ok(Err(Connecting::Refused(error))) => {
                    self.note(&mut connection, format!("{host}:{port}: {}", describe(&error)));
                    return Err(error.into());
                }
                Ok(Err(Connecting::Failed(source))) => {
                    self.note(&mut connection, format!("{host}:{port}: {}", describe(&*source)));
                }
                Err(_) => {
                    let reason = format!("{host}:{port}: no answer within {} s", CONNECT.as_secs());
                    self.note(&mut connection, reason);
                }
            }
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<Channel, Connecting> {
        let network = self.remote.network();
        let mut stream =
            network.connect(host, port).await.map_err(|error| Connecting::Failed(error.into()))?;
        let tls = &self.config.server.tls;
        if let Some(tls) = tls {
            stream = network
                .secure(stream, host, tls)
                .await
                .map_err(|error| Connecting::Failed(format!("TLS: {}", describe(&error)).into()))?;
        }
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut channel =
            Channel::open(stream, &authority, tls.is_some()).await.map_err(Connecting::Failed)?;
        let login = self
            .config
            .login()
            .await
            .map_err(|error| Connecting::Refused(EtcdError::Password { source: error.into() }))?;
        if let Some((user, password)) = login {
            let call = messages::authenticate(&user, &password);
            let answer = match channel.unary(&call, CONNECT).await {
                Ok(answer) => answer,
                Err(CallError::Refused { code: code::UNAVAILABLE | code::DEADLINE_EXCEEDED, message }) => {
                    return Err(Connecting::Failed(message.into()));
                }
                // Also one that has no users: it takes everybody, and whoever says a name to it should hear that.
                Err(CallError::Refused { message, .. }) => {
                    return Err(Connecting::Refused(EtcdError::Credentials { reason: message }));
                }
                Err(error) => return Err(Connecting::Failed(error.into())),
            };
            let token = messages::token_answer(answer).map_err(|error| Connecting::Failed(error.into()))?;
            let mut token =
                HeaderValue::from_bytes(&token).map_err(|error| Connecting::Failed(error.into()))?;
            token.set_sensitive(true);
            channel.set_token(token);
        }
        Ok(channel)
    }
}

enum Connecting {
    /// Trying again does not help.
    Refused(EtcdError),
    Failed(Source),
}
