//! How long a connection may live: until nothing moves on it for too long or its certificate ends, by the policy of its user; until
//! a lock is in force for it; until it would not be let in any more.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use teleport_core::access::{SessionPolicy, Unwelcome};
use teleport_core::audit::EventKind;
use teleport_core::clock::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::authorize::{self, Entry, Refusal};
use super::places::{NoPlace, Place};
use crate::engine::transport::Link;
use crate::session::{EndedBy, ExitStatus, SessionOutput};

/// The longest time until the clock is looked at again: it may be set, or stand still while the machine sleeps.
const LOOK: Duration = Duration::from_secs(60);
/// How long the user's terminal has to take the word that the connection ends.
pub(super) const TELL_LIMIT: Duration = Duration::from_secs(1);
/// The same for whoever is sent away: gone within a second.
const TELL_LIMIT_URGENT: Duration = Duration::from_millis(250);
/// How long a session has to end when it is told to. More than what processes have to obey their hang-up.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The same where somebody ended the session.
const END_LIMIT_URGENT: Duration = Duration::from_millis(500);

/// Why a connection that was let in is ended. The texts are for the user and the audit log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Over {
    #[error("the certificate has expired")]
    Expired,
    #[error("nothing was typed or shown for {}", span(*after))]
    Idle {
        /// How long is too long.
        after: Duration,
    },
    /// Of one session.
    #[error("the session was ended by {by}{}{message}", if message.is_empty() { "" } else { ": " })]
    Ended {
        /// Who did it.
        by: String,
        /// Why; may be empty.
        message: String,
    },
    #[error(transparent)]
    Place(#[from] NoPlace),
    /// The user would not be let in any more.
    #[error("{}", .0.public())]
    Unwelcome(Arc<Unwelcome>),
}

impl Over {
    /// For the audit log.
    pub(super) fn internal(&self) -> String {
        match self {
            Self::Unwelcome(why) => why.to_string(),
            other => other.to_string(),
        }
    }

    /// Whether the connection is to be gone within a second, whatever its client and its programs make of it.
    pub(super) const fn is_urgent(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Unwelcome(_))
    }
}

/// What a connection and whoever drives it tell each other.
#[derive(Clone, Debug)]
pub(super) struct Tether {
    entry: Arc<OnceLock<Entry>>,
    /// For who may have only so many connections.
    place: Arc<OnceLock<Place>>,
    ending: watch::Sender<Option<Over>>,
}

impl Tether {
    /// For a new connection.
    pub(super) fn new() -> Self {
        Self { entry: Arc::default(), place: Arc::default(), ending: watch::Sender::new(None) }
    }

    /// The client was let in, to this place if the user has only so many.
    pub(super) fn let_in(&self, entry: Entry, place: Option<Place>) {
        // The library authenticates a connection once.
        let _ = self.entry.set(entry);
        if let Some(place) = place {
            let _ = self.place.set(place);
        }
    }

    /// Who was let in, if somebody was.
    pub(super) fn entry(&self) -> Option<&Entry> {
        self.entry.get()
    }

    /// The connection has ended.
    pub(super) fn ended(&self) {
        if let Some(place) = self.place.get() {
            place.give_back();
        }
    }

    /// Resolves when the place is lost. Cancel safe.
    async fn displaced(&self) -> NoPlace {
        match self.place.get() {
            Some(place) => place.lost().await,
            None => std::future::pending().await,
        }
    }

    /// Whether the node is ending the connection, and why.
    pub(super) fn over(&self) -> Option<Over> {
        self.ending.borrow().clone()
    }

    /// Tells the sessions of the connection that it ends.
    pub(super) fn end(&self, over: Over) {
        self.ending.send_replace(Some(over));
    }

    /// For a session, which may learn of the end.
    pub(super) fn ending(&self) -> watch::Receiver<Option<Over>> {
        self.ending.subscribe()
    }
}

/// `1h30m`, as administrators write it.
fn span(of: Duration) -> String {
    let seconds = of.as_secs();
    let parts = [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let text: String =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { format!("{}ms", of.as_millis()) } else { text }
}

/// How long a connection may go on before it must be looked at again; `None` is for ever, unless the policy changes.
///
/// # Errors
/// Why it must not go on.
fn rest(
    policy: &SessionPolicy,
    expires: Timestamp,
    now: Timestamp,
    idle: Duration,
) -> Result<Option<Duration>, Over> {
    let certificate = policy.disconnect_expired_cert.then(|| expires.saturating_since(now));
    if certificate.is_some_and(|rest| rest.is_zero()) {
        return Err(Over::Expired);
    }
    let quiet = policy.idle_timeout.map(|after| (after, after.saturating_sub(idle)));
    if let Some((after, rest)) = quiet
        && rest.is_zero()
    {
        return Err(Over::Idle { after });
    }
    Ok(certificate.into_iter().chain(quiet.map(|(_, rest)| rest)).min())
}

/// Resolves when the connection of a client that was let in must end, by the newest view. Cancel safe.
pub(super) async fn over(node: &Shared, tether: &Tether, link: &Link) -> Over {
    let Some(entry) = tether.entry.get() else { return std::future::pending().await };
    let mut policy = entry.pass.policy().clone();
    let (mut changes, mut records) = (node.view.changes(), node.record.subscribe());
    loop {
        let record = records.borrow_and_update().clone();
        match authorize::newest(entry, node.clock.now(), &node.view, &record) {
            Ok(newest) => policy = newest.policy().clone(),
            Err(Refusal::Access(why)) => return Over::Unwelcome(Arc::new(why)),
            // Without a view what was begun goes on, under the rules that counted last.
            Err(_) => {}
        }
        loop {
            let rest = match rest(&policy, entry.pass.identity().expires, node.clock.now(), link.idle()) {
                Ok(rest) => rest,
                Err(over) => return over,
            };
            let look = async {
                match rest {
                    Some(rest) => tokio::time::sleep(rest.min(LOOK)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = look => {}
                () = changes.next() => break,
                // Its labels are others now. The node keeps the other end.
                Ok(()) = records.changed() => break,
                why = tether.displaced() => return why.into(),
            }
        }
    }
}

/// Tells the audit log that the node ends a connection.
pub(super) async fn announce(
    node: &Shared,
    tether: &Tether,
    peer: SocketAddr,
    local: SocketAddr,
    over: &Over,
) {
    let mut event = node
        .event(EventKind::ClientDisconnect)
        .remote(Some(peer))
        .field("addr.local", local.to_string())
        .field("reason", over.internal());
    if let Some(Entry { pass, .. }) = tether.entry.get() {
        tracing::info!(%peer, user = %pass.identity().user, reason = over.internal(), "connection ended by the node");
        event = pass.name_in(event);
    }
    node.audit.send(event).await;
}

/// Runs a session to its end, which may be that of its connection, or that somebody else wants: the user is told, and the session
/// is asked to end and then made to. So is one that can no longer be recorded and must be, whose user the caller tells.
pub(super) async fn attend(
    session: impl Future<Output = ExitStatus>,
    output: &SessionOutput,
    terminal: bool,
    closed: &CancellationToken,
    ending: &mut watch::Receiver<Option<Over>>,
    ended: impl Future<Output = EndedBy>,
) -> (ExitStatus, Option<Over>) {
    let mut session = pin!(session);
    let over = tokio::select! {
        status = &mut session => return (status, None),
        over = said(ending) => over,
        // It may show nothing for hours, and would learn of it only then.
        () = output.unrecorded() => {
            closed.cancel();
            let status = tokio::time::timeout(END_LIMIT, &mut session).await;
            return (status.unwrap_or(ExitStatus::Disconnected), None);
        }
        EndedBy { by, message } = ended => Over::Ended { by, message },
    };
    let (text, end_limit) = match over {
        // The channel is closed then, whatever the program makes of it.
        Over::Ended { .. } => (format!("\r\nteleport: {over}\r\n"), END_LIMIT_URGENT),
        _ => (format!("\r\nteleport: the connection ends: {over}\r\n"), END_LIMIT),
    };
    let tell = async { if terminal { output.stdout(text).await } else { output.stderr(text).await } };
    let limit = if over.is_urgent() { TELL_LIMIT_URGENT } else { TELL_LIMIT };
    let ended = async {
        // A terminal whose window is full is not waited for.
        let _ = tokio::time::timeout(limit, tell).await;
        closed.cancel();
        tokio::time::sleep(end_limit).await;
    };
    let status = tokio::select! {
        status = &mut session => status,
        () = ended => ExitStatus::Disconnected,
    };
    (status, Some(over))
}

/// Resolves when the end was said. Cancel safe.
pub(super) async fn said(ending: &mut watch::Receiver<Option<Over>>) -> Over {
    if let Ok(over) = ending.wait_for(Option::is_some).await
        && let Some(over) = over.clone()
    {
        return over;
    }
    // The connection is gone; that is told in another way.
    std::future::pending().await
}

#[cfg(test)]
mod tests;
