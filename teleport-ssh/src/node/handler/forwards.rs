//! What a client asks to be forwarded: whether it may, by the newest roles. What is permitted goes on in tasks of the connection.

use russh::server::{ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId};
use teleport_core::access::LoginGrant;
use teleport_core::audit::EventKind;

use super::{Connection, ConnectionError};
use crate::node::authorize::{self, Pass, chain};
use crate::node::forward::{Asked, Keys, NoForward, Target, Trip};
use crate::session::{InvalidX11, SocketPath, X11Auth};

impl Connection {
    /// `direct-tcpip`.
    pub(super) async fn open_tcp(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        reply: ChannelOpenHandle,
    ) {
        let trip = self.trip("direct-tcpip", &format!("{host}:{port}"));
        let permitted = || {
            let grant = self.may_forward()?;
            let permit = grant.local_forwarding()?;
            Ok((Target::new(host, port)?, (grant, permit, self.forwards.place()?)))
        };
        match permitted() {
            Ok((target, permit)) => self.forwards.connect(Asked { trip, channel, reply }, permit, target),
            Err(why) => trip.refuse(why, reply).await,
        }
    }

    /// `direct-streamlocal`.
    pub(super) async fn open_socket(&mut self, channel: Channel<Msg>, path: &str, reply: ChannelOpenHandle) {
        let trip = self.trip("direct-streamlocal", path);
        let permitted = || {
            let grant = self.may_forward()?;
            let permit = grant.local_forwarding()?.to_socket(path)?;
            Ok((SocketPath::new(path)?, (grant, permit, self.forwards.place()?)))
        };
        match permitted() {
            Ok((name, permit)) => self.forwards.connect_socket(Asked { trip, channel, reply }, permit, name),
            Err(why) => trip.refuse(why, reply).await,
        }
    }

    /// Channels that nobody but a server opens.
    pub(super) async fn reversed(&self, reply: ChannelOpenHandle, kind: &str, target: &str) {
        self.trip(kind, target).refuse(NoForward::Reversed, reply).await;
    }

    /// `tcpip-forward`. The SSH library answers requests in their order, so this one is done before the next message is read. It
    /// is quick; the two below wait for a process of the user, ten seconds at most.
    pub(super) async fn listen_tcp(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        let trip = self.trip("tcpip-forward", &format!("{address}:{port}"));
        let permitted = || {
            let (entry, grant) = (self.entry.clone().ok_or(NoForward::Nobody)?, self.may_forward()?);
            Ok((entry, (grant.remote_forwarding()?, grant)))
        };
        let listening = match permitted() {
            Ok((entry, permit)) => {
                let keys = Keys { trip: trip.clone(), entry, handle: session.handle() };
                self.forwards.listen_tcp(permit, (address, *port), self.node.gateway_ports, keys).await
            }
            Err(why) => Err(why),
        };
        self.answer(&trip, listening.map(|bound| *port = bound.into()), session)
    }

    /// `cancel-tcpip-forward`.
    pub(super) async fn close_tcp(&mut self, address: &str, port: u32) -> bool {
        self.forwards.close_tcp(address, port).await
    }

    /// `streamlocal-forward`, as [`Connection::listen_tcp`].
    pub(super) async fn listen_socket(
        &mut self,
        path: &str,
        session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        let trip = self.trip("streamlocal-forward", path);
        let permitted = || {
            let (entry, grant) = (self.entry.clone().ok_or(NoForward::Nobody)?, self.may_forward()?);
            Ok((entry, (grant.remote_forwarding()?, grant)))
        };
        let listening = match permitted() {
            Ok((entry, permit)) => {
                let keys = Keys { trip: trip.clone(), entry, handle: session.handle() };
                self.forwards.listen_socket(permit, path, keys).await
            }
            Err(why) => Err(why),
        };
        self.answer(&trip, listening, session)
    }

    /// `cancel-streamlocal-forward`.
    pub(super) async fn close_socket(&mut self, path: &str) -> bool {
        self.forwards.close_socket(path).await
    }

    /// `auth-agent-req` on a channel on which nothing runs yet. Without it the session goes on.
    pub(super) async fn agent(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        let trip = self.trip("auth-agent", "");
        let permitted = || {
            let open = self.channels.get(&id).ok_or(NoForward::Nobody)?;
            if open.machine.is_running() || open.agent.is_some() {
                return Err(NoForward::Late);
            }
            let (entry, grant) = (self.entry.clone().ok_or(NoForward::Nobody)?, self.may_forward()?);
            Ok((entry, (grant.agent_forwarding()?, grant)))
        };
        let listening = match permitted() {
            Ok((entry, permit)) => {
                let keys = Keys { trip: trip.clone(), entry, handle: session.handle() };
                self.forwards.listen_agent(permit, keys).await
            }
            Err(why) => Err(why),
        };
        match listening {
            Ok(agent) => {
                if let Some(open) = self.channels.get_mut(&id) {
                    open.agent = Some(agent);
                }
                Ok(true)
            }
            Err(why) => {
                self.refusals.note(self.event(EventKind::AgentForwardFailure).error(chain(&why)));
                session.debug(true, &why.word(), "")?;
                Ok(false)
            }
        }
    }

    /// `x11-req` on a channel on which nothing runs yet. Without it the session goes on.
    pub(super) async fn display(
        &mut self,
        id: ChannelId,
        asked: Result<(X11Auth, bool), InvalidX11>,
        session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        let trip = self.trip("x11", "");
        let permitted = || {
            let open = self.channels.get(&id).ok_or(NoForward::Nobody)?;
            if open.machine.is_running() || open.display.is_some() {
                return Err(NoForward::Late);
            }
            let (entry, grant) = (self.entry.clone().ok_or(NoForward::Nobody)?, self.may_forward()?);
            let permit = grant.x11_forwarding()?;
            let displays = self.node.displays.as_ref();
            let displays =
                displays.ok_or(NoForward::X11("this node does not forward X11 (ssh_service.x11)"))?;
            self.node.service.offers_x11().map_err(NoForward::X11)?;
            Ok((entry, displays, asked?, (permit, grant)))
        };
        let listening = match permitted() {
            Ok((entry, displays, asked, permit)) => {
                let keys = Keys { trip: trip.clone(), entry, handle: session.handle() };
                self.forwards.listen_x11(permit, displays, asked, keys).await
            }
            Err(why) => Err(why),
        };
        match listening {
            Ok(door) => {
                let event = self.event(EventKind::X11Forward);
                self.node.audit.note(event.field("display", door.display().name()));
                if let Some(open) = self.channels.get_mut(&id) {
                    open.display = Some(door);
                }
                Ok(true)
            }
            Err(why) => {
                self.refusals.note(self.event(EventKind::X11ForwardFailure).error(chain(&why)));
                session.debug(true, &why.word(), "")?;
                Ok(false)
            }
        }
    }

    /// What the request is answered with. Why it is refused is told to those who look.
    fn answer(
        &self,
        trip: &Trip,
        done: Result<(), NoForward>,
        session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        if let Err(why) = &done {
            trip.note(why);
            session.debug(true, &why.word(), "")?;
        }
        Ok(done.is_ok())
    }

    fn trip(&self, kind: &str, addr: &str) -> Trip {
        Trip {
            node: self.node.clone(),
            link: self.link.clone(),
            ending: self.tether.ending(),
            refusals: self.refusals.clone(),
            event: self.event(EventKind::Port).field("kind", kind).field("addr", addr),
        }
    }

    /// Whether a client that was let in may have something forwarded now, and as whom.
    fn may_forward(&self) -> Result<LoginGrant, NoForward> {
        let entry = self.entry.as_ref().ok_or(NoForward::Nobody)?;
        if self.node.shutdown.is_draining() {
            return Err(NoForward::Draining);
        }
        if let Some(over) = self.tether.over() {
            return Err(NoForward::Ending(over));
        }
        let record = self.node.record.borrow().clone();
        match authorize::again(entry, self.node.clock.now(), &self.node.view, &record)? {
            Pass::Login(grant) => Ok(grant),
            Pass::Visit(_) => Err(NoForward::Visitor),
        }
    }
}
