//! One connection to a server.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

use super::config::PostgresConfig;
use super::error::{Failure, PostgresError};
use crate::network::{BoxedStream, Remote, TlsOptions};
use teleport_core::task::TaskScope;

const OLDEST: i32 = 130_000;

const IDLE: Duration = Duration::from_secs(3);

/// A connection with the statements it knows.
pub(super) struct Session {
    pub(super) client: Client,
    statements: tokio::sync::Mutex<Vec<(&'static str, Statement)>>,
    /// Whether this connection has the claim on sweeping.
    sweeps: AtomicBool,
    /// Keeps the connection going; dropping it closes it.
    _driver: TaskScope,
}

impl Session {
    /// Connects to one server that takes writes. `announced` is told of everything that the server announces.
    pub(super) async fn open(
        config: &PostgresConfig,
        remote: &Remote,
        host: &str,
        port: u16,
        announced: &Arc<Notify>,
    ) -> Result<Self, Failure> {
        let password = config
            .server
            .password()
            .await
            .map_err(|error| PostgresError::Password { source: error.into() })?;
        let mut settings = tokio_postgres::Config::new();
        settings.user(&config.user).dbname(&config.server.path).application_name("teleport");
        if let Some(password) = password {
            settings.password(password.as_bytes());
        }
        let stream = Wire(remote.network().connect(host, port).await.map_err(Failure::lost)?);
        let driver = TaskScope::new();
        let client = match &config.server.tls {
            None => {
                settings.ssl_mode(SslMode::Disable);
                let (client, connection) = settings.connect_raw(stream, NoTls).await?;
                drive(&driver, connection, announced);
                client
            }
            Some(tls) => {
                settings.ssl_mode(SslMode::Require);
                let tls = Tls { remote: remote.clone(), host: host.to_owned(), options: tls.clone() };
                let (client, connection) = settings.connect_raw(stream, tls).await?;
                drive(&driver, connection, announced);
                client
            }
        };
        let session = Self {
            client,
            statements: tokio::sync::Mutex::default(),
            sweeps: AtomicBool::new(false),
            _driver: driver,
        };
        session.prepare_for(config).await?;
        Ok(session)
    }

    /// Bounds what the server does for us, so that nothing of ours holds up the others, and sees whether it is one to use.
    async fn prepare_for(&self, config: &PostgresConfig) -> Result<(), Failure> {
        let timeout = config.timeout().as_millis();
        // Between two statements of a transaction we only decide: whoever is gone then holds the lock of all no longer than this.
        let idle = config.timeout().min(IDLE).as_millis();
        self.client
            .batch_execute(&format!(
                "set statement_timeout = {timeout}; set lock_timeout = {timeout}; \
                 set idle_in_transaction_session_timeout = {idle}; set search_path = ''; \
                 set default_transaction_isolation = 'read committed'; set client_min_messages = warning"
            ))
            .await?;
        let row = self
            .client
            .query_one(
                "select current_setting('server_version_num')::int, pg_is_in_recovery(), \
                 current_setting('transaction_read_only') = 'on', current_setting('synchronous_commit') = 'off'",
                &[],
            )
            .await?;
        let version: i32 = row.try_get(0)?;
        if version < OLDEST {
            return Err(PostgresError::TooOld { version: version / 10_000 }.into());
        }
        if row.try_get(1)? {
            return Err(Failure::lost("the server is a standby, which takes no writes"));
        }
        if row.try_get(2)? {
            return Err(PostgresError::ReadOnly {
                reason: "transactions are read-only by default".to_owned(),
            }
            .into());
        }
        if row.try_get(3)? {
            // What is acknowledged is on the disk.
            self.client.batch_execute("set synchronous_commit = on").await?;
        }
        Ok(())
    }

    /// A statement that the server has parsed once. `{}` is the schema.
    pub(super) async fn statement(
        &self,
        config: &PostgresConfig,
        sql: &'static str,
    ) -> Result<Statement, Failure> {
        let mut statements = self.statements.lock().await;
        if let Some((_, statement)) = statements.iter().find(|(known, _)| *known == sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&config.schema.sql(sql)).await?;
        statements.push((sql, statement.clone()));
        Ok(statement)
    }

    pub(super) fn swept(&self) -> bool {
        self.sweeps.load(Ordering::Acquire)
    }

    pub(super) fn set_swept(&self) {
        self.sweeps.store(true, Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        self.client.is_closed()
    }
}

/// Moves bytes until the connection ends.
fn drive<S, T>(scope: &TaskScope, mut connection: tokio_postgres::Connection<S, T>, announced: &Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let announced = Arc::clone(announced);
    scope.spawn(async move {
        loop {
            match std::future::poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(_))) => announced.notify_one(),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "a connection to PostgreSQL was lost");
                    break;
                }
                None => break,
            }
        }
        // Whoever waits for announcements sees what there is.
        announced.notify_one();
    });
}

/// TLS as the program does it. The server's certificate is verified, so nothing is bound to the channel beyond that.
struct Tls {
    remote: Remote,
    host: String,
    options: TlsOptions,
}

/// A connection. A type of its own, because the compiler cannot tell the lifetimes in that of any stream apart.
struct Wire(BoxedStream);

impl TlsConnect<Wire> for Tls {
    type Stream = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn connect(self, stream: Wire) -> Self::Future {
        Box::pin(
            async move { self.remote.network().secure(stream.0, &self.host, &self.options).await.map(Wire) },
        )
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
