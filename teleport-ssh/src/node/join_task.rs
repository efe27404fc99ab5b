//! One user who takes part in the session of somebody else, from joining to leaving.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::Msg;
use teleport_core::access::Unwelcome;
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::lock::Locked;
use teleport_core::recording::NoRecorder;
use teleport_core::resource::JoinMode;

use super::authorize::{self, Refusal, chain};
use super::lifetime::{self, Over};
use super::not_started::tell;
use super::session_task::{Start, close};
use super::{AuditPolicy, NotAudited};
use crate::session::machine::JoinAsked;
use crate::session::{
    EndedBy, ExitStatus, Running, Seat, SessionEvent, SessionInput, SessionOutput, TooMany, View,
};

/// How long a terminal may take nothing of what it is shown.
const STUCK: Duration = Duration::from_secs(60);
/// How long it has to take the last words.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// Ctrl-C.
const LEAVE: u8 = 3;

/// Why somebody does not take part in a session. For the log.
#[derive(Debug, thiserror::Error)]
enum NotJoined {
    #[error(transparent)]
    Access(#[from] Refusal),
    #[error(transparent)]
    Audit(#[from] NotAudited),
    #[error(transparent)]
    Full(#[from] TooMany),
    #[error("no such session runs here")]
    Unknown,
    #[error("the session has no terminal that could be shared")]
    Unshared,
}

impl NotJoined {
    /// For the user. Whoever may not join a session does not learn whether there is one.
    fn told(&self) -> String {
        match self {
            Self::Access(why) if why.lock().is_some() => {
                format!("teleport: {}\r\n", why.lock().map(Locked::public).unwrap_or_default())
            }
            Self::Access(_) | Self::Unknown => {
                "teleport: no such session runs here, or you may not join it so\r\n".to_owned()
            }
            Self::Audit(_) => {
                "teleport: the audit log cannot be written, so the session is not joined\r\n".to_owned()
            }
            Self::Full(_) | Self::Unshared => format!("teleport: {self}\r\n"),
        }
    }
}

/// Why somebody leaves.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("the session may not be joined any more: {0}")]
    Access(Unwelcome),
    #[error("left")]
    ByKey,
    #[error("the connection ends: {0}")]
    Ending(Over),
    #[error("the connection is gone")]
    Gone,
    #[error("the session has ended")]
    Over(ExitStatus),
    #[error("the terminal takes nothing of what it is shown")]
    Stuck,
    #[error("ended the session")]
    Terminated,
}

impl Left {
    /// For the one who leaves; nothing where nobody hears it.
    fn told(&self) -> Option<String> {
        match self {
            Self::Gone | Self::Stuck => None,
            Self::Access(Unwelcome::Locked(locked)) => Some(locked.public()),
            Self::Access(_) => Some("the session may not be joined any more".to_owned()),
            Self::ByKey => Some("you have left the session".to_owned()),
            Self::Terminated => Some("you have ended the session".to_owned()),
            other => Some(other.to_string()),
        }
    }
}

/// Lets somebody take part, or tells why not.
pub(super) async fn run(start: Start, asked: JoinAsked) {
    match find(&start, &asked) {
        Ok((running, seat)) => take_part(start, asked, &running, seat).await,
        Err(why) => refuse(start, &asked, why).await,
    }
}

/// Decides by the newest roles, and takes a seat.
fn find(start: &Start, asked: &JoinAsked) -> Result<(Arc<Running>, Seat), NotJoined> {
    let (node, entry) = (&start.node, &start.entry);
    let record = node.record.borrow().clone();
    let now = node.clock.now();
    authorize::again(entry, now, &node.view, &record)?;
    let running = asked.session.and_then(|id| node.sessions.find(id)).ok_or(NotJoined::Unknown)?;
    let grant = authorize::join(entry, &running, asked.mode, now, &node.view, &record)?;
    let party = running.party.as_ref().ok_or(NotJoined::Unshared)?;
    let size = start.launch.terminal.as_ref().map(|terminal| terminal.size).unwrap_or_default();
    let seat = party.join(&grant.identity.user, grant.mode, size, now)?;
    Ok((running, seat))
}

async fn refuse(start: Start, asked: &JoinAsked, why: NotJoined) {
    let Start { node, entry, channel, slot, account, link, closed, peer, local, .. } = start;
    let (read, write) = channel.split();
    drop(SessionInput::new(read, account));
    let output = SessionOutput::new(write, link, closed, Box::new(NoRecorder::new()));
    let reason = chain(&why);
    tracing::info!(%peer, user = %entry.pass.identity().user, %reason, "joining a session refused");
    let mut event = entry
        .pass
        .name_in(node.event(EventKind::SessionRejected))
        .remote(Some(peer))
        .field("addr.local", local.to_string())
        .field("mode", asked.mode.as_str())
        .error(format!("joining a session: {reason}"));
    match asked.session {
        // Of other sessions a host may not report: the event would be refused, and lost.
        Some(id) if node.sessions.find(id).is_none() => event = event.field("session_asked", id.to_string()),
        asked => event.sid = asked,
    }
    node.audit.send(event).await;
    tell(&output, &why.told()).await;
    drop(slot);
}

/// Takes part until there is a reason to leave.
async fn take_part(start: Start, asked: JoinAsked, running: &Running, seat: Seat) {
    let user = start.entry.pass.identity().user.clone();
    let (mode, party) = (asked.mode, Arc::clone(seat.party()));
    let event = |kind| -> AuditEvent {
        let event = start
            .node
            .event(kind)
            .user(&user)
            .login(&running.live.login)
            .session(running.live.id)
            .remote(Some(start.peer))
            .field("addr.local", start.local.to_string())
            .field("mode", mode.as_str())
            .field("session_user", running.live.user.as_str());
        if asked.reason.is_empty() { event } else { event.field("reason", asked.reason.as_str()) }
    };
    let joined = event(EventKind::SessionJoin);
    let audited = match start.node.audit_policy {
        AuditPolicy::Required => start.node.audit.send_durably(joined).await,
        AuditPolicy::BestEffort => {
            start.node.audit.send(joined).await;
            Ok(())
        }
    };
    if let Err(why) = audited {
        drop(seat);
        return refuse(start, &asked, why.into()).await;
    }
    let left_event = event(EventKind::SessionLeave);
    tracing::info!(peer = %start.peer, %user, %mode, session = %running.live.id, "session joined");
    // If this task is dropped, that is told all the same.
    let mut leaving = Leaving { start_node: Arc::clone(&start.node), event: Some(left_event) };
    let word = format!("{user} joined the session ({mode}); present: {}", party.present());
    let welcome = party.say(&word);
    let Start { node, entry, channel, slot, mut events, account, link, closed, mut ending, handle, .. } =
        start;
    let (read, write) = channel.split();
    let mut input = SessionInput::new(read, account);
    let mut seat = seat;
    let left = {
        let still = still(&node, &entry, running, mode);
        let work = attend(&mut seat, &mut input, &mut events, &write, &link, running, mode, &user);
        tokio::pin!(welcome, still, work);
        let mut welcomed = false;
        loop {
            tokio::select! {
                left = &mut work => break left,
                why = &mut still => break Left::Access(why),
                over = lifetime::said(&mut ending) => break Left::Ending(over),
                () = closed.cancelled() => break Left::Gone,
                () = &mut welcome, if !welcomed => welcomed = true,
            }
        }
    };
    let words = left.told().map(|told| format!("\r\nteleport: {told}\r\n")).unwrap_or_default();
    let undo = [&seat.undo()[..], words.as_bytes()].concat();
    drop(seat);
    let _ = tokio::time::timeout(LAST_WORDS, write.data_bytes(Bytes::from(undo))).await;
    let status = match &left {
        Left::Over(status) => status.clone(),
        Left::ByKey | Left::Terminated => ExitStatus::Code(0),
        _ => ExitStatus::Disconnected,
    };
    close(&handle, &write, &status, slot).await;
    tracing::info!(%user, session = %running.live.id, reason = %left, "session left");
    leaving.tell(&left).await;
    if !matches!(left, Left::Over(_)) {
        party.say(&format!("{user} left the session; present: {}", party.present())).await;
    }
}

/// Resolves when the session may not be joined any more, while whoever joined may stay at the node: who may not is sent away by the
/// connection, which says why. Cancel safe.
async fn still(
    node: &super::Shared,
    entry: &authorize::Entry,
    running: &Running,
    mode: JoinMode,
) -> Unwelcome {
    let mut changes = node.view.changes();
    loop {
        let (record, now) = (node.record.borrow().clone(), node.clock.now());
        let stays = authorize::newest(entry, now, &node.view, &record).is_ok();
        // Without a view what was begun goes on, under the rules that counted last.
        if let Err(Refusal::Access(why)) = authorize::join(entry, running, mode, now, &node.view, &record)
            && stays
        {
            return why;
        }
        changes.next().await;
    }
}

/// Shows what there is and does what is typed, until one of them says that it is over.
#[expect(clippy::too_many_arguments, reason = "the parts of one channel, and what it is joined to")]
async fn attend(
    seat: &mut Seat,
    input: &mut SessionInput,
    events: &mut crate::session::SessionEvents,
    write: &ChannelWriteHalf<Msg>,
    link: &crate::engine::transport::Link,
    running: &Running,
    mode: JoinMode,
    user: &teleport_core::id::UserName,
) -> Left {
    let (sizes, mut size) = tokio::sync::watch::channel(None);
    let typing = async {
        while let Some(keys) = input.next().await {
            match mode {
                JoinMode::Peer => seat_typing(running, keys).await,
                _ if keys.contains(&LEAVE) => return Left::ByKey,
                // Alone: not part of what is pasted, of a report of the mouse, or of an answer.
                JoinMode::Moderator if keys[..] == *b"t" => {
                    running.end(EndedBy { by: user.to_string(), message: String::new() });
                    return Left::Terminated;
                }
                _ => {}
            }
        }
        // Whoever types nothing more may still watch.
        std::future::pending().await
    };
    let resizing = async {
        loop {
            match events.next().await {
                SessionEvent::Closed => return Left::Gone,
                SessionEvent::Resize(size) => drop(sizes.send_replace(Some(size))),
                _ => {}
            }
        }
    };
    let showing = async {
        loop {
            tokio::select! {
                biased;
                Ok(()) = size.changed() => {
                    let size = *size.borrow_and_update();
                    if let Some(size) = size {
                        seat.resize(size);
                    }
                }
                view = seat.next() => match view {
                    Ok(view) => match tokio::time::timeout(STUCK, show(write, link, view)).await {
                        Ok(true) => {}
                        Ok(false) => return Left::Gone,
                        Err(_) => return Left::Stuck,
                    },
                    Err(status) => return Left::Over(status),
                },
            }
        }
    };
    tokio::select! {
        left = typing => left,
        left = resizing => left,
        left = showing => left,
    }
}

/// Types into the session, if it still takes that.
async fn seat_typing(running: &Running, keys: Bytes) {
    if let Some(party) = &running.party {
        party.type_in(keys).await;
    }
}

/// Shows it; `false` if the connection is gone.
async fn show(write: &ChannelWriteHalf<Msg>, link: &crate::engine::transport::Link, view: View) -> bool {
    let _waits = link.output_waits();
    link.moves();
    match view {
        View::Output(pieces) => {
            for piece in pieces {
                if write.data_bytes(piece).await.is_err() {
                    return false;
                }
            }
            true
        }
        View::Skipped(missed, screen) => {
            let word = format!("\r\nteleport: {missed} bytes came faster than they were taken; left out\r\n");
            write.data_bytes(screen).await.is_ok() && write.data_bytes(Bytes::from(word)).await.is_ok()
        }
    }
}

/// Tells the audit log that somebody left, whatever happens.
struct Leaving {
    start_node: Arc<super::Shared>,
    event: Option<AuditEvent>,
}

impl Leaving {
    async fn tell(&mut self, left: &Left) {
        if let Some(event) = self.event.take() {
            self.start_node.audit.send(event.field("leave_reason", left.to_string())).await;
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // Only when the task was aborted.
        if let Some(event) = self.event.take() {
            self.start_node.audit.note(event.field("leave_reason", "the node stops"));
        }
    }
}
