//! From a certificate to a grant: what the node decides about a login.

use ssh_key::Certificate;
use teleport_core::access::{JoinGrant, LoginGrant, SessionPolicy, SessionToJoin, Unwelcome, VisitGrant};
use teleport_core::api::AccessView;
use teleport_core::audit::AuditEvent;
use teleport_core::cert::{CertRejected, PublicKey, UserCheck, UserIdentity};
use teleport_core::clock::Timestamp;
use teleport_core::id::{InvalidName, OsLogin};
use teleport_core::lock::Locked;
use teleport_core::resource::{JoinMode, NodeRecord};

use crate::authn;
use crate::origin::{Arrival, Whence};
use crate::session::{JOIN_LOGIN, LoginRefused, Running};
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

/// What somebody was let in for.
#[derive(Clone, Debug)]
pub(super) enum Pass {
    /// To begin sessions as a login.
    Login(LoginGrant),
    /// To join sessions of others.
    Visit(VisitGrant),
}

impl Pass {
    pub(super) const fn identity(&self) -> &UserIdentity {
        match self {
            Self::Login(grant) => &grant.identity,
            Self::Visit(visit) => &visit.identity,
        }
    }

    /// What counts for the connection.
    pub(super) const fn policy(&self) -> &SessionPolicy {
        match self {
            Self::Login(grant) => &grant.policy,
            Self::Visit(visit) => &visit.policy,
        }
    }

    pub(super) const fn login(&self) -> Option<&OsLogin> {
        match self {
            Self::Login(grant) => Some(&grant.login),
            Self::Visit(_) => None,
        }
    }

    /// Names the user, and the login if there is one.
    pub(super) fn name_in(&self, event: AuditEvent) -> AuditEvent {
        let event = event.user(&self.identity().user);
        match self.login() {
            Some(login) => event.login(login),
            None => event,
        }
    }
}

/// Who was let in, and the authority whose word that was.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) pass: Pass,
    pub(super) authority: PublicKey,
    /// From where, now.
    pub(super) whence: Whence,
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
    whence: &Whence,
    now: Timestamp,
    cache: &AccessCache,
    node: &NodeRecord,
) -> Result<Entry, Refusal> {
    let view = cache.usable()?;
    let arrival = &whence.arrival();
    // Whoever only joins sessions needs no login.
    let login = if login == JOIN_LOGIN { None } else { Some(OsLogin::new(login)?) };
    let check = UserCheck { login: login.as_ref(), peer: arrival.address(&view, now), now };
    let (identity, authority) = authn::user(certificate, &view.trust, check)?;
    way(&view, arrival, now)?;
    let fresh = cache.freshness(now);
    let pass = match &login {
        Some(login) => Pass::Login(view.admit_login(&identity, node, login, fresh)?),
        None => Pass::Visit(view.admit_visit(&identity, node, fresh)?),
    };
    Ok(Entry { pass, authority, whence: whence.clone() })
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
) -> Result<Pass, Refusal> {
    if now >= entry.pass.identity().expires {
        return Err(CertRejected::Expired.into());
    }
    let view = cache.usable()?;
    keep(&view, entry, now, node)?;
    let fresh = cache.freshness(now);
    Ok(match &entry.pass {
        Pass::Login(grant) => Pass::Login(view.admit_login(&grant.identity, node, &grant.login, fresh)?),
        Pass::Visit(visit) => Pass::Visit(view.admit_visit(&visit.identity, node, fresh)?),
    })
}

/// Whether a connection may go on from another place: its certificate may be used there, the proxy that carries it is one, and its
/// client would still be kept.
pub(super) fn resume(
    entry: &Entry,
    arrival: &Arrival,
    now: Timestamp,
    cache: &AccessCache,
    node: &NodeRecord,
) -> Result<(), Refusal> {
    let view = cache.usable()?;
    entry.pass.identity().may_come_from(arrival.address(&view, now))?;
    way(&view, arrival, now)?;
    keep(&view, entry, now, node)?;
    Ok(())
}

/// What the view says now of who was let in, whether or not the certificate has ended.
pub(super) fn newest(
    entry: &Entry,
    now: Timestamp,
    cache: &AccessCache,
    node: &NodeRecord,
) -> Result<Pass, Refusal> {
    Ok(keep(&*cache.usable()?, entry, now, node)?)
}

fn keep(view: &AccessView, entry: &Entry, now: Timestamp, node: &NodeRecord) -> Result<Pass, Unwelcome> {
    way(view, &entry.whence.arrival(), now)?;
    Ok(match &entry.pass {
        Pass::Login(grant) => Pass::Login(view.keep_login(grant, &entry.authority, node, now)?),
        Pass::Visit(visit) => Pass::Visit(view.keep_visit(visit, &entry.authority, node, now)?),
    })
}

/// Whether somebody who was let in may take part in a session, or go on with it, by the newest view.
pub(super) fn join(
    entry: &Entry,
    running: &Running,
    mode: JoinMode,
    now: Timestamp,
    cache: &AccessCache,
    node: &NodeRecord,
) -> Result<JoinGrant, Refusal> {
    let session = SessionToJoin {
        owner: &running.live.user,
        owner_roles: &running.roles,
        login: &running.live.login,
        node,
    };
    Ok(cache.usable()?.check_join(entry.pass.identity(), &session, mode, now)?)
}

/// The text of an error and of what caused it, for the audit event.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
