//! One connection around the SSH library: its deadlines, its end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::Disconnect;
use russh::server::run_stream;
use teleport_core::audit::EventKind;
use teleport_core::origin::OriginRejected;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::authorize::chain;
use super::handler::{Connection, ConnectionError, Progress, Slots};
use super::lifetime::{self, Tether};
use crate::engine::transport::{Link, Transport};
use crate::engine::{ConfigError, server_config_for};
use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::listener::Accepted;
use crate::listener::limits::Outcome;
use crate::origin::{Arrival, Entrance, Whence};

/// How long a client has to say that it speaks SSH.
const BANNER_LIMIT: Duration = Duration::from_secs(10);
/// How long a client has to take the word that the node goes away.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// How long a client whose last session has ended has to hang up by itself. Stock `ssh` forgets the status of its command when it is
/// told to go before it has gone.
const HANG_UP_LIMIT: Duration = Duration::from_secs(1);

/// How long the sessions of a connection that the node ends have to say so.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// How long a client has to show what its sessions have said last, and to hang up by itself. Stock `ssh` throws away what it has not
/// shown when it is told to go.
const SHOW_LIMIT: Duration = Duration::from_millis(500);

/// All three, up to the goodbye, of a connection that is to be gone within a second.
const URGENT_LIMITS: (Duration, Duration, Duration) =
    (Duration::from_millis(400), Duration::from_millis(250), Duration::from_millis(200));

/// The library's configuration of the newest identity.
pub(super) struct ConfigCache(Mutex<(Arc<HostMaterial>, Arc<russh::server::Config>)>);

impl ConfigCache {
    pub(super) fn new(identity: &HostIdentityHandle) -> Result<Self, ConfigError> {
        let material = identity.current();
        let config = server_config_for(&material)?;
        Ok(Self(Mutex::new((material, config))))
    }

    /// For a new connection: with the identity of this moment, so that a rotation needs no restart.
    fn current(&self, identity: &HostIdentityHandle) -> Arc<russh::server::Config> {
        let newest = identity.current();
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&cached.0, &newest) {
            match server_config_for(&newest) {
                Ok(config) => cached.1 = config,
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the new identity cannot be used; the old one is kept"
                ),
            }
            cached.0 = newest;
        }
        Arc::clone(&cached.1)
    }
}

/// The library runs each connection in a task of its own, which ends when its stream is cut.
struct CutOnDrop(Link);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What the connection holds is free when it ends, and not when the library's task has noticed.
struct EndedOnDrop(Tether);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// Serves one connection to its end.
pub(super) async fn run(node: Arc<Shared>, accepted: Accepted) {
    let Accepted { stream, peer, local, mut admitted } = accepted;
    let whence = Whence::new(peer);
    let grace = Instant::now() + node.login_grace;
    let link = Link::new();
    let cut = CutOnDrop(link.clone());
    let (progress, mut progressed) = watch::channel(Progress::Connected);
    let slots = Slots::default();
    let tether = Tether::new();
    let _ended = EndedOnDrop(tether.clone());
    let handler = Connection::new(
        Arc::clone(&node),
        link.clone(),
        whence.clone(),
        local,
        progress,
        slots.clone(),
        tether.clone(),
    );
    let config = node.configs.current(&node.identity);
    let transport = Transport::new(entrance(&node, stream, &whence), link.clone());
    let banner =
        tokio::time::timeout(BANNER_LIMIT.min(node.login_grace), run_stream(config, transport, handler));
    let mut session = tokio::select! {
        session = banner => match session {
            Ok(Ok(session)) => session,
            Ok(Err(_)) => {
                // Others are port scanners and those who speak something else.
                if let Some(why) = whence.rejected() {
                    admitted.record(Outcome::Failed);
                    turned_away(&node, peer, local, why);
                }
                return;
            }
            Err(_) => {
                admitted.record(Outcome::GraceExceeded);
                return;
            }
        },
        () = node.shutdown.draining() => {
            admitted.record(Outcome::Unblamed);
            return;
        }
    };
    let peer = whence.arrival().client();
    let handle = session.handle();
    let authenticated =
        async { progressed.wait_for(|progress| *progress == Progress::Authenticated).await.is_ok() };
    let ended = tokio::select! {
        ended = &mut session => Some(ended),
        known = authenticated => {
            // Without: the handler is gone, and the session's end tells why.
            if known {
                admitted.record(Outcome::Authenticated);
                None
            } else {
                Some((&mut session).await)
            }
        }
        () = tokio::time::sleep_until(grace) => {
            tracing::info!(%peer, "the client took too long to log in");
            admitted.record(Outcome::GraceExceeded);
            return;
        }
        () = node.shutdown.draining() => {
            admitted.record(Outcome::Unblamed);
            return;
        }
    };
    if let Some(ended) = ended {
        if !report(&ended, peer) {
            admitted.crashed();
        } else {
            match *progressed.borrow() {
                Progress::Refused => admitted.record(Outcome::Failed),
                // Behind one address, a proxy's for instance, there may be many users.
                Progress::Denied => admitted.record(Outcome::Unblamed),
                _ => {}
            }
        }
        return;
    }
    link.moves();
    let ended = tokio::select! {
        ended = &mut session => ended,
        over = lifetime::over(&node, &tether, &link) => {
            tether.end(over.clone());
            let (last_words, show, limit) = match over.is_urgent() {
                true => URGENT_LIMITS,
                false => (LAST_WORDS_LIMIT, SHOW_LIMIT, GOODBYE_LIMIT),
            };
            let goodbye = async {
                // Their terminals show why before the connection goes.
                let heard = slots.count() > 0;
                let _ = tokio::time::timeout(last_words, slots.none()).await;
                if heard && tokio::time::timeout(show, &mut session).await.is_ok() {
                    return;
                }
                let goodbye = handle.disconnect(Disconnect::ByApplication, over.to_string(), String::new());
                let _ = tokio::time::timeout(limit, async { (goodbye.await, (&mut session).await) }).await;
                drop(cut);
            };
            tokio::join!(goodbye, lifetime::announce(&node, &tether, peer, local, &over));
            return;
        }
        () = idle_and_draining(&node, &slots) => {
            if tokio::time::timeout(HANG_UP_LIMIT, &mut session).await.is_ok() {
                return;
            }
            let goodbye = handle.disconnect(Disconnect::ByApplication, "the node goes away".into(), String::new());
            let _ = tokio::time::timeout(GOODBYE_LIMIT, async { (goodbye.await, (&mut session).await) }).await;
            return;
        }
        () = node.shutdown.aborted() => return,
    };
    if !report(&ended, peer) {
        admitted.crashed();
    }
    drop(cut);
}

/// The stream without the statement that a proxy begins it with. It is judged by the newest view.
fn entrance<S>(node: &Arc<Shared>, stream: S, whence: &Whence) -> Entrance<S> {
    let (node, whence) = (Arc::clone(node), whence.clone());
    Entrance::new(stream, move |header| {
        let arrival = || {
            let view = node.view.usable().map_err(|_| OriginRejected::Trust)?;
            let origin = node.origins.verify(header, &view.trust)?;
            Ok(Arrival::carried(whence.peer(), origin, &view, node.clock.now()))
        };
        whence.hear(arrival())
    })
}

/// Tells of a connection that was cut for what it said of its client.
fn turned_away(node: &Shared, peer: SocketAddr, local: SocketAddr, why: OriginRejected) {
    let reason = chain(&why);
    tracing::warn!(%peer, %reason, "a connection was refused");
    let event = node.event(EventKind::AuthFailure).remote(Some(peer)).error(reason);
    node.audit.note(event.field("addr.local", local.to_string()));
}

async fn idle_and_draining(node: &Shared, slots: &Slots) {
    node.shutdown.draining().await;
    slots.none().await;
}

/// Logs how a connection ended; says whether that was without a defect of ours.
fn report(ended: &Result<(), ConnectionError>, peer: SocketAddr) -> bool {
    match ended {
        Ok(()) => true,
        Err(ConnectionError::Ssh(russh::Error::Join(error))) => {
            tracing::error!(%peer, error = error as &dyn std::error::Error, "a connection's task failed");
            false
        }
        Err(error) => {
            tracing::debug!(%peer, error = error as &dyn std::error::Error, "connection ended");
            true
        }
    }
}
