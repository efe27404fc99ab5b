//! Who clients see: the server's names on a key of the proxy, kept for as long as the certificate is good.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use teleport_core::api::{ApiError, StandIn, StandInApi};
use teleport_core::cert::TrustBundle;
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::Entropy;
use teleport_core::id::{HostId, HostRole};
use teleport_core::resource::NodeRecord;
use tokio::time::Instant;

use crate::engine::ConfigError;
use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::keys::KeyError;

/// Why a client cannot be shown the names of a server. The texts are for the audit log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotShown {
    #[error("the auth service gives no certificate with the server's names")]
    Api(#[source] ApiError),
    #[error("the certificate with the server's names cannot be used")]
    Config(#[source] ConfigError),
    #[error("the auth service has just given no certificate with the server's names to another client")]
    InVain,
    #[error("no key can be made")]
    Key(#[source] KeyError),
    #[error("it is not known whom to trust")]
    Trust,
}

/// What was asked for, and for which server as it was then.
struct Known {
    server: NodeRecord,
    identity: HostIdentityHandle,
}

impl Known {
    /// Whether nothing that the certificate says has changed.
    fn is_of(&self, server: &NodeRecord) -> bool {
        self.server.name == server.name && self.server.address == server.address
    }

    fn is_good(&self, now: Timestamp) -> bool {
        now < self.identity.current().valid_before
    }

    /// Not in the last third of its life.
    fn is_young(&self, now: Timestamp) -> bool {
        let material = self.identity.current();
        let life = material.valid_before.saturating_since(material.valid_after);
        material.valid_before.saturating_since(now) > life / 3
    }
}

/// What is known of one server. Whoever asks holds it until the answer is there, and the others wait for the same answer.
#[derive(Default)]
struct Entry {
    known: Option<Known>,
    /// When the auth service last gave nothing.
    failed: Option<Instant>,
}

impl Entry {
    /// Whoever was told what another has heard has heard nothing new: else those who come while they are told would never ask.
    fn note(&mut self, error: &NotShown) {
        if !matches!(error, NotShown::InVain) {
            self.failed = Some(Instant::now());
        }
    }
}

/// The certificates, by server.
pub(super) struct Shown {
    access: Arc<dyn StandInApi>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    entries: Mutex<HashMap<HostId, Arc<tokio::sync::Mutex<Entry>>>>,
}

impl Shown {
    pub(super) fn new(access: Arc<dyn StandInApi>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { access, clock, entropy, entries: Mutex::default() }
    }

    fn entry(&self, server: HostId, now: Timestamp) -> Arc<tokio::sync::Mutex<Entry>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !entries.contains_key(&server) {
            // Of those that nobody comes for any more nothing is kept.
            entries.retain(|_, entry| match entry.try_lock() {
                Ok(entry) => entry.known.as_ref().is_some_and(|known| known.is_good(now)),
                Err(_) => true,
            });
        }
        Arc::clone(entries.entry(server).or_default())
    }

    /// The names and the key for `server`. Asks the auth service in the last third of a certificate's life, or when the server's name or
    /// address is another one; once, however many clients come for it.
    ///
    /// # Errors
    /// [`NotShown`].
    pub(super) async fn of(
        &self,
        server: &NodeRecord,
        trust: &TrustBundle,
    ) -> Result<HostIdentityHandle, NotShown> {
        let (now, came) = (self.clock.now(), Instant::now());
        let entry = self.entry(server.host_id, now);
        let mut entry = entry.lock().await;
        let good = entry.known.as_ref().filter(|known| known.is_of(server) && known.is_good(now));
        if let Some(known) = good
            && known.is_young(now)
        {
            return Ok(known.identity.clone());
        }
        let good = good.map(|known| known.identity.clone());
        // Whoever has waited for an answer does not ask for another.
        let asked = match entry.failed.is_some_and(|failed| failed >= came) {
            true => Err(NotShown::InVain),
            false => self.ask(server, trust).await,
        };
        match (asked, good) {
            (Ok(identity), _) => {
                *entry = Entry {
                    known: Some(Known { server: server.clone(), identity: identity.clone() }),
                    failed: None,
                };
                Ok(identity)
            }
            // As long as it lasts. That the server was removed is known from elsewhere.
            (Err(error @ (NotShown::Api(_) | NotShown::InVain)), Some(identity)) => {
                entry.note(&error);
                let error: &dyn std::error::Error = &error;
                tracing::warn!(node = %server.host_id, error, "the names of a server are shown by an old certificate");
                Ok(identity)
            }
            (Err(error), _) => {
                entry.note(&error);
                Err(error)
            }
        }
    }

    async fn ask(&self, server: &NodeRecord, trust: &TrustBundle) -> Result<HostIdentityHandle, NotShown> {
        // Nothing certifies the second one: to the API nobody is the server by this.
        let (ssh, tls) = HostMaterial::generate_keys(&*self.entropy).map_err(NotShown::Key)?;
        let request = StandIn { node: server.host_id, key: ssh.public() };
        let issued = self.access.stand_in(request).await.map_err(NotShown::Api)?;
        Ok(HostIdentityHandle::new(HostMaterial {
            host_id: server.host_id,
            name: server.name.clone(),
            cluster: trust.cluster.clone(),
            role: HostRole::Node,
            ssh,
            ssh_certificate: issued.ssh,
            tls,
            tls_certificate: Vec::new(),
            trust: trust.clone(),
            valid_after: issued.valid_after,
            valid_before: issued.valid_before,
        }))
    }
}

#[cfg(test)]
mod tests;
