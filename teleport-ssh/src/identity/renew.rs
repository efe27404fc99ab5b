//! New certificates before the old ones end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::api::{ApiError, ApiErrorKind, IdentityApi, RenewRequest};
use teleport_core::cert::SubjectKeys;
use teleport_core::clock::{Clock, JumpGuard, Timestamp};
use teleport_core::entropy::{Entropy, EntropyExt as _};
use teleport_core::task::Shutdown;
use tokio::time::Instant;

use super::{HostIdentityHandle, HostMaterial, IdentityStore};

/// The wall clock may jump while we sleep, so it is looked at again this often.
const LOOK: Duration = Duration::from_secs(30);
/// Waiting after a failure: doubled each time, from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long it is waited for new certificates to be valid by the host's own clock before others are asked for.
const APART: Duration = Duration::from_secs(3600);

/// What [`renew`] needs.
#[expect(clippy::exhaustive_structs, reason = "services build it")]
pub struct Renewal {
    /// The identity to keep alive.
    pub identity: HostIdentityHandle,
    /// Where new identities are kept; `None` for services that live in memory.
    pub store: Option<IdentityStore>,
    /// Who renews.
    pub api: Arc<dyn IdentityApi>,
    /// Names and addresses under which the host is reached.
    pub addresses: Vec<String>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// For the new keys and the jitter.
    pub entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// When to renew: at two thirds of the life, up to a twelfth of it earlier by `jitter`, so that hosts that joined together do not
/// renew together.
pub fn renew_at(valid_after: Timestamp, valid_before: Timestamp, jitter: u16) -> Timestamp {
    let life = valid_before.saturating_since(valid_after);
    let early = life / 12 * u32::from(jitter) / u32::from(u16::MAX);
    valid_after.saturating_add((life / 3 * 2).saturating_sub(early))
}

/// Renews an identity for as long as it is polled, until draining begins or the host is removed from the cluster. Other failures are logged and tried again: before the end
/// of the certificates and also after it, for the case that the clock was wrong. New certificates that are not valid by the host's own clock replace
/// the old ones as soon as they are; others are asked for after an hour. A clock that has just jumped ahead makes nothing due before it has stayed there for an hour: where the auth service has the same clock, its certificates
/// would be of the future when the clock is set right.
///
/// Cancel safe: an identity that was not swapped in is not used by anybody.
pub async fn renew(renewal: Renewal, shutdown: Shutdown) {
    let run = async {
        let mut failures = 0_u32;
        let mut clock = (JumpGuard::new(renewal.clock.now(), Duration::ZERO), Instant::now());
        loop {
            wait_until_due(&renewal, &mut clock).await;
            match once(&renewal).await {
                Ok(material) => {
                    failures = 0;
                    // By a clock that is far ahead of that of the auth service the new ones are due as well.
                    let life = material.valid_before.saturating_since(material.valid_after);
                    match swap_in(&renewal, material).await {
                        Ok(()) => tokio::time::sleep(LOOK.max(life / 12)).await,
                        Err(error) => {
                            tracing::warn!(
                                error = &*error,
                                "the host's new certificates cannot be used, will ask for others"
                            );
                            tokio::time::sleep(RETRY.1).await;
                        }
                    }
                }
                Err(error) if is_evicted(&*error) => {
                    tracing::error!(error = &*error, "the host's certificates are not renewed any more");
                    return;
                }
                Err(error) => {
                    let ends = renewal.identity.current().valid_before;
                    tracing::warn!(error = &*error, %ends, "the host's certificates could not be renewed, will try again");
                    let wait = RETRY.0.saturating_mul(1_u32 << failures.min(6)).min(RETRY.1);
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    };
    tokio::select! {
        () = run => {}
        () = shutdown.draining() => {}
    }
}

fn is_evicted(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<ApiError>().is_some_and(|error| error.kind() == ApiErrorKind::Evicted)
}

async fn wait_until_due(renewal: &Renewal, (guard, since): &mut (JumpGuard, Instant)) {
    let jitter = renewal.entropy.bytes().map_or(0, u16::from_be_bytes);
    loop {
        let current = renewal.identity.current();
        let due = renew_at(current.valid_after, current.valid_before, jitter);
        let now = renewal.clock.now();
        let believed = guard.look(now, since.elapsed()).believed;
        let left = due.saturating_since(now);
        if left.is_zero() && believed {
            return;
        }
        tokio::time::sleep(if believed { left.min(LOOK) } else { LOOK }).await;
    }
}

async fn once(renewal: &Renewal) -> Result<HostMaterial, Box<dyn std::error::Error + Send + Sync>> {
    let (ssh, tls) = HostMaterial::generate_keys(renewal.entropy.as_ref())?;
    let keys = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
    let request = RenewRequest { keys, addresses: renewal.addresses.clone() };
    let credentials = renewal.api.renew_host(request).await?;
    let host = renewal.identity.current().host();
    Ok(HostMaterial::from_credentials(host, (ssh, tls), credentials)?)
}

/// The cluster knows the host by these keys from now on, so what is not valid yet is not thrown away.
async fn swap_in(
    renewal: &Renewal,
    material: HostMaterial,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let asked = Instant::now();
    while let Err(reason) = material.check_valid_at(renewal.clock.now()) {
        if asked.elapsed() >= APART {
            return Err(reason.into());
        }
        if asked.elapsed() < LOOK {
            tracing::warn!(%reason, "the host's new certificates cannot be used now");
        }
        tokio::time::sleep(LOOK).await;
    }
    if let Some(store) = renewal.store.clone() {
        let kept = material.clone();
        // Kept before it is used: a restart must not come back with keys that the cluster has forgotten.
        tokio::task::spawn_blocking(move || store.save(&kept)).await??;
    }
    tracing::info!(ends = %material.valid_before, "renewed the host's certificates");
    renewal.identity.replace(material);
    Ok(())
}
