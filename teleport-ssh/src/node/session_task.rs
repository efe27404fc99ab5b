//! One session from its start to its end: recorder, audit, service, exit status, close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{Handle, Msg};
use russh::{Channel, Sig};
use teleport_core::access::{LoginGrant, SessionRecording};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::clock::Timestamp;
use teleport_core::id::SessionId;
use teleport_core::recording::{NoRecorder, RecordingMeta, SessionEnd};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authorize::chain;
use super::handler::Slot;
use super::lifetime::{self, Over};
use super::not_started::tell;
use super::{AuditPolicy, Shared};
use crate::engine::transport::{Account, Link};
use crate::session::machine::Launch;
use crate::session::{
    ExitStatus, SessionChannel, SessionEvents, SessionInput, SessionKind, SessionOutput, SessionRequest,
};

/// All that a session needs.
pub(super) struct Start {
    pub(super) node: Arc<Shared>,
    pub(super) handle: Handle,
    pub(super) grant: LoginGrant,
    pub(super) launch: Launch,
    pub(super) channel: Channel<Msg>,
    pub(super) slot: Slot,
    pub(super) events: SessionEvents,
    pub(super) account: Account,
    pub(super) link: Link,
    pub(super) closed: CancellationToken,
    pub(super) ending: watch::Receiver<Option<Over>>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Runs a session to its end.
pub(super) async fn run(start: Start) {
    let Start {
        node,
        handle,
        grant,
        launch,
        channel,
        slot,
        mut events,
        account,
        link,
        closed,
        mut ending,
        peer,
        local,
    } = start;
    let (read, write) = channel.split();
    let input = SessionInput::new(read, account);
    let begun = begin(&node, &grant, &launch).await;
    let (id, started, recorder, recording) = match begun {
        Ok(begun) => begun,
        Err(reason) => {
            let output = SessionOutput::new(write, link, closed, Box::new(NoRecorder::new()));
            let event = node.event(EventKind::SessionRejected).user(&grant.identity.user).login(&grant.login);
            node.audit.send(event.remote(Some(peer)).error(&reason)).await;
            tell(&output, "teleport: the session cannot be recorded, so it is not begun\r\n").await;
            return;
        }
    };
    let output = SessionOutput::new(write, link, closed.clone(), recorder);
    events.record_to(&output);
    let details = Details::new(&node, &grant, &launch, (id, recording), peer, local);
    if details.announce(&node).await.is_err() {
        tracing::warn!(session = %id, "the session's start cannot be written to the audit log: refused");
        output.finish(SessionEnd::Disconnected);
        // The start may still be written, late: what follows it says that nothing came of it.
        let event = details.of(EventKind::SessionRejected);
        node.audit.note(event.error("the session's start could not be written to the audit log in time"));
        tell(&output, "teleport: the audit log cannot be written, so the session is not begun\r\n").await;
        return;
    }
    let registered = node.sessions.enter(id, &grant.identity.user, &grant.login, started);
    let Launch { kind, original_command, terminal, env } = launch;
    let interactive = terminal.is_some();
    let material = node.identity.current();
    let request = SessionRequest {
        id,
        kind,
        original_command,
        terminal,
        env,
        client: peer,
        server: local,
        host_id: material.host_id,
        host_name: material.name.clone(),
        cluster: material.cluster.clone(),
    };
    let channel = SessionChannel { request, input, output: output.clone(), events };
    // If this task is dropped or the service panics, the end is told all the same.
    let mut guard = Ending { output: Some(output.clone()), node: Arc::clone(&node), details, started };
    let session = node.service.run(grant, channel);
    let (status, over) = lifetime::attend(session, &output, interactive, &closed, &mut ending).await;
    if output.is_unrecorded() {
        tracing::warn!(session = %id, "the session can no longer be recorded, and must be: ended");
        guard.details.event =
            guard.details.event.clone().field("reason", "the session could not be recorded");
        let text = "\r\nteleport: the session can no longer be recorded, so it ends\r\n";
        // A window that is full is not waited for.
        let _ = tokio::time::timeout(lifetime::TELL_LIMIT, output.notice(text, interactive)).await;
    } else if let Some(over) = over {
        guard.details.event = guard.details.event.clone().field("reason", over.internal());
    }
    guard.end(&handle, status, slot).await;
    drop(registered);
}

type Begun = (SessionId, Timestamp, Box<dyn teleport_core::recording::Recorder>, SessionRecording);

async fn begin(node: &Shared, grant: &LoginGrant, launch: &Launch) -> Result<Begun, String> {
    let id = SessionId::random(&*node.entropy).map_err(|error| chain(&error))?;
    let started = node.clock.now();
    let material = node.identity.current();
    let meta = RecordingMeta {
        session: id,
        cluster: material.cluster.clone(),
        host_id: material.host_id,
        host_name: material.name.clone(),
        user: grant.identity.user.clone(),
        login: grant.login.clone(),
        started,
        command: command(&launch.kind),
        terminal: launch.terminal.as_ref().map(|terminal| terminal.size.cells()),
    };
    // A file is made and synced: other connections of this thread must not wait for the disk.
    let view = node.view.usable().map_err(|error| chain(&error))?;
    let mode = view.recording.decide(&node.record.borrow().labels, grant.policy.recording);
    if mode == SessionRecording::Off {
        return Ok((id, started, Box::new(NoRecorder::new()), mode));
    }
    let recorders = Arc::clone(&node.recorders);
    let recorder = tokio::task::spawn_blocking(move || recorders.start(meta, mode)).await;
    let mut recorder = recorder.map_err(|error| chain(&error))?.map_err(|error| chain(&error))?;
    if let Some(kept) = recorder.kept()
        && !kept.await
    {
        recorder.finish(Duration::ZERO, SessionEnd::Disconnected);
        return Err("the beginning of the recording was not taken in time".to_owned());
    }
    Ok((id, started, recorder, mode))
}

/// The text of a command, for records.
pub(super) fn command(kind: &SessionKind) -> Option<String> {
    match kind {
        SessionKind::Exec(line) => Some(String::from_utf8_lossy(line).into_owned()),
        SessionKind::Shell => None,
    }
}

/// What all events of one session say.
struct Details {
    event: AuditEvent,
    session: SessionId,
    command: Option<String>,
    terminal: Option<(u16, u16)>,
}

impl Details {
    fn new(
        node: &Shared,
        grant: &LoginGrant,
        launch: &Launch,
        (session, recording): (SessionId, SessionRecording),
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        let event = node
            .event(EventKind::SessionStart)
            .user(&grant.identity.user)
            .login(&grant.login)
            .session(session)
            .remote(Some(peer))
            .field("addr.local", local.to_string())
            .field("role", grant.role.as_str())
            .field("session_recording", recording.at().as_str());
        let event = match recording {
            SessionRecording::Off => event,
            recorded => event.field("recording_strict", recorded.is_strict()),
        };
        let terminal = launch.terminal.as_ref().map(|terminal| terminal.size.cells());
        Self { event, session, command: command(&launch.kind), terminal }
    }

    fn of(&self, kind: EventKind) -> AuditEvent {
        let fresh = AuditEvent::new(kind);
        let mut event = self.event.clone();
        event.event = fresh.event;
        event.code = fresh.code;
        event.success = fresh.success;
        if let Some(command) = &self.command {
            event = event.field("command", command.as_str());
        }
        event.field("interactive", self.terminal.is_some())
    }

    async fn announce(&self, node: &Shared) -> Result<(), super::NotAudited> {
        let mut event = self.of(EventKind::SessionStart);
        if let Some((columns, rows)) = self.terminal {
            event = event.field("terminal_size", format!("{columns}:{rows}"));
        }
        match node.audit_policy {
            AuditPolicy::Required => node.audit.send_durably(event).await,
            AuditPolicy::BestEffort => {
                node.audit.send(event).await;
                Ok(())
            }
        }
    }
}

/// Tells of the end, whatever it is.
struct Ending {
    output: Option<SessionOutput>,
    node: Arc<Shared>,
    details: Details,
    started: Timestamp,
}

impl Ending {
    async fn end(mut self, handle: &Handle, status: ExitStatus, slot: Slot) {
        let Some(output) = self.output.take() else { return };
        output.finish(recorded(&status));
        let channel = output.channel();
        // The client may be gone; then nobody hears it.
        match &status {
            ExitStatus::Code(code) => {
                let _ = channel.exit_status(*code).await;
            }
            ExitStatus::Signal { name, core_dumped } => {
                let signal = Sig::Custom(name.clone());
                let _ = handle
                    .exit_signal_request(channel.id(), signal, *core_dumped, String::new(), String::new())
                    .await;
            }
            ExitStatus::Disconnected => {}
        }
        let _ = channel.eof().await;
        // Before the client can know, so that it may open the next one at once.
        drop(slot);
        let _ = channel.close().await;
        for event in self.events(&status) {
            self.node.audit.send(event).await;
        }
    }

    fn events(&self, status: &ExitStatus) -> Vec<AuditEvent> {
        let mut events = Vec::with_capacity(2);
        if self.details.command.is_some() {
            let kind = match status {
                ExitStatus::Code(0) => EventKind::Exec,
                _ => EventKind::ExecFailure,
            };
            events.push(with_status(self.details.of(kind), status));
        }
        let end = self.details.of(EventKind::SessionEnd);
        let end = end
            .field("session_start", self.started.to_string())
            .field("session_stop", self.node.clock.now().to_string());
        events.push(with_status(end, status));
        events
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Only when the service was aborted or panicked.
        let Some(output) = self.output.take() else { return };
        output.finish(SessionEnd::Disconnected);
        tracing::warn!(session = %self.details.session, "session ended by the node");
        for event in self.events(&ExitStatus::Disconnected) {
            self.node.audit.note(event);
        }
    }
}

fn recorded(status: &ExitStatus) -> SessionEnd {
    match status {
        ExitStatus::Code(code) => SessionEnd::Exited(*code),
        ExitStatus::Disconnected => SessionEnd::Disconnected,
        ExitStatus::Signal { name, .. } => SessionEnd::Signaled(name.clone()),
    }
}

fn with_status(event: AuditEvent, status: &ExitStatus) -> AuditEvent {
    match status {
        ExitStatus::Code(code) => event.field("exit_code", code.to_string()),
        ExitStatus::Disconnected => event.field("exit_reason", "disconnected"),
        ExitStatus::Signal { name, .. } => event.field("exit_signal", name.as_str()),
    }
}
