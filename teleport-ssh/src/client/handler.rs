//! What the SSH library asks this client: whether the host is who it should be, and what to do with channels that it opens.

use std::sync::{Arc, OnceLock};

use russh::client::{ChannelOpenHandle, DisconnectReason, Msg, Session};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelOpenFailure};
use teleport_core::cert::{HostCheck, HostIdentity};
use teleport_core::clock::Clock;
use teleport_core::id::HostRole;
use tokio::sync::watch;

use super::connect::Credentials;
use super::connection::printable;
use super::error::HostRejected;
use super::forward::{Incoming, Opened, Purpose};
use crate::authn;

/// Decides about the host's certificate, once, and remembers the verdict for the caller: the library's own error says only
/// that it was no. Channels that the host opens go to whoever waits for them; all others are refused, whatever the library's default is.
pub(super) struct ClientHandler {
    /// Takes the other side's last words.
    pub(super) farewell: watch::Sender<Option<String>>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) name: String,
    pub(super) role: HostRole,
    pub(super) verdict: Arc<OnceLock<Result<HostIdentity, HostRejected>>>,
    pub(super) incoming: Arc<Incoming>,
}

impl russh::client::Handler for ClientHandler {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let verdict = match shown {
            PublicKeyOrCertificate::Certificate(certificate) => {
                let check = HostCheck { name: &self.name, role: self.role, now: self.clock.now() };
                authn::host(certificate, &self.credentials.trust, check)
                    .map_err(|reason| HostRejected::Certificate { reason })
            }
            PublicKeyOrCertificate::PublicKey { .. } => Err(HostRejected::PlainKey),
        };
        let accepted = verdict.is_ok();
        // The library asks once; a second verdict could not replace the first.
        let first = self.verdict.set(verdict).is_ok();
        Ok(first && accepted)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(said) => {
                let words = printable(&said.message);
                if !words.is_empty() {
                    self.farewell.send_replace(Some(words));
                }
                Ok(())
            }
            DisconnectReason::Error(error) => Err(error),
        }
    }

    async fn auth_banner(&mut self, banner: &str, _session: &mut Session) -> Result<(), Self::Error> {
        tracing::info!(banner = printable(banner), "the server says");
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        connected_address: &str,
        connected_port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let purpose = Purpose::Tcp(connected_address.to_owned(), connected_port);
        self.incoming.opened(&purpose, Opened::new(channel, reply)).await;
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.incoming.opened(&Purpose::Unix(socket_path.to_owned()), Opened::new(channel, reply)).await;
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.incoming.opened(&Purpose::Agent, Opened::new(channel, reply)).await;
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_x11(
        &mut self,
        channel: Channel<Msg>,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.incoming.opened(&Purpose::X11, Opened::new(channel, reply)).await;
        Ok(())
    }
}

async fn refuse(reply: ChannelOpenHandle) -> Result<(), russh::Error> {
    reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
    Ok(())
}
