//! From a certificate to a grant: what the node decides about a login.

use ssh_key::Certificate;
use teleport_core::access::{LoginGrant, Unwelcome};
use teleport_core::api::AccessView;
use teleport_core::cert::{CertRejected, PublicKey, UserCheck};
use teleport_core::clock::Timestamp;
use teleport_core::id::{InvalidName, OsLogin};
use teleport_core::lock::Locked;
use teleport_core::resource::NodeRecord;

use crate::authn;
use crate::origin::Arrival;
use crate::session::LoginRefused;
use crate::view::{AccessCache, NoView};

/// Why a login is refused. For the log and the audit event; the client hears that permission was denied.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Access(#[from] Unwelcome),
    #[error(transparent)]
    Certificate(#[from] CertRejected),
    #[error(transparent)]
    Login(#[from] InvalidName),
    #[error(transparent)]
    Service(#[from] LoginRefused),
    #[error(transparent)]
    View(#[from] NoView),
}

/// Who was let in, and the authority whose word that was.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) grant: LoginGrant,
    pub(super) authority: PublicKey,
    /// From where.
    pub(super) arrival: Arrival,
}

impl Refusal {
    /// The lock that refuses. Whoever it targets is told of it, as nobody is told of anything else.
    pub(super) const fn lock(&self) -> Option<&Locked> {
        match self {
            Self::Access(Unwelcome::Locked(locked)) => Some(locked),
            _ => None,
        }
    }

    /// Whether the certificate was made by an authority of this cluster: its holder is known and named in the audit log, and
    /// guesses nothing.
    pub(super) const fn is_of_ours(&self) -> bool {
        match self {
            Self::Access(_) | Self::Service(_) => true,
            // What is said before the authority is looked at may be said of anybody's.
            Self::Certificate(reason) => !matches!(
                reason,
                CertRejected::Algorithm
                    | CertRejected::Authority
                    | CertRejected::Kind
                    | CertRejected::Malformed
                    | CertRejected::Signature
            ),
            Self::Login(_) | Self::View(_) => false,
        }
    }
}

/// Accepts the certificate and checks that its holder may log in here, by the newest view.
pub(super) fn login(
    certificate: &Certificate,
    login: &str,
    arrival: &Arrival,
    now: Timestamp,
    cache: &AccessCache,
    node: &NodeRecord,
) -> Result<Entry, Refusal> {
    let view = cache.usable()?;
    let login = OsLogin::new(login)?;
    let check = UserCheck { login: Some(&login), peer: arrival.address(&view, now), now };
    let (identity, authority) = authn::user(certificate, &view.trust, check)?;
    way(&view, arrival, now)?;
    let grant = view.admit_login(&identity, node, &login, cache.freshness(now))?;
    Ok(Entry { grant, authority, arrival: arrival.clone() })
}

/// Whether who comes that way may be here.
fn way(view: &AccessView, arrival: &Arrival, now: Timestamp) -> Result<(), Unwelcome> {
    arrival.proxy().map_or(Ok(()), |proxy| view.keep_way(proxy, now))
}

/// Checks again, for each channel of a connection, what may have changed since it was authenticated: the view, and the
/// certificate's end.
pub(super) fn again(
    entry: &Entry,
    now: Timestamp,
    cache: &AccessCache,
    node: &NodeRecord,
) -> Result<LoginGrant, Refusal> {
    let Entry { grant, authority, arrival } = entry;
    if now >= grant.identity.expires {
        return Err(CertRejected::Expired.into());
    }
    let view = cache.usable()?;
    way(&view, arrival, now)?;
    view.keep_login(grant, authority, node, now)?;
    Ok(view.admit_login(&grant.identity, node, &grant.login, cache.freshness(now))?)
}

/// What the view says now of who was let in, whether or not the certificate has ended.
pub(super) fn newest(
    entry: &Entry,
    now: Timestamp,
    cache: &AccessCache,
    node: &NodeRecord,
) -> Result<LoginGrant, Refusal> {
    let view = cache.usable()?;
    way(&view, &entry.arrival, now)?;
    Ok(view.keep_login(&entry.grant, &entry.authority, node, now)?)
}

/// The text of an error and of what caused it, for the audit event.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
