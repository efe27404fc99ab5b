//! Where the cluster of etcd is, and where in it our keys are.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::network::TlsOptions;
use crate::shared::server_url::{PasswordError, ServerUrl};

const PORT: u16 = 2379;
const MAX_PREFIX_LEN: usize = 128;

/// How etcd is reached: `etcd://user@host:2379,other:2379/prefix?option=value`.
///
/// All of a cluster lives below the prefix (`teleport` if the URL has none), so several clusters can share one etcd.
#[derive(Clone)]
pub struct EtcdConfig {
    pub(super) server: ServerUrl,
    /// With its `/` before and behind.
    pub(super) prefix: String,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdConfig({self})")
    }
}

impl fmt::Display for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

impl EtcdConfig {
    /// Parses what follows `etcd:`.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(rest: &str) -> Result<Self, Cow<'static, str>> {
        let mut server = ServerUrl::parse("etcd", rest, PORT, &[])?;
        let path = server.path.trim_end_matches('/').to_owned();
        let path = if path.is_empty() { "teleport".to_owned() } else { path };
        let is_segment =
            |segment: &str| !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_graphic());
        if path.len() > MAX_PREFIX_LEN || !path.split('/').all(is_segment) {
            return Err(
                "the prefix is at most 128 printable characters, in segments between single slashes".into()
            );
        }
        server.path.clone_from(&path);
        if let Some(tls) = &mut server.tls {
            *tls = TlsOptions { protocol: Some("h2"), ..tls.clone() };
        }
        Ok(Self { prefix: format!("/{path}/"), server })
    }

    pub(super) fn timeout(&self) -> Duration {
        self.server.timeout
    }

    pub(super) async fn login(&self) -> Result<Option<(String, zeroize::Zeroizing<String>)>, PasswordError> {
        let password = self.server.password().await?;
        Ok(self.server.user.clone().map(|user| (user, password.unwrap_or_default())))
    }
}
