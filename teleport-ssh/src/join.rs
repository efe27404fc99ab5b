//! How a host becomes a member of a cluster.
//!
//! It makes its keys, connects to the auth service or a proxy, and looks at who answers *before* it sends the token: with a CA pin or a
//! known authority nobody else ever sees it.

use std::fmt;
use std::sync::Arc;

use hyper::Method;
use teleport_core::api::{ApiError, ApiErrorKind, HostCredentials, JoinRequest};
use teleport_core::cert::{CaPin, CertRejected, Identity, SubjectKeys, TrustBundle};
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::id::{HostId, HostRole, NodeName};
use teleport_core::secret::SecretString;

use crate::identity::{HostMaterial, HostName, MaterialError};
use crate::keys::{KeyError, SshKeyPair, TlsKeyPair};
use crate::proxy_web::{Exchange, Page, WebError, from_json, to_json};
use crate::rpc::tls::{Authenticator, ServerTrust, server_roles};

/// What a host joins with.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "hosts build it")]
pub struct JoinOptions {
    /// Auth servers or proxies, `host:port`; one after the other is tried.
    pub servers: Vec<String>,
    /// The join token.
    pub token: SecretString,
    /// How the cluster is recognised, as `tctl status` prints it. Any of them will do.
    pub pins: Vec<CaPin>,
    /// Refuse to join without a pin or a known authority.
    pub require_pin: bool,
    /// The cluster as this host knows it from before. Pins are preferred.
    pub known: Option<TrustBundle>,
    /// The host's id.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// The service that it wants to be.
    pub role: HostRole,
    /// Names and addresses under which it will be reached.
    pub addresses: Vec<String>,
}

/// Why a host did not become a member. The texts say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The cluster's answer is of no use.
    #[error("the cluster's answer cannot be used")]
    Answer(#[source] MaterialError),
    /// The certificates that came back are not accepted by what came with them, or are not of the pinned cluster.
    #[error("the cluster's answer is not of the cluster that was expected")]
    Foreign(#[source] CertRejected),
    /// Whoever answers shows the expected authority, but not a certificate of it that is accepted now. The token was not sent.
    #[error(
        "{server} shows the authority of the expected cluster, but its own certificate is not valid here and now: \
         compare the clocks of both machines. The token was not sent"
    )]
    Clock {
        /// The server.
        server: String,
        /// The reason.
        source: std::io::Error,
    },
    /// No keys could be made.
    #[error("no keys can be made")]
    Keys(#[source] KeyError),
    /// Whoever answers is not of the expected cluster. The token was not sent.
    #[error(
        "{server} is not of the expected cluster: {}; compare with `tctl status` on the auth server. The token was not sent",
        Seen(seen)
    )]
    Pin {
        /// The server.
        server: String,
        /// The pins of the authorities that it presented.
        seen: Vec<CaPin>,
    },
    /// A pin is required and none is given.
    #[error("joining needs a CA pin: `tctl status` on the auth server prints it")]
    PinRequired,
    /// The cluster refused.
    #[error(
        "the cluster refused the join token: it is wrong, expired, used up, or not for the role {role}, or the name of this host is taken; `tctl tokens add --type={role}` on the auth server makes a new one, and the audit log there says which it was"
    )]
    Refused {
        /// The role that was asked for.
        role: HostRole,
        /// The refusal.
        source: ApiError,
    },
    /// The cluster could not answer, or found the request wrong.
    #[error("{server} could not let this host join")]
    Server {
        /// The server.
        server: String,
        /// Why.
        source: ApiError,
    },
    /// No server could be reached.
    #[error("no server can be reached: {}", reasons.join("; "))]
    Unreachable {
        /// Why, for each of the servers.
        reasons: Vec<String>,
    },
}

struct Seen<'a>(&'a [CaPin]);

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("it shows no authority");
        }
        f.write_str("its authority is ")?;
        for (index, pin) in self.0.iter().enumerate() {
            write!(f, "{}{pin}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Joins. Servers that cannot be reached or cannot do it now are passed over; the first that answers decides.
///
/// Without a pin and a known cluster whoever answers is believed, with a warning. Dropping the future may leave a use of the
/// token spent.
///
/// # Errors
/// [`JoinError`].
pub async fn join(
    options: JoinOptions,
    clock: Arc<dyn Clock>,
    entropy: &dyn Entropy,
) -> Result<HostMaterial, JoinError> {
    let keys = HostMaterial::generate_keys(entropy).map_err(JoinError::Keys)?;
    join_with_keys(options, keys, clock).await
}

/// [`join`] with keys that outlive an attempt, best those of
/// [`IdentityStore::keys`](crate::identity::IdentityStore::keys): the cluster binds the host's id to the keys that it first comes with, so
/// only by them can a join be repeated whose answer was lost.
///
/// # Errors
/// [`JoinError`].
pub async fn join_with_keys(
    options: JoinOptions,
    keys: (SshKeyPair, TlsKeyPair),
    clock: Arc<dyn Clock>,
) -> Result<HostMaterial, JoinError> {
    let trust = server_trust(&options)?;
    let request = JoinRequest {
        token: options.token.clone(),
        host_id: options.host_id,
        name: options.name.clone(),
        role: options.role,
        keys: SubjectKeys { ssh: keys.0.public(), tls: keys.1.public() },
        addresses: options.addresses.clone(),
        client_ip: None,
    };
    let credentials = ask(&options, &trust, &request, &clock).await?;
    if !is_expected(&trust, &credentials.trust) {
        return Err(JoinError::Foreign(CertRejected::Authority));
    }
    let host = HostName { host_id: options.host_id, name: options.name, role: options.role };
    let material = HostMaterial::from_credentials(host, keys, credentials).map_err(JoinError::Answer)?;
    check(&material, clock.as_ref())?;
    Ok(material)
}

fn server_trust(options: &JoinOptions) -> Result<ServerTrust, JoinError> {
    if !options.pins.is_empty() {
        return Ok(ServerTrust::Pins(options.pins.clone()));
    }
    if let Some(known) = &options.known {
        return Ok(ServerTrust::Bundle(known.clone()));
    }
    if options.require_pin {
        return Err(JoinError::PinRequired);
    }
    tracing::warn!(
        servers = ?options.servers,
        "JOINING WITHOUT A CA PIN: whoever answers is believed to be the cluster and gets the join token. \
         Give the pin that `tctl status` prints on the auth server"
    );
    Ok(ServerTrust::Unverified)
}

async fn ask(
    options: &JoinOptions,
    trust: &ServerTrust,
    request: &JoinRequest,
    clock: &Arc<dyn Clock>,
) -> Result<HostCredentials, JoinError> {
    let path = |role| if role == HostRole::Auth { "/v1/join" } else { Page::Join.path() };
    let mut reasons = Vec::new();
    let mut unavailable = None;
    for server in &options.servers {
        let failed = |source| JoinError::Server { server: server.clone(), source };
        let exchange = Exchange {
            address: server,
            trust: trust.clone(),
            expected: server_roles::AUTH_OR_PROXY,
            clock: Arc::clone(clock),
        };
        let body = to_json(request).map_err(failed)?;
        match exchange.send(Method::POST, path, body).await.and_then(|bytes| from_json(&bytes)) {
            Ok(credentials) => return Ok(credentials),
            Err(WebError::Unreachable { source, .. }) => reasons.push(format!("{server}: {source}")),
            Err(WebError::Untrusted { seen, source, .. }) if is_recognised(trust, &seen) => {
                return Err(JoinError::Clock { server: server.clone(), source });
            }
            Err(WebError::Untrusted { seen, .. }) => {
                return Err(JoinError::Pin { server: server.clone(), seen });
            }
            Err(WebError::Api(source)) if source.kind() == ApiErrorKind::Denied => {
                return Err(JoinError::Refused { role: options.role, source });
            }
            // It may have ended in this moment. Another one can do what this one could not, and knows what it did.
            Err(WebError::Api(source)) if source.kind() == ApiErrorKind::Unavailable => {
                unavailable = Some(failed(source));
            }
            Err(WebError::Api(source)) => return Err(failed(source)),
        }
    }
    if let Some(error) = unavailable {
        return Err(error);
    }
    if options.servers.is_empty() {
        reasons.push("no address is given".to_owned());
    }
    Err(JoinError::Unreachable { reasons })
}

/// Whether a server that was refused showed an authority that was expected: then it is not who, but when.
fn is_recognised(expected: &ServerTrust, seen: &[CaPin]) -> bool {
    match expected {
        ServerTrust::Pins(pins) => seen.iter().any(|pin| pins.contains(pin)),
        ServerTrust::Bundle(known) => seen.iter().any(|pin| known.ca_pins().contains(pin)),
        ServerTrust::Roots(_) | ServerTrust::Unverified => false,
    }
}

/// Whether the trust that came back is that of the cluster that was recognised.
fn is_expected(expected: &ServerTrust, trust: &TrustBundle) -> bool {
    match expected {
        ServerTrust::Pins(pins) => trust.ca_pins().iter().any(|pin| pins.contains(pin)),
        ServerTrust::Bundle(known) => known.cluster == trust.cluster,
        ServerTrust::Roots(_) | ServerTrust::Unverified => true,
    }
}

/// Whether others will accept the new identity, as far as can be seen from here.
fn check(material: &HostMaterial, clock: &dyn Clock) -> Result<(), JoinError> {
    let authenticator = Authenticator::new(material.trust.clone());
    let leaf = material.tls_certificate.clone().into();
    let local = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    match authenticator.identify(&leaf, Some(local), clock) {
        Ok(Identity::Host(host)) if host.host_id == material.host_id && host.role == material.role => Ok(()),
        Ok(_) => Err(JoinError::Foreign(CertRejected::Name)),
        Err(reason) => Err(JoinError::Foreign(reason)),
    }
}
