//! What a proxy never does, and how its refusals are worded: a text for the user, one for the audit event.

use russh::server::{ChannelOpenHandle, Session};
use russh::{ChannelId, ChannelOpenFailure};
use teleport_core::access::{Denied, Unwelcome};
use teleport_core::audit::EventKind;
use teleport_core::target::InvalidTarget;

use super::{Connection, MAX_CHANNELS};
use crate::node::NotShown;
use crate::origin::CannotState;
use crate::proxy::dial::DialError;
use crate::proxy::journal::NotRecorded;
use crate::proxy::route::RouteError;
use crate::view::NoView;

/// What whoever asks for a shell is told.
const ONLY_A_PROXY: &str =
    "this is a proxy: it has no shell, commands or files; go through it to a node with `ssh -J`";
const NO_FORWARDING: &str = "the proxy forwards connections to the SSH port of nodes only";

/// The exit status of whatever is refused.
pub(super) const REFUSED: u32 = 1;
pub(super) const STDERR: u32 = 1;

/// Codes of RFC 4254 section 5.1.
const PROHIBITED: u32 = 1;
const CONNECT_FAILED: u32 = 2;
const RESOURCE_SHORTAGE: u32 = 4;

/// Why a way to a node is refused.
pub(super) enum Refusal {
    Target(InvalidTarget),
    Roles(Denied),
    Route(RouteError),
    Unreachable(DialError),
    CannotState(CannotState),
    NoStandIns,
    NotRecorded,
    NotShown(NotShown),
    NoView(NoView),
    Expired,
    TooManyChannels,
    Unwelcome(Unwelcome),
}

impl Refusal {
    /// For the user.
    pub(super) fn public(&self) -> String {
        match self {
            Self::Target(error) => error.to_string(),
            Self::Unwelcome(Unwelcome::Locked(locked)) => locked.public(),
            Self::Roles(_) | Self::Unwelcome(_) => "access denied".to_owned(),
            Self::Route(error) => error.to_string(),
            Self::Unreachable(DialError::Peer { .. }) => {
                "the node cannot be reached: another proxy has its tunnel and does not answer; try again in a moment"
                    .to_owned()
            }
            // Where the node announced to be, and how that failed, is for administrators.
            Self::Unreachable(_) => "the node cannot be reached".to_owned(),
            Self::NoStandIns => {
                "this proxy does not lead to SSH servers without software of the cluster".to_owned()
            }
            Self::NotRecorded | Self::NoView(_) | Self::CannotState(_) | Self::NotShown(_) => {
                "the proxy cannot work at the moment; try again later".to_owned()
            }
            Self::Expired => "your certificate has expired; log in again".to_owned(),
            Self::TooManyChannels => format!("a connection has at most {MAX_CHANNELS} channels"),
        }
    }

    /// For a user who sees all of it, line by line as terminals want them.
    pub(super) fn lines(&self) -> String {
        match self {
            Self::Route(error) => error.lines().replace('\n', "\r\n"),
            other => other.public(),
        }
    }

    /// For the audit event.
    pub(super) fn internal(&self) -> String {
        match self {
            Self::Roles(error) => error.to_string(),
            Self::Unwelcome(why) => why.to_string(),
            Self::Route(error) => error.internal(),
            Self::CannotState(error) => with_source(error),
            Self::Unreachable(error) => with_source(error),
            Self::NotShown(error) => with_source(error),
            Self::NoView(error) => error.to_string(),
            other => other.public(),
        }
    }

    /// As the answer to a channel that was to be opened, with a text of ours; the library's named variants have fixed texts.
    pub(super) fn failure(&self) -> ChannelOpenFailure {
        let code = match self {
            Self::Target(_)
            | Self::Roles(_)
            | Self::Route(_)
            | Self::NoView(_)
            | Self::Expired
            | Self::Unwelcome(_) => PROHIBITED,
            Self::Unreachable(_)
            | Self::CannotState(_)
            | Self::NoStandIns
            | Self::NotRecorded
            | Self::NotShown(_) => CONNECT_FAILED,
            Self::TooManyChannels => RESOURCE_SHORTAGE,
        };
        ChannelOpenFailure::Other { code, reason: self.public() }
    }
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl From<CannotState> for Refusal {
    fn from(error: CannotState) -> Self {
        Self::CannotState(error)
    }
}

impl From<NotRecorded> for Refusal {
    fn from(_: NotRecorded) -> Self {
        Self::NotRecorded
    }
}

impl Connection {
    /// Tells the audit log of a request for something that a proxy never does.
    fn note(&self, kind: EventKind, what: &str, reason: &str) {
        self.shared.journal.note(self.event(kind).error(reason).field("request", what));
    }

    /// Tells the audit log that forwarding was asked for.
    pub(super) fn no_forwarding(&self, what: &str) {
        self.note(EventKind::PortFailure, what, NO_FORWARDING);
    }

    /// Refuses a channel that would lead elsewhere than to a node.
    pub(super) async fn no_channel(&self, what: &str, reply: ChannelOpenHandle) {
        self.no_forwarding(what);
        reply.reject(ChannelOpenFailure::Other { code: PROHIBITED, reason: NO_FORWARDING.to_owned() }).await;
    }

    /// Refuses what belongs to a shell and is no use without one.
    pub(super) fn no_request(
        &self,
        channel: ChannelId,
        what: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.note(EventKind::SessionRejected, what, ONLY_A_PROXY);
        session.channel_failure(channel)
    }

    /// Refuses a shell or a command, in words that its user reads.
    pub(super) fn no_session(
        &self,
        channel: ChannelId,
        kind: EventKind,
        what: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.note(kind, what, ONLY_A_PROXY);
        say(channel, ONLY_A_PROXY, session)
    }
}

/// Ends a session channel with words that its user reads.
///
/// The request itself succeeds and what "ran" fails at once: after a failed request OpenSSH exits without showing what was
/// said before.
pub(super) fn say(channel: ChannelId, text: &str, session: &mut Session) -> Result<(), russh::Error> {
    session.channel_success(channel)?;
    session.extended_data(channel, STDERR, format!("{text}\r\n"))?;
    session.exit_status_request(channel, REFUSED)?;
    session.eof(channel)?;
    session.close(channel)
}
