//! What every SSH connection of ours has in common: algorithms, configuration, the transport under the SSH library.

mod algorithms;
pub(crate) mod transport;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::{MethodKind, MethodSet, SshId};
use ssh_key::{Certificate, PrivateKey};

use crate::identity::HostMaterial;

pub(crate) use self::algorithms::{client_preferred, server_preferred};

/// How both our servers and clients introduce themselves.
const SSH_ID: &str = concat!("SSH-2.0-Teleport_", env!("CARGO_PKG_VERSION"));

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
pub(crate) fn server_config_for(material: &HostMaterial) -> Result<Arc<russh::server::Config>, ConfigError> {
    let certificate = Certificate::from_openssh(&material.ssh_certificate)
        .map_err(|error| ConfigError { source: error.into() })?;
    Ok(server_config(material.ssh.private().clone(), certificate))
}

/// A server that shows `certificate`, which is about the key `private`.
///
/// Dead peers are found by [`transport`], which knows whether reading was stopped on purpose.
pub(crate) fn server_config(private: PrivateKey, certificate: Certificate) -> Arc<russh::server::Config> {
    Arc::new(russh::server::Config {
        server_id: SshId::Standard(Cow::Borrowed(SSH_ID)),
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

/// A client. It accepts host certificates only; see [`crate::authn`].
pub(crate) fn client_config() -> Arc<russh::client::Config> {
    Arc::new(russh::client::Config {
        client_id: SshId::Standard(Cow::Borrowed(SSH_ID)),
        limits: limits(),
        window_size: WINDOW,
        maximum_packet_size: MAX_PACKET,
        channel_buffer_size: 128,
        preferred: client_preferred(),
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        ..russh::client::Config::default()
    })
}
