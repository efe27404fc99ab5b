//! A way to a node: asked for through either door, found, dialed, recorded, spliced.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use russh::server::{ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId};
use teleport_core::access::Unwelcome;
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::cert::UserIdentity;
use teleport_core::origin::Audience;
use teleport_core::resource::NodeKind;
use teleport_core::target::{DialTarget, InvalidTarget};

use super::refusal::{REFUSED, Refusal, STDERR, say};
use super::{Connection, MAX_CHANNELS};
use crate::engine::transport::Account;
use crate::node::Reach;
use crate::proxy::dial::{DialError, NodeDialer};
use crate::proxy::journal::NotRecorded;
use crate::proxy::route::{NodeRoute, resolve};
use crate::proxy::server::Shared;
use crate::proxy::visitor::Visitor;
use crate::rpc::BoxedIo;
use crate::splice::{Rules, Spliced, splice};
use crate::view::NoView;

/// How long a connection has, after the ways that it leads, to tell the user why it ends.
const CONNECTIONS_WORDS: Duration = Duration::from_millis(300);

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

/// How an attempt to reach a node is recorded, whichever way it goes.
struct Attempt {
    shared: Arc<Shared>,
    client: SocketAddr,
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

    /// The visitor may not be there any more.
    fn cut(&self, route: &NodeRoute, why: &Unwelcome) {
        let mut event = self.event.clone();
        event.code = EventKind::ClientDisconnect;
        event.success = Some(true);
        let event = event
            .field("node_id", route.host_id().to_string())
            .field("node_name", route.name().as_str())
            .field("reason", why.to_string());
        self.shared.journal.note(event);
    }

    #[tracing::instrument(skip_all, fields(node = %route.name(), node_id = %route.host_id()))]
    async fn dial(&self, user: &Visitor, route: &NodeRoute) -> Result<(BoxedIo, Bytes), Refusal> {
        let stream = match route.record().sub_kind {
            NodeKind::Teleport => {
                self.shared.dialer.dial(route, &user.identity).await.map_err(Refusal::Unreachable)?
            }
            NodeKind::OpenSsh => self.stand_in(user, route).await?,
        };
        // What the node is to hear before it hears the client.
        let opening = self.shared.origins.header(self.client, Audience::Node(route.host_id()))?;
        self.opened(route)?;
        Ok((stream, opening.into()))
    }

    /// The stream of a user to whoever is here in the place of a registered SSH server.
    async fn stand_in(&self, user: &Visitor, route: &NodeRoute) -> Result<BoxedIo, Refusal> {
        let standing = self.shared.standing.as_ref().ok_or(Refusal::NoStandIns)?;
        let reach = Way {
            dialer: Arc::clone(&self.shared.dialer),
            route: route.clone(),
            user: user.identity.clone(),
        };
        let stream = standing.open(route.record(), self.client, Arc::new(reach)).await;
        Ok(Box::new(stream.map_err(Refusal::NotShown)?))
    }

    /// Refuses the channel that the attempt came as.
    async fn reject(self, why: Refusal, reply: ChannelOpenHandle) {
        let failure = why.failure();
        self.refused(&why);
        reply.reject(failure).await;
    }
}

/// The way to a server, for when its user needs it.
#[derive(Debug)]
struct Way {
    dialer: Arc<dyn NodeDialer>,
    route: NodeRoute,
    user: UserIdentity,
}

#[async_trait]
impl Reach for Way {
    async fn reach(&self) -> Result<BoxedIo, DialError> {
        self.dialer.dial(&self.route, &self.user).await
    }
}

/// A channel of a connection, as the proxy counts it.
pub(super) struct Slot {
    pub(super) account: Account,
    /// Of a session channel that has not asked for anything yet.
    pub(super) idle: Option<Channel<Msg>>,
}

impl Connection {
    fn attempt(&self, door: Door, asked: &str) -> Attempt {
        let event = self.event(door.refused()).field("target", asked);
        Attempt { shared: Arc::clone(&self.shared), client: self.peer, event, door }
    }

    /// Finds the node that is meant.
    fn route(&self, target: Result<DialTarget, InvalidTarget>) -> Result<(Arc<Visitor>, NodeRoute), Refusal> {
        let user = self.user.clone().ok_or(Refusal::NoView(NoView::Missing))?;
        let target = target.map_err(Refusal::Target)?;
        let view = self.shared.access.usable().map_err(Refusal::NoView)?;
        let Visitor { identity, authority } = &*user;
        let checker = view.checker(identity);
        // It would see no node; why, is to be in the audit log.
        checker.readable().map_err(Refusal::Roles)?;
        let (cluster, now) = (&view.trust.cluster, self.shared.clock.now());
        // The connection may be older than what it was opened with allows.
        if now >= identity.expires {
            return Err(Refusal::Expired);
        }
        view.keep(identity, authority, now).map_err(Refusal::Unwelcome)?;
        let route = self.shared.nodes.read(|nodes| resolve(&target, nodes, &checker, cluster, now));
        let route = route.map_err(Refusal::Route)?;
        let fresh = self.shared.access.freshness(now);
        view.admit_to(identity, route.record(), fresh).map_err(Refusal::Unwelcome)?;
        Ok((Arc::clone(&user), route))
    }

    /// A channel for which a subsystem may be asked.
    pub(super) async fn open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle) {
        if self.channels.len() >= MAX_CHANNELS {
            reply.reject(Refusal::TooManyChannels.failure()).await;
            return;
        }
        let slot = Slot { account: self.link.account(), idle: None };
        let id = channel.id();
        self.channels.insert(id, Slot { idle: Some(channel), ..slot });
        reply.accept().await;
    }

    /// The door of `ssh -J`.
    pub(super) async fn open_direct(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        reply: ChannelOpenHandle,
    ) {
        let attempt = self.attempt(Door::DirectTcpip, &format!("{host}:{port}"));
        if self.channels.len() >= MAX_CHANNELS {
            return attempt.reject(Refusal::TooManyChannels, reply).await;
        }
        let (user, route) = match self.route(DialTarget::from_host_port(host, port)) {
            Ok(found) => found,
            Err(refusal) => return attempt.reject(refusal, reply).await,
        };
        let account = self.link.account();
        self.channels.insert(channel.id(), Slot { account: account.clone(), idle: None });
        let link = self.link.clone();
        self.tasks.spawn(async move {
            match attempt.dial(&user, &route).await {
                Ok((node, opening)) => {
                    reply.accept().await;
                    let (from_client, to_client) = channel.split();
                    let (rules, count) = (Rules::node(opening), Spliced::default());
                    let spliced = splice(from_client, &to_client, node, rules, &link, &account, &count);
                    match attempt.shared.while_welcome(&user, route.record(), spliced).await {
                        Ok(ended) => report(&route, ended),
                        Err(why) => {
                            attempt.cut(&route, &why);
                            // This channel has no room for words. If all of the connection ends, its last words come first:
                            // a client whose channel is closed goes without hearing them.
                            tokio::time::sleep(CONNECTIONS_WORDS).await;
                        }
                    }
                    let _ = to_client.close().await;
                }
                Err(refusal) => {
                    account.close();
                    attempt.reject(refusal, reply).await;
                }
            }
        });
    }

    /// The door of a `ProxyCommand`.
    pub(super) fn open_subsystem(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let attempt = self.attempt(Door::Subsystem, name);
        let Some(slot) = self.channels.get_mut(&id) else { return session.channel_failure(id) };
        let account = slot.account.clone();
        // A channel does one thing, once.
        let Some(channel) = slot.idle.take() else { return session.channel_failure(id) };
        let (user, route) = match self.route(DialTarget::from_subsystem(name)) {
            Ok(found) => found,
            Err(refusal) => {
                let text = refusal.lines();
                attempt.refused(&refusal);
                return say(id, &text, session);
            }
        };
        let (link, handle) = (self.link.clone(), session.handle());
        self.tasks.spawn(async move {
            let (from_client, to_client) = channel.split();
            match attempt.dial(&user, &route).await {
                Ok((node, opening)) => {
                    // Errors mean that the connection is gone; then nothing is left to say.
                    let _ = handle.channel_success(id).await;
                    let (rules, count) = (Rules::node(opening), Spliced::default());
                    let spliced = splice(from_client, &to_client, node, rules, &link, &account, &count);
                    let status = match attempt.shared.while_welcome(&user, route.record(), spliced).await {
                        Ok(ended) => {
                            let status = u32::from(ended.is_err());
                            report(&route, ended);
                            status
                        }
                        Err(why) => {
                            attempt.cut(&route, &why);
                            let text = format!("teleport: the connection ends: {}\r\n", why.public());
                            let _ = to_client.extended_data_bytes(STDERR, text).await;
                            REFUSED
                        }
                    };
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
