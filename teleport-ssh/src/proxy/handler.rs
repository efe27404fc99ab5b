//! One client's connection to a proxy as the SSH library sees it: its state, and the callbacks. A client may ask for a way to a
//! node and for nothing else.

mod login;
mod refusal;
mod way;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, Disconnect, Pty, Sig};
use ssh_key::Certificate;
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::lock::Locked;
use teleport_core::task::TaskScope;
use tokio::sync::watch;

use self::way::Slot;
use super::server::Shared;
use super::visitor::Visitor;
use crate::engine::transport::{Link, pty_payload, signal_payload};
use crate::listener::limits::Outcome;

/// The most channels of one connection, open or being opened.
const MAX_CHANNELS: usize = 100;
/// Bytes that may wait in a channel that leads nowhere. Less than where the transport stops reading.
const MAX_UNREAD: usize = 1 << 20;

/// The state of one connection. The SSH library calls it from the connection's own loop, so nothing here waits for
/// anything.
pub(super) struct Connection {
    shared: Arc<Shared>,
    peer: SocketAddr,
    link: Link,
    /// Tells the driver how the beginning went.
    outcome: watch::Sender<Outcome>,
    user: Option<Arc<Visitor>>,
    /// The same for the driver.
    visitor: Arc<OnceLock<Arc<Visitor>>>,
    /// The lock that is in force for a client that is let in no further than to hear of it.
    locked: Option<Locked>,
    probes: u32,
    failures: u32,
    channels: HashMap<ChannelId, Slot>,
    /// Owns the splices; they end with the connection.
    tasks: TaskScope,
}

impl Connection {
    pub(super) fn new(
        shared: Arc<Shared>,
        peer: SocketAddr,
        link: Link,
        outcome: watch::Sender<Outcome>,
        visitor: Arc<OnceLock<Arc<Visitor>>>,
        tasks: TaskScope,
    ) -> Self {
        Self {
            shared,
            peer,
            link,
            outcome,
            user: None,
            visitor,
            locked: None,
            probes: 0,
            failures: 0,
            channels: HashMap::new(),
            tasks,
        }
    }

    fn event(&self, kind: EventKind) -> AuditEvent {
        let event = AuditEvent::new(kind).remote(Some(self.peer));
        match &self.user {
            Some(user) => event.user(&user.identity.user),
            None => event,
        }
    }

    /// Counts what the library has put into a channel's queue, in bytes. Whoever fills a channel on which nothing reads is
    /// cut off: the queue itself has no bound that would help.
    fn arrived(&self, id: ChannelId, bytes: usize) {
        if let Some(slot) = self.channels.get(&id)
            && slot.account.arrived(bytes) > MAX_UNREAD
            && slot.idle.is_some()
        {
            tracing::info!(peer = %self.peer, "a client fills a channel without asking for anything");
            self.link.close();
        }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        _: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.offered(user))
    }

    async fn auth_publickey(&mut self, user: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(self.fail(user, "a plain key was presented; only certificates are accepted"))
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        Ok(self.log_in(user, certificate))
    }

    /// Whoever is locked hears of the lock and nothing else.
    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        match &self.locked {
            Some(locked) => session.disconnect(Disconnect::ByApplication, &locked.public(), ""),
            None => Ok(()),
        }
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.open_session(channel, reply).await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.open_direct(channel, host, port, reply).await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(id, name.len());
        self.open_subsystem(id, name, session)
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), Self::Error> {
        self.arrived(id, data.len());
        Ok(())
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        _code: u32,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(id, data.len());
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.arrived(id, 0);
        Ok(())
    }

    async fn window_adjusted(
        &mut self,
        id: ChannelId,
        _size: u32,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(id, 0);
        Ok(())
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(id, 0);
        session.channel_failure(id)
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(id, signal_payload(&signal));
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(slot) = self.channels.remove(&id) {
            // What still waits in its queue no longer holds up the connection.
            slot.account.close();
        }
        Ok(())
    }

    // Everything below is refused. What the library refuses by itself (X11, streamlocal, forwarded-tcpip and unknown
    // channels; remote forwarding; X11 and agent requests) is here for the audit event.

    async fn channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator: &str,
        _port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.no_channel("x11", reply).await;
        Ok(())
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.no_channel("forwarded-tcpip", reply).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.no_channel(&format!("direct-streamlocal {path}"), reply).await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(channel, pty_payload(term, modes.len()));
        // A client that asks for a terminal asks for a shell next, and is told why not then.
        self.no_request(channel, "pty-req", session)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        protocol: &str,
        cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(channel, protocol.len().saturating_add(cookie.len()));
        self.no_request(channel, "x11-req", session)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(channel, name.len().saturating_add(value.len()));
        // Sent by most clients unasked; no attempt at anything, so not recorded.
        session.channel_failure(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        self.arrived(channel, 0);
        self.no_session(channel, EventKind::SessionRejected, "shell", session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(channel, command.len());
        let what = format!("exec {}", String::from_utf8_lossy(command));
        self.no_session(channel, EventKind::ExecFailure, &what, session)
    }

    async fn agent_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        self.arrived(channel, 0);
        self.no_request(channel, "auth-agent-req", session)?;
        Ok(false)
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        self.no_forwarding(&format!("tcpip-forward {address}:{port}"));
        Ok(false)
    }

    async fn streamlocal_forward(&mut self, path: &str, _session: &mut Session) -> Result<bool, Self::Error> {
        self.no_forwarding(&format!("streamlocal-forward {path}"));
        Ok(false)
    }
}
