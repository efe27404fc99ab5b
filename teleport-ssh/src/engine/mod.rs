//! What every SSH connection of ours has in common: algorithms, configuration, the transport under the SSH library.

mod algorithms;
pub(crate) mod transport;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::{MethodKind, MethodSet, SshId};
use ssh_key::{Certificate, PrivateKey};

use crate::identity::HostMaterial;
use crate::resume::MARK;

pub use self::algorithms::{Cipher, UnknownCipher};
pub(crate) use self::algorithms::{client_preferred, server_preferred};

/// How both our servers and clients introduce themselves.
const SSH_ID: &str = concat!("SSH-2.0-Teleport_", env!("CARGO_PKG_VERSION"));

/// How nodes do that can resume connections: with [`MARK`] behind it.
const SSH_ID_RESUMES: &str = concat!("SSH-2.0-Teleport_", env!("CARGO_PKG_VERSION"), " teleport-resume-v1");
const _: () = assert!(SSH_ID_RESUMES.len() == SSH_ID.len() + 1 + MARK.len());

/// Silence after which the other side is asked for a sign of life.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(30);
/// Silence after which the other side is given up: three keepalives.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(90);

/// Bytes that may be on their way in one direction of a channel.
const WINDOW: u32 = 2 << 20;
/// The longest channel packet. Larger ones gain nothing: OpenSSH never sends more.
const MAX_PACKET: u32 = 32 << 10;
/// Output packets of all channels that wait for the connection's task. Each wait is a switch between tasks, but what waits
/// should still be in the processor's cache when its turn comes.
const EVENTS: usize = 16;
/// Messages that may wait in one channel. Never reached: [`transport::Link`] bounds what waits by its bytes, because a full
/// queue would stop the whole connection, also what is needed to empty the queue.
const MESSAGES: usize = 1 << 19;
/// The same for clients, where it is the bound.
pub(crate) const CLIENT_MESSAGES: usize = 1024;
/// The same for a client that has one channel and no more: when half a megabyte waits, TCP slows the server down, and nobody else waits.
pub(crate) const ONE_CHANNELS_MESSAGES: usize = 16;

/// Rekey after 1 GiB or an hour.
fn limits() -> russh::Limits {
    russh::Limits::new(1 << 30, 1 << 30, Duration::from_secs(3600))
}

/// A host's certificate cannot be shown to clients.
#[derive(Debug, thiserror::Error)]
#[error("the SSH host certificate cannot be read")]
#[non_exhaustive]
pub struct ConfigError {
    /// What the SSH library says.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A server that shows this identity.
pub(crate) fn server_config_for(
    material: &HostMaterial,
    resumes: bool,
) -> Result<Arc<russh::server::Config>, ConfigError> {
    let certificate = Certificate::from_openssh(&material.ssh_certificate)
        .map_err(|error| ConfigError { source: error.into() })?;
    let id = if resumes { SSH_ID_RESUMES } else { SSH_ID };
    Ok(named(id, material.ssh.private().clone(), certificate))
}

/// What a server with this configuration says first.
pub(crate) fn greeting(config: &russh::server::Config) -> Vec<u8> {
    match &config.server_id {
        SshId::Standard(id) => [id.as_bytes(), b"\r\n"].concat(),
        SshId::Raw(id) => id.as_bytes().to_vec(),
    }
}

/// A server that shows `certificate`, which is about the key `private`.
///
/// Dead peers are found by [`transport`], which knows whether reading was stopped on purpose.
pub(crate) fn server_config(private: PrivateKey, certificate: Certificate) -> Arc<russh::server::Config> {
    named(SSH_ID, private, certificate)
}

fn named(id: &'static str, private: PrivateKey, certificate: Certificate) -> Arc<russh::server::Config> {
    Arc::new(russh::server::Config {
        server_id: SshId::Standard(Cow::Borrowed(id)),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        // Certificates are public: no secret is compared whose comparison could be timed.
        auth_rejection_time: Duration::ZERO,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![private],
        certificates: vec![certificate],
        limits: limits(),
        window_size: WINDOW,
        maximum_packet_size: MAX_PACKET,
        channel_buffer_size: MESSAGES,
        event_buffer_size: EVENTS,
        preferred: server_preferred(),
        // The first is OpenSSH's `none`, which asks for the methods.
        max_auth_attempts: crate::listener::limits::MAX_AUTH_FAILURES as usize + 1,
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 0,
        nodelay: true,
    })
}

/// A client, with only this cipher if one is said. It accepts host certificates only; see [`crate::authn`]. Without `keepalive`
/// somebody else finds out whether the server is there. So many `messages` may wait in each channel.
pub(crate) fn client_config(
    cipher: Option<Cipher>,
    keepalive: bool,
    messages: usize,
) -> Arc<russh::client::Config> {
    Arc::new(russh::client::Config {
        client_id: SshId::Standard(Cow::Borrowed(SSH_ID)),
        limits: limits(),
        window_size: WINDOW,
        maximum_packet_size: MAX_PACKET,
        // Whoever does not read what a forward brings stops the others, when 32 MiB wait for him: nothing else bounds what a server
        // makes us keep.
        channel_buffer_size: messages,
        preferred: client_preferred(cipher),
        inactivity_timeout: None,
        keepalive_interval: keepalive.then_some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        ..russh::client::Config::default()
    })
}
