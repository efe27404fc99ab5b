//! One client's connection to a proxy: who it is, and what it may ask for, which is a way to a node and nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};
use ssh_key::Certificate;
use teleport_core::access::AccessChecker;
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::cert::{UserCheck, UserIdentity};
use teleport_core::target::{DialTarget, InvalidTarget};
use teleport_core::task::TaskScope;
use tokio::sync::watch;

use super::journal::NotRecorded;
use super::route::{NodeRoute, RouteError, resolve};
use super::server::Shared;
use super::splice::splice;
use crate::authn;
use crate::engine::transport::{Account, Link, pty_payload, signal_payload};
use crate::listener::limits::{MAX_AUTH_FAILURES, MAX_AUTH_PROBES, Outcome};
use crate::rpc::BoxedIo;
use crate::view::NoView;

/// The most channels of one connection, open or being opened.
const MAX_CHANNELS: usize = 100;
/// Bytes that may wait in a channel that leads nowhere. Less than where the transport stops reading.
const MAX_UNREAD: usize = 1 << 20;
/// What whoever asks for a shell is told.
const ONLY_A_PROXY: &str =
    "this is a proxy: it has no shell, commands or files; go through it to a node with `ssh -J`";
const NO_FORWARDING: &str = "the proxy forwards connections to the SSH port of nodes only";
const STDERR: u32 = 1;

/// The state of one connection. The SSH library calls it from the connection's own loop, so nothing here waits for
/// anything.
pub(super) struct Connection {
    shared: Arc<Shared>,
    peer: SocketAddr,
    link: Link,
    /// Tells the driver how the beginning went.
    outcome: watch::Sender<Outcome>,
    user: Option<Arc<UserIdentity>>,
    probes: u32,
    failures: u32,
    channels: HashMap<ChannelId, Slot>,
    /// Owns the splices; they end with the connection.
    tasks: TaskScope,
}

struct Slot {
    account: Account,
    /// Of a session channel that has not asked for anything yet.
    idle: Option<Channel<Msg>>,
}

/// Why a way to a node is refused.
enum Refusal {
    Target(InvalidTarget),
    Route(RouteError),
    Unreachable(super::dial::DialError),
    NotRecorded,
    NoView(NoView),
    Expired,
    TooManyChannels,
}

impl Refusal {
    /// For the user.
    fn public(&self) -> String {
        match self {
            Self::Target(error) => error.to_string(),
            Self::Route(error) => error.to_string(),
            // Where the node announced to be, and how that failed, is for administrators.
            Self::Unreachable(_) => "the node cannot be reached".to_owned(),
            Self::NotRecorded | Self::NoView(_) => {
                "the proxy cannot work at the moment; try again later".to_owned()
            }
            Self::Expired => "your certificate has expired; log in again".to_owned(),
            Self::TooManyChannels => format!("a connection has at most {MAX_CHANNELS} channels"),
        }
    }

    /// For the audit event.
    fn internal(&self) -> String {
        match self {
            Self::Route(error) => error.internal(),
            Self::Unreachable(error) => match std::error::Error::source(error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
            Self::NoView(error) => error.to_string(),
            other => other.public(),
        }
    }
}

impl From<NotRecorded> for Refusal {
    fn from(_: NotRecorded) -> Self {
        Self::NotRecorded
    }
}

/// What a client asks a way with.
#[derive(Clone, Copy)]
enum Door {
    DirectTcpip,
    Subsystem,
}

impl Door {
    const fn opened(self) -> EventKind {
        match self {
            Self::DirectTcpip => EventKind::Port,
            Self::Subsystem => EventKind::Subsystem,
        }
    }

    const fn refused(self) -> EventKind {
        match self {
            Self::DirectTcpip => EventKind::PortFailure,
            Self::Subsystem => EventKind::SubsystemFailure,
        }
    }
}

impl Connection {
    pub(super) fn new(
        shared: Arc<Shared>,
        peer: SocketAddr,
        link: Link,
        outcome: watch::Sender<Outcome>,
        tasks: TaskScope,
    ) -> Self {
        let channels = HashMap::new();
        Self { shared, peer, link, outcome, user: None, probes: 0, failures: 0, channels, tasks }
    }

    fn event(&self, kind: EventKind) -> AuditEvent {
        let event = AuditEvent::new(kind).remote(Some(self.peer));
        match &self.user {
            Some(user) => event.user(&user.user),
            None => event,
        }
    }

    fn accept(&mut self, certificate: &Certificate) -> Result<UserIdentity, String> {
        let view = self.shared.access.usable().map_err(|error| error.to_string())?;
        // At the proxy there is no login: any principal will do, the node asks for the right one.
        let check = UserCheck { login: None, peer: Some(self.peer.ip()), now: self.shared.clock.now() };
        authn::user(certificate, &view.trust, check).map_err(|error| error.to_string())
    }

    fn fail(&mut self, claimed: &str, reason: &str) -> Auth {
        self.failures += 1;
        self.outcome.send_replace(Outcome::Failed);
        // Who somebody claims to be is a claim; it is recorded as one.
        let event = self.event(EventKind::AuthFailure).error(reason).field("claimed_user", claimed);
        self.shared.journal.note(event);
        if self.failures >= MAX_AUTH_FAILURES {
            self.link.close();
        }
        Auth::reject()
    }

    /// Finds the node that is meant.
    fn route(
        &self,
        target: Result<DialTarget, InvalidTarget>,
    ) -> Result<(Arc<UserIdentity>, NodeRoute), Refusal> {
        let user = self.user.clone().ok_or(Refusal::NoView(NoView::Missing))?;
        let target = target.map_err(Refusal::Target)?;
        let view = self.shared.access.usable().map_err(Refusal::NoView)?;
        let checker = AccessChecker::for_identity(&user, &view.roles);
        let (cluster, now) = (&view.trust.cluster, self.shared.clock.now());
        // The connection may be older than what it was opened with allows.
        if now >= user.expires {
            return Err(Refusal::Expired);
        }
        let route = self.shared.nodes.read(|nodes| resolve(&target, nodes, &checker, cluster, now));
        Ok((Arc::clone(&user), route.map_err(Refusal::Route)?))
    }

    /// Refuses something that a proxy never does.
    fn refuse(&self, kind: EventKind, what: &str, reason: &str) {
        self.shared.journal.note(self.event(kind).error(reason).field("request", what));
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

    fn refuse_request(
        &self,
        channel: ChannelId,
        kind: EventKind,
        what: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.refuse(kind, what, ONLY_A_PROXY);
        say(channel, ONLY_A_PROXY, session)
    }
}

/// How an attempt to reach a node is recorded, whichever way it goes.
struct Attempt {
    shared: Arc<Shared>,
    event: AuditEvent,
    door: Door,
}

impl Attempt {
    fn opened(&self, route: &NodeRoute) -> Result<(), NotRecorded> {
        let mut event = self.event.clone();
        event.code = self.door.opened();
        event.success = Some(true);
        let event = event
            .field("node_id", route.host_id().to_string())
            .field("node_name", route.name().as_str())
            .field("node_address", route.address());
        self.shared.journal.record(event)
    }

    fn refused(self, why: &Refusal) {
        self.shared.journal.note(self.event.error(why.internal()));
    }

    async fn dial(&self, user: &UserIdentity, route: &NodeRoute) -> Result<BoxedIo, Refusal> {
        let stream = self.shared.dialer.dial(route, user).await.map_err(Refusal::Unreachable)?;
        self.opened(route)?;
        Ok(stream)
    }
}

impl Connection {
    fn attempt(&self, door: Door, asked: &str) -> Attempt {
        let event = self.event(door.refused()).field("target", asked);
        Attempt { shared: Arc::clone(&self.shared), event, door }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        _: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        self.probes += 1;
        if self.probes > MAX_AUTH_PROBES {
            self.link.close();
            return Ok(self.fail(user, "too many keys were offered"));
        }
        // Nothing is remembered of an offer. Who it is, is what a verified signature says.
        Ok(Auth::Accept)
    }

    async fn auth_publickey(&mut self, user: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(self.fail(user, "a plain key was presented; only certificates are accepted"))
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        match self.accept(certificate) {
            Ok(identity) => {
                self.user = Some(Arc::new(identity));
                self.outcome.send_replace(Outcome::Authenticated);
                Ok(Auth::Accept)
            }
            Err(reason) => Ok(self.fail(user, &reason)),
        }
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.channels.len() >= MAX_CHANNELS {
            reply.reject(failure(RESOURCE_SHORTAGE, Refusal::TooManyChannels.public())).await;
            return Ok(());
        }
        let slot = Slot { account: self.link.account(), idle: None };
        let id = channel.id();
        self.channels.insert(id, Slot { idle: Some(channel), ..slot });
        reply.accept().await;
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
        let attempt = self.attempt(Door::DirectTcpip, &format!("{host}:{port}"));
        if self.channels.len() >= MAX_CHANNELS {
            attempt.refused(&Refusal::TooManyChannels);
            reply.reject(failure(RESOURCE_SHORTAGE, Refusal::TooManyChannels.public())).await;
            return Ok(());
        }
        let (user, route) = match self.route(DialTarget::from_host_port(host, port)) {
            Ok(found) => found,
            Err(refusal) => {
                let text = refusal.public();
                attempt.refused(&refusal);
                reply.reject(failure(PROHIBITED, text)).await;
                return Ok(());
            }
        };
        let account = self.link.account();
        self.channels.insert(channel.id(), Slot { account: account.clone(), idle: None });
        let link = self.link.clone();
        self.tasks.spawn(async move {
            match attempt.dial(&user, &route).await {
                Ok(node) => {
                    reply.accept().await;
                    let (from_client, to_client) = channel.split();
                    let ended = splice(from_client, &to_client, node, &link, &account).await;
                    report(&route, ended.map(drop));
                    let _ = to_client.close().await;
                }
                Err(refusal) => {
                    account.close();
                    let text = refusal.public();
                    attempt.refused(&refusal);
                    reply.reject(failure(CONNECT_FAILED, text)).await;
                }
            }
        });
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(id, name.len());
        let attempt = self.attempt(Door::Subsystem, name);
        let Some(slot) = self.channels.get_mut(&id) else { return session.channel_failure(id) };
        let account = slot.account.clone();
        // A channel does one thing, once.
        let Some(channel) = slot.idle.take() else { return session.channel_failure(id) };
        let (user, route) = match self.route(DialTarget::from_subsystem(name)) {
            Ok(found) => found,
            Err(refusal) => {
                let text = refusal.public();
                attempt.refused(&refusal);
                return say(id, &text, session);
            }
        };
        let (link, handle) = (self.link.clone(), session.handle());
        self.tasks.spawn(async move {
            let (from_client, to_client) = channel.split();
            match attempt.dial(&user, &route).await {
                Ok(node) => {
                    // Errors mean that the connection is gone; then nothing is left to say.
                    let _ = handle.channel_success(id).await;
                    let ended = splice(from_client, &to_client, node, &link, &account).await;
                    let status = u32::from(ended.is_err());
                    report(&route, ended.map(drop));
                    let _ = to_client.exit_status(status).await;
                }
                Err(refusal) => {
                    account.close();
                    let text = format!("{}\r\n", refusal.public());
                    attempt.refused(&refusal);
                    // As in `say`.
                    let _ = handle.channel_success(id).await;
                    let _ = to_client.extended_data_bytes(STDERR, text).await;
                    let _ = to_client.exit_status(REFUSED).await;
                }
            }
            let _ = to_client.close().await;
        });
        Ok(())
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
        self.refuse(EventKind::PortFailure, "x11", NO_FORWARDING);
        reply.reject(failure(PROHIBITED, NO_FORWARDING.to_owned())).await;
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
        self.refuse(EventKind::PortFailure, "forwarded-tcpip", NO_FORWARDING);
        reply.reject(failure(PROHIBITED, NO_FORWARDING.to_owned())).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse(EventKind::PortFailure, &format!("direct-streamlocal {path}"), NO_FORWARDING);
        reply.reject(failure(PROHIBITED, NO_FORWARDING.to_owned())).await;
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
        self.refuse(EventKind::SessionRejected, "pty-req", ONLY_A_PROXY);
        session.channel_failure(channel)
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
        self.refuse(EventKind::SessionRejected, "x11-req", ONLY_A_PROXY);
        session.channel_failure(channel)
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
        self.refuse_request(channel, EventKind::SessionRejected, "shell", session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.arrived(channel, command.len());
        let what = format!("exec {}", String::from_utf8_lossy(command));
        self.refuse_request(channel, EventKind::ExecFailure, &what, session)
    }

    async fn agent_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        self.arrived(channel, 0);
        self.refuse(EventKind::SessionRejected, "auth-agent-req", ONLY_A_PROXY);
        session.channel_failure(channel)?;
        Ok(false)
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        self.refuse(EventKind::PortFailure, &format!("tcpip-forward {address}:{port}"), NO_FORWARDING);
        Ok(false)
    }

    async fn streamlocal_forward(&mut self, path: &str, _session: &mut Session) -> Result<bool, Self::Error> {
        self.refuse(EventKind::PortFailure, &format!("streamlocal-forward {path}"), NO_FORWARDING);
        Ok(false)
    }
}

/// Ends a session channel with words that its user reads.
///
/// The request itself succeeds and what "ran" fails at once: after a failed request OpenSSH exits without showing what was
/// said before.
fn say(channel: ChannelId, text: &str, session: &mut Session) -> Result<(), russh::Error> {
    session.channel_success(channel)?;
    session.extended_data(channel, STDERR, format!("{text}\r\n"))?;
    session.exit_status_request(channel, REFUSED)?;
    session.eof(channel)?;
    session.close(channel)
}

/// The exit status of whatever is refused.
const REFUSED: u32 = 1;
/// Codes of RFC 4254 section 5.1.
const PROHIBITED: u32 = 1;
const CONNECT_FAILED: u32 = 2;
const RESOURCE_SHORTAGE: u32 = 4;

/// A failure with a text of our own; the library's named variants have fixed texts.
fn failure(code: u32, reason: String) -> ChannelOpenFailure {
    ChannelOpenFailure::Other { code, reason }
}

fn report(route: &NodeRoute, ended: std::io::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(
            node = %route.host_id(),
            error = &error as &dyn std::error::Error,
            "a way to a node ended early"
        );
    }
}
