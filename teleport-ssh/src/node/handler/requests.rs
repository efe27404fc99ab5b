//! What is asked for on a session channel, in the order that the channel's machine allows; and what waits there unread.

use std::sync::Arc;

use russh::server::Session;
use russh::{ChannelId, Sig};
use teleport_core::access::LoginGrant;
use teleport_core::audit::{AuditEvent, EventKind};

use super::{Connection, ConnectionError};
use crate::node::authorize::{self, Entry, Pass};
use crate::node::join_task;
use crate::node::not_started::{self, NotStarted};
use crate::node::session_task::{self, Start};
use crate::session::machine::{Launch, Request, Verdict};
use crate::session::{SessionEvents, SessionKind, Sizes, TerminalSize};

/// What may wait in a channel on which nothing has been started, in bytes: input and requests. Less than where the transport
/// stops reading, for then the request that starts something would not be heard either.
const EARLY_INPUT: usize = 1 << 20;

impl Connection {
    /// Runs a request through the channel's machine and answers it. `size` is what the request occupies in the channel's
    /// queue, [`payload`](crate::engine::transport::payload).
    pub(super) fn request(
        &mut self,
        id: ChannelId,
        size: usize,
        request: Request,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.arrived(id, size)?;
        let Some(open) = self.channels.get_mut(&id) else {
            return Ok(session.channel_failure(id)?);
        };
        let accepted = match open.machine.handle(request) {
            Verdict::Accept => true,
            Verdict::Denied(reason) => {
                let event = self.event(EventKind::SessionRejected).error(reason);
                self.refusals.note(event);
                false
            }
            Verdict::Refuse(reason) => {
                tracing::debug!(peer = %self.peer(), reason, "channel request refused");
                false
            }
            Verdict::Resize(size) => open.events.as_ref().is_some_and(|events| {
                events.resize(size);
                true
            }),
            Verdict::Signal(name) => open.events.as_ref().is_some_and(|events| events.signal(name)),
            Verdict::UnknownSubsystem(name) => {
                self.refusals.note(self.no_subsystem(name));
                false
            }
            Verdict::Start(launch) => self.start(id, *launch, session),
        };
        if accepted {
            session.channel_success(id)?
        } else {
            session.channel_failure(id)?
        }
        Ok(())
    }

    /// What the audit log has of a subsystem that is not offered, or that roles forbid besides.
    fn no_subsystem(&self, name: String) -> AuditEvent {
        let newest = self.entry.as_ref().and_then(|entry| {
            let record = self.node.record.borrow().clone();
            authorize::newest(entry, self.node.clock.now(), &self.node.view, &record).ok()
        });
        let event = match newest {
            Some(pass) if name == "sftp" && !pass.policy().file_copy => {
                self.event(EventKind::SftpDisallowed).error(NotStarted::Copy)
            }
            _ => self.event(EventKind::SubsystemFailure).error("this node offers no such subsystem"),
        };
        event.field("name", name)
    }

    /// Begins a session in a task of its own, or tells there why it is not begun; `false` if there is nothing to begin it on.
    fn start(&mut self, id: ChannelId, launch: Launch, session: &Session) -> bool {
        let peer = self.peer();
        let Some(open) = self.channels.get_mut(&id) else { return false };
        let (Some((channel, slot)), Some(entry)) = (open.channel.take(), &self.entry) else {
            return false;
        };
        // Nobody else changes the size of what has no terminal.
        let size = launch.terminal.as_ref().map(|terminal| terminal.size).unwrap_or_default();
        let sizes = Sizes::new(size);
        let (sender, events) = SessionEvents::new(open.closed.clone(), sizes.clone());
        open.events = Some(sender);
        let interactive = matches!(launch.kind, SessionKind::Shell);
        tracing::debug!(%peer, user = %entry.pass.identity().user, interactive, "session asked for");
        let (join, kind) = (launch.join.clone(), launch.kind.clone());
        let start = Start {
            node: Arc::clone(&self.node),
            handle: session.handle(),
            entry: entry.clone(),
            launch,
            channel,
            slot,
            events,
            sizes,
            account: open.account.clone(),
            link: self.link.clone(),
            agent: open.agent.take(),
            display: open.display.take(),
            closed: open.closed.clone(),
            ending: self.tether.ending(),
            peer,
            local: self.local,
        };
        match join {
            Some(asked) => self.node.tasks.spawn(join_task::run(start, asked)),
            None => match self.permitted(entry, &kind) {
                Ok(grant) => self.node.tasks.spawn(session_task::run(start, grant)),
                Err(why) => self.node.tasks.spawn(not_started::run(start, why)),
            },
        };
        true
    }

    /// Decides by the newest roles: a channel may have been open for long before something is started on it.
    fn permitted(&self, entry: &Entry, kind: &SessionKind) -> Result<LoginGrant, NotStarted> {
        let record = self.node.record.borrow().clone();
        match authorize::again(entry, self.node.clock.now(), &self.node.view, &record)? {
            Pass::Login(newest) => {
                not_started::check(&newest.policy, kind)?;
                Ok(newest)
            }
            Pass::Visit(_) => Err(NotStarted::Visitor),
        }
    }

    /// Counts what the library has put into a channel's queue.
    pub(super) fn arrived(&self, id: ChannelId, data: usize) -> Result<(), ConnectionError> {
        let Some(open) = self.channels.get(&id) else {
            // Somebody always takes it there.
            if let Some(account) = self.forwards.account(id) {
                account.arrived(data);
            }
            return Ok(());
        };
        if open.account.arrived(data) > EARLY_INPUT && !open.machine.is_running() {
            return Err(ConnectionError::EarlyInput);
        }
        Ok(())
    }
}

pub(super) fn terminal_size(columns: u32, rows: u32, width: u32, height: u32) -> TerminalSize {
    TerminalSize { columns, rows, width, height }
}

/// The name of a signal as the wire has it.
pub(super) fn signal_name(signal: Sig) -> String {
    let name = match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => return name,
    };
    name.to_owned()
}
