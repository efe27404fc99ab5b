//! One session from its start to its end: recorder, audit, service, exit status, close.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{Handle, Msg};
use russh::{Channel, ChannelWriteHalf, Sig};
use teleport_core::access::{LoginGrant, SessionRecording};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::clock::Timestamp;
use teleport_core::id::SessionId;
use teleport_core::recording::{NoRecorder, RecordingMeta, SessionEnd};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::field;

use super::Shared;
use super::authorize::{Entry, chain};
use super::files::FileEvents;
use super::forward::{AgentSocket, DisplayDoor};
use super::handler::Slot;
use super::lifetime::{self, Over};
use super::not_started::{NOT_BEGUN, tell};
use crate::engine::transport::{Account, Link};
use crate::session::machine::Launch;
use crate::session::{
    ExitStatus, FileReporter, LiveSession, Party, Running, SessionChannel, SessionEvents, SessionInput,
    SessionKind, SessionOutput, SessionRequest, Sizes, TerminalSize,
};

/// How often a terminal's size is written to the audit log. The recording has all of them.
const RESIZE_EVERY: Duration = Duration::from_secs(1);

/// All that a session needs.
pub(super) struct Start {
    pub(super) node: Arc<Shared>,
    pub(super) handle: Handle,
    pub(super) entry: Entry,
    pub(super) launch: Launch,
    pub(super) channel: Channel<Msg>,
    pub(super) slot: Slot,
    pub(super) events: SessionEvents,
    pub(super) sizes: Sizes,
    pub(super) account: Account,
    pub(super) link: Link,
    /// Leads to the user's agent as long as the session lasts.
    pub(super) agent: Option<AgentSocket>,
    /// Leads to the user's display as long as the session lasts.
    pub(super) display: Option<DisplayDoor>,
    pub(super) closed: CancellationToken,
    pub(super) ending: watch::Receiver<Option<Over>>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Runs a session to its end.
pub(super) async fn run(start: Start, grant: LoginGrant) {
    let Start {
        node,
        handle,
        launch,
        channel,
        slot,
        mut events,
        sizes,
        account,
        link,
        agent,
        display,
        closed,
        mut ending,
        peer,
        local,
        ..
    } = start;
    let (read, write) = channel.split();
    let mut input = SessionInput::new(read, account);
    let id = SessionId::random(&*node.entropy);
    // Held to the end and never entered: nothing is done for it when bytes pass.
    let span = tracing::info_span!("session", session = field::Empty, user = %grant.identity.user, login = %grant.login);
    let begun = match &id {
        Ok(id) => {
            span.record("session", field::display(id));
            begin(*id, &node, &grant, &launch).await
        }
        Err(error) => Err(chain(error)),
    };
    let (id, started, recorder, recording) = match begun {
        Ok(begun) => begun,
        Err(reason) => {
            let output = SessionOutput::new(write, link, closed, Box::new(NoRecorder::new()));
            let event = node.event(EventKind::SessionRejected).user(&grant.identity.user).login(&grant.login);
            // What was recorded of it is delivered late, and says only which session it was.
            let event = id.into_iter().fold(event, AuditEvent::session);
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
        let recorder = output.finish(SessionEnd::Disconnected);
        // The start may still be written, late: what follows it says that nothing came of it.
        let event = details.of(EventKind::SessionRejected);
        let event = event.error("the session's start could not be written to the audit log in time");
        node.audit.note_before(event, recorder);
        tell(&output, "teleport: the audit log cannot be written, so the session is not begun\r\n").await;
        return;
    }
    let Launch { kind, original_command, terminal, env, .. } = launch;
    let changed_sizes = sizes.subscribe();
    let party = terminal.is_some().then(|| {
        output.share();
        let (registry, owner) = (node.sessions.clone(), grant.identity.user.clone());
        let changed = Arc::new(move || registry.change());
        Arc::new(Party::new(owner, output.clone(), sizes, input.share(), changed))
    });
    let live = LiveSession { id, user: grant.identity.user.clone(), login: grant.login.clone(), started };
    let running = Running::new(
        live,
        grant.identity.roles.clone(),
        command(&kind),
        recording != SessionRecording::Off,
        party.clone(),
    );
    let registered = node.sessions.enter(running.on(node.stands_in_for));
    let interactive = terminal.is_some();
    let material = node.identity.current();
    let request = SessionRequest {
        id,
        kind,
        original_command,
        terminal,
        env,
        agent_socket: agent.as_ref().map(|agent| agent.path().to_owned()),
        display: display.as_ref().map(|door| door.display().clone()),
        client: peer,
        server: local,
        host_id: material.host_id,
        host_name: material.name.clone(),
        cluster: material.cluster.clone(),
    };
    let (reporter, files) = FileReporter::new();
    let channel = SessionChannel { request, input, output: output.clone(), events, files: reporter };
    let event = node.event(EventKind::Resize).user(&grant.identity.user).login(&grant.login);
    let event = event.session(id).remote(Some(peer)).field("addr.local", local.to_string());
    let mut files = FileEvents::new(node.audit.clone(), event.clone(), files);
    // If this task is dropped or the service panics, the end is told all the same.
    let mut guard = Ending { output: Some(output.clone()), node: Arc::clone(&node), details, started, party };
    let session = node.service.run(grant, channel);
    let attended =
        lifetime::attend(session, &output, interactive, &closed, &mut ending, registered.running.ended());
    let (status, over) = tokio::select! {
        ended = attended => ended,
        never = tell_sizes(changed_sizes, &node, event) => match never {},
        never = files.tell() => match never {},
    };
    files.tell_rest().await;
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
    drop((agent, display));
    guard.end(&handle, status, slot).await;
    drop((registered, span));
}

/// Tells the audit log of new sizes of the terminal; of those that change quickly, the newest.
async fn tell_sizes(
    mut sizes: watch::Receiver<TerminalSize>,
    node: &Shared,
    resized: AuditEvent,
) -> Infallible {
    while sizes.changed().await.is_ok() {
        let (columns, rows) = sizes.borrow_and_update().cells();
        node.audit.send(resized.clone().field("terminal_size", format!("{columns}:{rows}"))).await;
        tokio::time::sleep(RESIZE_EVERY).await;
    }
    std::future::pending().await
}

type Begun = (SessionId, Timestamp, Box<dyn teleport_core::recording::Recorder>, SessionRecording);

async fn begin(id: SessionId, node: &Shared, grant: &LoginGrant, launch: &Launch) -> Result<Begun, String> {
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
    }
    .shortened();
    // A file is made and synced: other connections of this thread must not wait for the disk.
    let view = node.view.usable().map_err(|error| chain(&error))?;
    let mode = match launch.kind {
        // What is done to files is in the audit log; what is in them is no output.
        SessionKind::Scp(_) | SessionKind::Sftp => SessionRecording::Off,
        _ => view.recording.decide(&node.record.borrow().labels, grant.policy.recording),
    };
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
        SessionKind::Scp(command) => Some(String::from_utf8_lossy(command.line()).into_owned()),
        SessionKind::Shell => None,
        SessionKind::Sftp => Some("sftp".to_owned()),
    }
}

/// What all events of one session say.
struct Details {
    event: AuditEvent,
    session: SessionId,
    command: Option<String>,
    /// Told at the end, beside the end of the session.
    ran: Option<(EventKind, EventKind)>,
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
        let ran = match launch.kind {
            SessionKind::Exec(_) | SessionKind::Scp(_) => Some((EventKind::Exec, EventKind::ExecFailure)),
            SessionKind::Shell | SessionKind::Sftp => None,
        };
        Self { event, session, command: command(&launch.kind), ran, terminal }
    }

    fn of(&self, kind: EventKind) -> AuditEvent {
        let mut event = self.event.clone().of_kind(kind);
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
        node.announce(event).await
    }
}

/// Tells of the end, whatever it is.
struct Ending {
    output: Option<SessionOutput>,
    node: Arc<Shared>,
    details: Details,
    started: Timestamp,
    party: Option<Arc<Party>>,
}

impl Ending {
    async fn end(mut self, handle: &Handle, status: ExitStatus, slot: Slot) {
        let Some(output) = self.output.take() else { return };
        self.leave_others(&status);
        let recorder = output.finish(recorded(&status));
        close(handle, output.channel(), &status, slot).await;
        if let ExitStatus::Refused { reason } = &status {
            let refused = self.details.of(EventKind::SessionRejected).error(reason.as_str());
            self.node.audit.send(refused).await;
        }
        let (command, end) = self.events(&status);
        if let Some(command) = command {
            self.node.audit.send(command).await;
        }
        self.node.audit.send_before(end, recorder).await;
    }

    /// Those who take part hear how it ended.
    fn leave_others(&self, status: &ExitStatus) {
        if let Some(party) = &self.party {
            party.end(status.clone());
        }
    }

    /// What is told of a command, and then of the end.
    fn events(&self, status: &ExitStatus) -> (Option<AuditEvent>, AuditEvent) {
        let command = self.details.ran.map(|(well, badly)| {
            let kind = match status {
                ExitStatus::Code(0) => well,
                _ => badly,
            };
            with_status(self.details.of(kind), status)
        });
        let participants = match &self.party {
            Some(party) => party.took_part().iter().map(ToString::to_string).collect(),
            None => self.details.event.user.iter().cloned().collect::<Vec<_>>(),
        };
        let end = self.details.of(EventKind::SessionEnd);
        let end = end
            .field("participants", participants)
            .field("session_start", self.started.to_string())
            .field("session_stop", self.node.clock.now().to_string());
        (command, with_status(end, status))
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Only when the service was aborted or panicked.
        let Some(output) = self.output.take() else { return };
        self.leave_others(&ExitStatus::Disconnected);
        let recorder = output.finish(SessionEnd::Disconnected);
        tracing::warn!(session = %self.details.session, "session ended by the node");
        let (command, end) = self.events(&ExitStatus::Disconnected);
        if let Some(command) = command {
            self.node.audit.note(command);
        }
        self.node.audit.note_before(end, recorder);
    }
}

/// Tells the client how it ended, and closes the channel.
pub(super) async fn close(handle: &Handle, channel: &ChannelWriteHalf<Msg>, status: &ExitStatus, slot: Slot) {
    // The client may be gone; then nobody hears it.
    match status {
        ExitStatus::Code(code) => {
            let _ = channel.exit_status(*code).await;
        }
        ExitStatus::Signal { name, core_dumped } => {
            let signal = Sig::Custom(name.clone());
            let _ = handle
                .exit_signal_request(channel.id(), signal, *core_dumped, String::new(), String::new())
                .await;
        }
        ExitStatus::Refused { .. } => {
            let _ = channel.exit_status(NOT_BEGUN).await;
        }
        ExitStatus::Disconnected => {}
    }
    let _ = channel.eof().await;
    // Before the client can know, so that it may open the next one at once.
    drop(slot);
    let _ = channel.close().await;
}

fn recorded(status: &ExitStatus) -> SessionEnd {
    match status {
        ExitStatus::Code(code) => SessionEnd::Exited(*code),
        ExitStatus::Disconnected => SessionEnd::Disconnected,
        ExitStatus::Refused { .. } => SessionEnd::Exited(NOT_BEGUN),
        ExitStatus::Signal { name, .. } => SessionEnd::Signaled(name.clone()),
    }
}

fn with_status(event: AuditEvent, status: &ExitStatus) -> AuditEvent {
    match status {
        ExitStatus::Code(code) => event.field("exit_code", code.to_string()),
        ExitStatus::Disconnected => event.field("exit_reason", "disconnected"),
        ExitStatus::Refused { .. } => event.field("exit_code", NOT_BEGUN.to_string()),
        ExitStatus::Signal { name, .. } => event.field("exit_signal", name.as_str()),
    }
}
