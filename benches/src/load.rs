//! The load generator: one process that opens sessions at any SSH server, directly or through another one.
//!
//! It asks every server for the same algorithms (curve25519, AES-256-GCM, Ed25519 host keys), so that the servers do the same
//! work. It does not check host keys.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use russh::client::{Config, Handle, Handler, Msg, connect, connect_stream};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelMsg, Preferred, cipher, kex};
use ssh_key::{Algorithm, Certificate, PrivateKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{BenchUser, login};

struct AnyServer;

impl Handler for AnyServer {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// An authenticated connection, and the one that it runs through.
pub struct Connection {
    handle: Handle<AnyServer>,
    _hop: Option<Handle<AnyServer>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// A session whose command runs.
pub struct Held {
    _channel: Channel<Msg>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

/// A user who connects.
#[derive(Clone, Debug)]
pub struct Client {
    key: Arc<PrivateKey>,
    certificate: Certificate,
    login: String,
    config: Arc<Config>,
}

/// The way to the server where sessions run.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "benches build it")]
pub struct Way {
    /// The server to connect to first, if not the other one directly.
    pub hop: Option<SocketAddr>,
    /// What the hop is asked for: name or address, and port.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Way {
    /// Straight to `address`.
    pub fn direct(address: SocketAddr) -> Self {
        Self { hop: None, host: address.ip().to_string(), port: address.port() }
    }

    /// Through `hop`.
    pub fn through(hop: SocketAddr, address: SocketAddr) -> Self {
        Self { hop: Some(hop), ..Self::direct(address) }
    }

    /// Through `hop`, which knows the server by its name.
    pub fn named(hop: SocketAddr, name: &str) -> Self {
        Self { hop: Some(hop), host: name.to_owned(), port: 3022 }
    }
}

impl Client {
    /// With the user's key and certificate.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn new(user: &BenchUser) -> Result<Self> {
        let preferred = Preferred {
            kex: Cow::Borrowed(&[kex::CURVE25519]),
            key: Cow::Borrowed(&[Algorithm::Ed25519]),
            cipher: Cow::Borrowed(&[cipher::AES_256_GCM]),
            ..Preferred::DEFAULT
        };
        Ok(Self {
            key: Arc::new(PrivateKey::from_openssh(user.ssh.to_openssh().expose())?),
            certificate: Certificate::from_openssh(&user.certificate)?,
            login: login()?.to_string(),
            config: Arc::new(Config { preferred, nodelay: true, ..Config::default() }),
        })
    }

    /// Connects and authenticates.
    ///
    /// # Errors
    /// What fails on the way.
    pub async fn connect(&self, way: &Way) -> Result<Connection> {
        let config = || Arc::clone(&self.config);
        match way.hop {
            None => {
                let handle = connect(config(), (way.host.as_str(), way.port), AnyServer).await?;
                Ok(Connection { handle: self.authenticate(handle).await?, _hop: None })
            }
            Some(hop) => {
                let hop = self.authenticate(connect(config(), hop, AnyServer).await?).await?;
                let port = u32::from(way.port);
                let channel = hop.channel_open_direct_tcpip(way.host.as_str(), port, "127.0.0.1", 0).await?;
                let handle = self.over(channel.into_stream()).await?;
                Ok(Connection { handle, _hop: Some(hop) })
            }
        }
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Handle<AnyServer>> {
        let handle = connect_stream(Arc::clone(&self.config), stream, AnyServer).await?;
        self.authenticate(handle).await
    }

    async fn authenticate(&self, mut handle: Handle<AnyServer>) -> Result<Handle<AnyServer>> {
        let (key, certificate) = (Arc::clone(&self.key), self.certificate.clone());
        let result = handle.authenticate_openssh_cert(&self.login, key, certificate).await?;
        ensure!(result.success(), "the server does not let the user in");
        Ok(handle)
    }
}

impl Connection {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it does not run or fails.
    pub async fn run(&self, command: &str) -> Result<()> {
        let mut channel = self.handle.channel_open_session().await?;
        channel.exec(true, command).await?;
        let mut status = None;
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
                ChannelMsg::Failure => bail!("the server does not run {command:?}"),
                _ => {}
            }
        }
        match status {
            Some(0) => Ok(()),
            other => bail!("{command:?} ended with {other:?}"),
        }
    }

    /// Starts a command and leaves it running until what is returned is dropped.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn hold(&self, command: &str) -> Result<Held> {
        let mut channel = self.handle.channel_open_session().await?;
        channel.exec(true, command).await?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return Ok(Held { _channel: channel }),
                Some(ChannelMsg::Failure) | None => bail!("the server does not run {command:?}"),
                Some(_) => {}
            }
        }
    }

    /// Says goodbye and waits until the connection is gone.
    pub async fn close(self) {
        let _ = self.handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
        let _ = tokio::time::timeout(Duration::from_secs(5), self.handle).await;
    }
}

/// Runs `count` times `work`, `parallel` at a time, and says how many were done in a second.
///
/// # Errors
/// The first failure.
pub async fn rate<W, F>(parallel: usize, count: usize, work: W) -> Result<f64>
where
    W: Fn(usize) -> F + Clone + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    for worker in 0..parallel {
        let (next, work) = (Arc::clone(&next), work.clone());
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                work(worker).await?;
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a worker panicked")??;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}
