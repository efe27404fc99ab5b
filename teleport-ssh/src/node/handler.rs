//! One connection as the SSH library sees it: authentication, channels, requests. Callbacks decide and hand over; nothing
//! here waits for a session.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};
use ssh_key::Certificate;
use teleport_core::access::LoginGrant;
use teleport_core::audit::{AuditEvent, EventKind};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::authorize::{self, Refusal, chain};
use super::session_task::{self, Start};
use crate::engine::transport::{Account, Link, pty_payload, signal_payload};
use crate::listener::limits::{MAX_AUTH_FAILURES, MAX_AUTH_PROBES};
use crate::session::machine::{Machine, Request, SessionPolicy, Verdict};
use crate::session::{EventSender, SessionEvents, SessionKind, Terminal, TerminalSize};
use crate::sys::modes::TerminalModes;

/// What may wait in a channel on which nothing has been started, in bytes: input and requests. Less than where the transport
/// stops reading, for then the request that starts something would not be heard either.
const EARLY_INPUT: usize = 1 << 20;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// Nothing was tried.
    Connected,
    /// An authentication was tried and refused.
    Refused,
    /// A certificate of this cluster was refused, for instance because its holder may not log in here.
    Denied,
    /// The client is known and may log in.
    Authenticated,
}

/// Why a connection is ended by us.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("too many attempts to authenticate")]
    TooManyAttempts,
    #[error("input without a session to take it")]
    EarlyInput,
}

pub(super) struct Connection {
    node: Arc<Shared>,
    link: Link,
    peer: SocketAddr,
    local: SocketAddr,
    progress: watch::Sender<Progress>,
    slots: Slots,
    failures: u32,
    probes: u32,
    /// The login that was asked for, and by which method beside certificates, until a certificate was refused and told of.
    /// Stock clients try a plain key before the certificate for it: that is no event if the certificate is good.
    pending: Option<(String, &'static str)>,
    /// Whether the refusal of a certificate was told.
    told: bool,
    /// Set in the one place where a proof of the key was verified together with the certificate, and never by an offer.
    grant: Option<LoginGrant>,
    channels: HashMap<ChannelId, Open>,
}

struct Open {
    machine: Machine,
    account: Account,
    closed: CancellationToken,
    /// Until a session takes both.
    channel: Option<(Channel<Msg>, Slot)>,
    events: Option<EventSender>,
    slot: Weak<Taken>,
}

/// How many sessions a connection has: counted from the opening of a channel to the end of what ran on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots(Arc<watch::Sender<usize>>);

impl Slots {
    fn take(&self) -> Slot {
        self.0.send_modify(|count| *count += 1);
        Slot(Arc::new(Taken(self.clone())))
    }

    fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until there is none. Cancel safe.
    pub(super) async fn none(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One session of a connection.
#[derive(Debug)]
pub(super) struct Slot(Arc<Taken>);

#[derive(Debug)]
struct Taken(Slots);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Open {
    /// Whether a session has run here and is over.
    fn is_over(&self) -> bool {
        self.slot.strong_count() == 0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.closed.cancel();
        if self.channel.is_some() {
            self.account.close();
        }
    }
}

impl Connection {
    pub(super) fn new(
        node: Arc<Shared>,
        link: Link,
        peer: SocketAddr,
        local: SocketAddr,
        progress: watch::Sender<Progress>,
        slots: Slots,
    ) -> Self {
        Self {
            node,
            link,
            peer,
            local,
            progress,
            slots,
            failures: 0,
            probes: 0,
            pending: None,
            told: false,
            grant: None,
            channels: HashMap::new(),
        }
    }

    /// Refuses a certificate, and tells the audit log why.
    fn refuse(
        &mut self,
        login: &str,
        certificate: &Certificate,
        why: &Refusal,
    ) -> Result<Auth, ConnectionError> {
        let reason = chain(why);
        tracing::info!(peer = %self.peer, login, %reason, "login refused");
        let event = self
            .event(EventKind::AuthFailure)
            .error(reason)
            .user(certificate.key_id())
            .field("login_requested", login)
            .field("serial", certificate.serial().to_string());
        self.node.audit.note(event);
        self.told = true;
        if why.is_of_ours() {
            self.progress.send_replace(Progress::Denied);
        }
        self.failed()
    }

    /// Refuses what is no certificate. The audit log hears of it if nothing better follows.
    fn refuse_method(&mut self, login: &str, method: &'static str) -> Result<Auth, ConnectionError> {
        tracing::debug!(peer = %self.peer, login, method, "only certificates are accepted");
        self.pending = Some((login.to_owned(), method));
        self.failed()
    }

    fn failed(&mut self) -> Result<Auth, ConnectionError> {
        self.failures = self.failures.saturating_add(1);
        // Whoever is known stays known.
        self.progress.send_if_modified(|progress| {
            let stranger = *progress == Progress::Connected;
            if stranger {
                *progress = Progress::Refused;
            }
            stranger
        });
        if self.failures > MAX_AUTH_FAILURES {
            return Err(ConnectionError::TooManyAttempts);
        }
        Ok(Auth::reject())
    }

    fn event(&self, kind: EventKind) -> AuditEvent {
        let mut event =
            self.node.event(kind).remote(Some(self.peer)).field("addr.local", self.local.to_string());
        if let Some(grant) = &self.grant {
            event = event.user(&grant.identity.user).login(&grant.login);
        }
        event
    }

    /// Runs a request through the channel's machine and answers it. `size` is what the request occupies in the channel's
    /// queue, [`payload`](crate::engine::transport::payload).
    fn request(
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
            Verdict::Refuse(reason) => {
                tracing::debug!(peer = %self.peer, reason, "channel request refused");
                false
            }
            Verdict::Resize(size) => open.events.as_ref().is_some_and(|events| {
                events.resize(size);
                true
            }),
            Verdict::Signal(name) => open.events.as_ref().is_some_and(|events| events.signal(name)),
            Verdict::UnknownSubsystem(name) => {
                let event = self
                    .event(EventKind::SubsystemFailure)
                    .error("this node offers no such subsystem")
                    .field("name", name);
                self.node.audit.note(event);
                false
            }
            Verdict::Start(launch) => match (open.channel.take(), &self.grant) {
                (Some((channel, slot)), Some(grant)) => {
                    let (sender, events) = SessionEvents::new(open.closed.clone());
                    open.events = Some(sender);
                    let interactive = matches!(launch.kind, SessionKind::Shell);
                    tracing::debug!(peer = %self.peer, user = %grant.identity.user, interactive, "session asked for");
                    let start = Start {
                        node: Arc::clone(&self.node),
                        handle: session.handle(),
                        grant: grant.clone(),
                        launch: *launch,
                        channel,
                        slot,
                        events,
                        account: open.account.clone(),
                        link: self.link.clone(),
                        closed: open.closed.clone(),
                        peer: self.peer,
                        local: self.local,
                    };
                    self.node.tasks.spawn(session_task::run(start));
                    true
                }
                _ => false,
            },
        };
        if accepted {
            session.channel_success(id)?
        } else {
            session.channel_failure(id)?
        }
        Ok(())
    }

    /// Counts what the library has put into a channel's queue.
    fn arrived(&self, id: ChannelId, data: usize) -> Result<(), ConnectionError> {
        let Some(open) = self.channels.get(&id) else { return Ok(()) };
        if open.account.arrived(data) > EARLY_INPUT && !open.machine.is_running() {
            return Err(ConnectionError::EarlyInput);
        }
        Ok(())
    }

    async fn no_forwarding(
        &self,
        reply: ChannelOpenHandle,
        kind: &str,
        target: String,
    ) -> Result<(), ConnectionError> {
        let event = self
            .event(EventKind::PortFailure)
            .error("this node does not forward connections")
            .field("kind", kind)
            .field("addr", target);
        self.node.audit.note(event);
        reply
            .reject(ChannelOpenFailure::Other {
                code: ADMINISTRATIVELY_PROHIBITED,
                reason: "forwarding is administratively prohibited on this node".to_owned(),
            })
            .await;
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some((login, method)) = self.pending.take() else { return };
        if self.grant.is_some() || self.told {
            return;
        }
        // The SSH library refuses expired certificates and wrong proofs without asking us.
        let event = self
            .event(EventKind::AuthFailure)
            .error("no valid certificate was shown (expired ones, and those without the proof of their key, are none)")
            .field("login_requested", login)
            .field("method", method);
        self.node.audit.note(event);
    }
}

/// `SSH_OPEN_ADMINISTRATIVELY_PROHIBITED`
const ADMINISTRATIVELY_PROHIBITED: u32 = 1;

fn terminal_size(columns: u32, rows: u32, width: u32, height: u32) -> TerminalSize {
    TerminalSize { columns, rows, width, height }
}

/// The name of a signal as the wire has it.
fn signal_name(signal: Sig) -> String {
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

impl Handler for Connection {
    type Error = ConnectionError;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, ConnectionError> {
        self.pending.get_or_insert_with(|| (user.to_owned(), "none"));
        // How every client asks which methods there are: no attempt, nobody to blame.
        Ok(Auth::reject())
    }

    async fn auth_password(&mut self, user: &str, _password: &str) -> Result<Auth, ConnectionError> {
        self.refuse_method(user, "passwords")
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        _response: Option<Response<'a>>,
    ) -> Result<Auth, ConnectionError> {
        self.refuse_method(user, "keyboard-interactive")
    }

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, ConnectionError> {
        // The offer does not say whether the key came in a certificate. Nothing is remembered of it: who the client is, only
        // a verified proof says.
        self.probes = self.probes.saturating_add(1);
        if self.probes > MAX_AUTH_PROBES {
            return Err(ConnectionError::TooManyAttempts);
        }
        let known =
            matches!(offer.algorithm.as_str(), "ssh-ed25519" | "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384");
        if known && !offer.public_key.key_data().is_certificate() {
            Ok(Auth::Accept)
        } else {
            Ok(Auth::reject())
        }
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, ConnectionError> {
        self.refuse_method(user, "plain public keys")
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, ConnectionError> {
        self.grant = None;
        let node = Arc::clone(&self.node);
        let now = node.clock.now();
        let record = node.record.borrow().clone();
        let granted = async {
            let grant = authorize::login(certificate, user, self.peer, now, &node.view, &record)?;
            node.service.prepare(&grant, now).await?;
            Ok::<_, Refusal>(grant)
        };
        match granted.await {
            Ok(grant) => {
                tracing::info!(peer = %self.peer, user = %grant.identity.user, login = %grant.login, "login");
                self.grant = Some(grant);
                Ok(Auth::Accept)
            }
            Err(why) => self.refuse(user, certificate, &why),
        }
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), ConnectionError> {
        self.progress.send_replace(Progress::Authenticated);
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        let Some(grant) = &self.grant else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        let refusal = if self.node.shutdown.is_draining() {
            Some(("the node is shutting down".to_owned(), ChannelOpenFailure::ResourceShortage))
        } else if self.slots.count() >= self.node.max_sessions {
            let text = "too many sessions on one connection".to_owned();
            Some((text, ChannelOpenFailure::ResourceShortage))
        } else {
            let record = self.node.record.borrow().clone();
            match authorize::again(grant, self.node.clock.now(), &self.node.view, &record) {
                Ok(_) => None,
                Err(why) => Some((chain(&why), ChannelOpenFailure::AdministrativelyProhibited)),
            }
        };
        if let Some((reason, failure)) = refusal {
            tracing::info!(peer = %self.peer, %reason, "session refused");
            self.node.audit.note(self.event(EventKind::SessionRejected).error(reason));
            reply.reject(failure).await;
            return Ok(());
        }
        // The library tells of the client's closing only where we have not closed before.
        self.channels.retain(|_, open| !open.is_over());
        let id = channel.id();
        let policy = SessionPolicy {
            pty: grant.identity.permits.pty,
            force_command: grant.identity.force_command.clone(),
            env: self.node.env.clone(),
        };
        let slot = self.slots.take();
        let open = Open {
            machine: Machine::new(policy),
            account: self.link.account(),
            closed: CancellationToken::new(),
            events: None,
            slot: Arc::downgrade(&slot.0),
            channel: Some((channel, slot)),
        };
        self.channels.insert(id, open);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.no_forwarding(reply, "x11", originator_address.to_owned()).await
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.no_forwarding(reply, "direct-tcpip", format!("{host_to_connect}:{port_to_connect}")).await
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.no_forwarding(reply, "forwarded-tcpip", format!("{host_to_connect}:{port_to_connect}")).await
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.no_forwarding(reply, "direct-streamlocal", socket_path.to_owned()).await
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        _session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        let event = self
            .event(EventKind::PortFailure)
            .error("this node does not forward connections")
            .field("kind", "tcpip-forward")
            .field("addr", format!("{address}:{port}"));
        self.node.audit.note(event);
        Ok(false)
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.channels.remove(&channel);
        Ok(())
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.arrived(channel, 0)
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.arrived(channel, data.len())
    }

    async fn extended_data(
        &mut self,
        channel: ChannelId,
        _code: u32,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.arrived(channel, data.len())
    }

    async fn window_adjusted(
        &mut self,
        channel: ChannelId,
        _new_size: u32,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.arrived(channel, 0)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        col_width: u32,
        row_height: u32,
        pix_width: u32,
        pix_height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        let terminal = Terminal {
            kind: term.to_owned(),
            size: terminal_size(col_width, row_height, pix_width, pix_height),
            modes: TerminalModes::from_pairs(modes.iter().map(|(code, value)| (*code as u8, *value))),
        };
        self.request(channel, pty_payload(term, modes.len()), Request::Pty(terminal), session)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        x11_auth_protocol: &str,
        x11_auth_cookie: &str,
        _x11_screen_number: u32,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.arrived(channel, x11_auth_protocol.len().saturating_add(x11_auth_cookie.len()))?;
        Ok(session.channel_failure(channel)?)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        variable_name: &str,
        variable_value: &str,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        let request = Request::Env { name: variable_name.to_owned(), value: variable_value.to_owned() };
        let size = variable_name.len().saturating_add(variable_value.len());
        self.request(channel, size, request, session)
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.request(channel, 0, Request::Shell, session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.request(channel, data.len(), Request::Exec(data.to_vec()), session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.request(channel, name.len(), Request::Subsystem(name.to_owned()), session)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        col_width: u32,
        row_height: u32,
        pix_width: u32,
        pix_height: u32,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        let size = terminal_size(col_width, row_height, pix_width, pix_height);
        self.request(channel, 0, Request::WindowChange(size), session)
    }

    async fn agent_request(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        self.arrived(channel, 0)?;
        Ok(false)
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        signal: Sig,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        let size = signal_payload(&signal);
        self.request(channel, size, Request::Signal(signal_name(signal)), session)
    }
}
