//! One connection as the SSH library sees it: its state, and the callbacks. They decide and hand over; nothing here waits for
//! a session.

mod channels;
mod forwards;
mod login;
mod requests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, Pty, Sig};
use ssh_key::Certificate;
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::lock::Locked;
use tokio::sync::watch;

use self::channels::Open;
pub(super) use self::channels::{Activity, Slot, Slots};
pub(super) use self::login::Progress;
use self::requests::{signal_name, terminal_size};
use super::Shared;
use super::authorize::Entry;
use super::forward::Forwards;
use super::lifetime::Tether;
use super::refusals::Refusals;
use crate::engine::transport::{Link, pty_payload, signal_payload};
use crate::origin::Whence;
use crate::session::machine::Request;
use crate::session::{Terminal, X11Auth};
use crate::sys::modes::TerminalModes;

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
    whence: Whence,
    local: SocketAddr,
    progress: watch::Sender<Progress>,
    activity: Activity,
    /// Of what is asked for once the client was let in.
    refusals: Refusals,
    tether: Tether,
    failures: u32,
    probes: u32,
    /// The login that was asked for, and by which method beside certificates, until a certificate was refused and told of.
    /// Stock clients try a plain key before the certificate for it: that is no event if the certificate is good.
    pending: Option<(String, &'static str)>,
    /// Whether the refusal of a certificate was told.
    told: bool,
    /// Set in the one place where a proof of the key was verified together with the certificate, and never by an offer.
    entry: Option<Entry>,
    /// The lock that is in force for a client that is let in no further than to hear of it.
    locked: Option<Locked>,
    channels: HashMap<ChannelId, Open>,
    /// What the connection forwards, which ends with it.
    forwards: Forwards,
}

impl Connection {
    pub(super) fn new(
        node: Arc<Shared>,
        link: Link,
        whence: Whence,
        local: SocketAddr,
        progress: watch::Sender<Progress>,
        activity: Activity,
        tether: Tether,
    ) -> Self {
        let forwards =
            Forwards::new(node.max_forwarded, node.forward_room.clone(), activity.forwarded.clone());
        Self {
            refusals: Refusals::new(node.audit.clone()),
            node,
            link,
            whence,
            local,
            progress,
            activity,
            tether,
            failures: 0,
            probes: 0,
            pending: None,
            told: false,
            entry: None,
            locked: None,
            channels: HashMap::new(),
            forwards,
        }
    }

    /// What is refused on it.
    pub(super) fn refusals(&self) -> Refusals {
        self.refusals.clone()
    }

    /// Where the client is.
    fn peer(&self) -> SocketAddr {
        self.whence.arrival().client()
    }

    fn event(&self, kind: EventKind) -> AuditEvent {
        let mut event =
            self.node.event(kind).remote(Some(self.peer())).field("addr.local", self.local.to_string());
        if let Some(Entry { pass, .. }) = &self.entry {
            event = pass.name_in(event);
        }
        event
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tell_pending();
    }
}

impl Handler for Connection {
    type Error = ConnectionError;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, ConnectionError> {
        Ok(self.asked_for_methods(user))
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
        self.offered(&offer)
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
        self.log_in(user, certificate).await
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), ConnectionError> {
        self.let_in(session).await
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.open_session(channel, reply).await;
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
        self.reversed(reply, "x11", originator_address).await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.open_tcp(channel, host_to_connect, port_to_connect, reply).await;
        Ok(())
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
        self.reversed(reply, "forwarded-tcpip", &format!("{host_to_connect}:{port_to_connect}")).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.open_socket(channel, socket_path, reply).await;
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        self.listen_tcp(address, port, session).await
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        Ok(self.close_tcp(address, port).await)
    }

    async fn streamlocal_forward(
        &mut self,
        socket_path: &str,
        session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        self.listen_socket(socket_path, session).await
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        socket_path: &str,
        _session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        Ok(self.close_socket(socket_path).await)
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
        single_connection: bool,
        x11_auth_protocol: &str,
        x11_auth_cookie: &str,
        x11_screen_number: u32,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.arrived(channel, x11_auth_protocol.len().saturating_add(x11_auth_cookie.len()))?;
        let asked = X11Auth::new(x11_auth_protocol, x11_auth_cookie, x11_screen_number);
        let given = self.display(channel, asked.map(|auth| (auth, single_connection)), session).await?;
        Ok(if given { session.channel_success(channel) } else { session.channel_failure(channel) }?)
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
        session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        self.arrived(channel, 0)?;
        self.agent(channel, session).await
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
