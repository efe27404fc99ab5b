//! One connection around the SSH library: its deadlines, its end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::Disconnect;
use russh::server::run_stream;
use teleport_core::audit::EventKind;
use teleport_core::id::HostId;
use teleport_core::origin::OriginRejected;
use teleport_core::task::{Shutdown, TaskScope};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::either::Either;

use super::Shared;
use super::authorize::chain;
use super::handler::{Activity, Connection, ConnectionError, Progress};
use super::lifetime::{self, Tether};
use super::opening::{self, Greeted, Opened, Owner};
use crate::engine::transport::{CutOnDrop, Link, Transport};
use crate::engine::{ConfigError, server_config_for};
use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::listener::limits::Outcome;
use crate::listener::{Accepted, Admitted};
use crate::origin::Whence;
use crate::resume::{Claim, Hello, ResumeStream};
use crate::rpc::BoxedIo;
use crate::tunnel::{self, Pool};

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
pub(super) struct ConfigCache {
    newest: Mutex<(Arc<HostMaterial>, Arc<russh::server::Config>)>,
    resumes: bool,
}

impl ConfigCache {
    /// For a node that can resume connections, or cannot.
    pub(super) fn new(identity: &HostIdentityHandle, resumes: bool) -> Result<Self, ConfigError> {
        let material = identity.current();
        let config = server_config_for(&material, resumes)?;
        Ok(Self { newest: Mutex::new((material, config)), resumes })
    }

    /// For a new connection: with the identity of this moment, so that a rotation needs no restart.
    fn current(&self, identity: &HostIdentityHandle) -> Arc<russh::server::Config> {
        let newest = identity.current();
        let mut cached = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&cached.0, &newest) {
            match server_config_for(&newest, self.resumes) {
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

/// What the connection holds is free when it ends, and not when the library's task has noticed.
struct EndedOnDrop(Tether);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// Serves one connection to its end.
pub(super) async fn run(node: Arc<Shared>, accepted: Accepted) {
    let Accepted { stream, peer, local, admitted } = accepted;
    serve(node, Box::new(stream), (peer, local), Blame(Some(admitted))).await;
}

/// Serves what comes through tunnels until `shutdown` drains, and then until it has ended or `shutdown` aborts.
pub(super) async fn through_tunnels(node: Arc<Shared>, proxies: Vec<String>, shutdown: &Shutdown) {
    let record = node.record.clone();
    let announce = move |proxies: Vec<HostId>| {
        record.send_if_modified(|record| {
            let changed = record.proxy_ids != proxies;
            record.proxy_ids = proxies;
            changed
        });
    };
    let pool = Pool {
        addresses: proxies,
        identity: node.identity.clone(),
        view: node.view.clone(),
        clock: Arc::clone(&node.clock),
        entropy: Arc::clone(&node.entropy),
        pause: tunnel::PAUSE,
        announce: Box::new(announce),
        silent: {
            let client = node.auth_client.clone();
            Arc::new(move |silent| client.iter().for_each(|client| client.doubt(silent)))
        },
    };
    let streams = TaskScope::new();
    let scope = streams.clone();
    let accept = move |stream: BoxedIo, ends: (SocketAddr, SocketAddr)| {
        drop(scope.spawn(serve(Arc::clone(&node), stream, ends, Blame::nobody())));
    };
    tunnel::serve(pool, shutdown.clone(), Arc::new(accept)).await;
    tokio::select! {
        () = streams.join() => {}
        () = shutdown.aborted() => streams.abort().await,
    }
}

/// To whom it is counted how a connection begins and ends.
pub(super) struct Blame(Option<Admitted>);

impl Blame {
    /// For what comes through a proxy's door, which has let it in and says where the client is.
    pub(super) const fn nobody() -> Self {
        Self(None)
    }

    /// Whether it comes through a proxy's door, so that nothing is believed of it that the proxy does not say.
    pub(super) const fn is_nobodys(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn record(&mut self, outcome: Outcome) {
        if let Some(admitted) = &mut self.0 {
            admitted.record(outcome);
        }
    }

    fn crashed(&self) {
        if let Some(admitted) = &self.0 {
            admitted.crashed();
        }
    }
}

/// Serves what comes from `peer` on a stream, to its end, or hands it to the connection that it resumes.
pub(super) async fn serve(
    node: Arc<Shared>,
    stream: BoxedIo,
    (peer, local): (SocketAddr, SocketAddr),
    mut admitted: Blame,
) {
    let whence = Whence::new(peer);
    let (config, now) = (node.configs.current(&node.identity), Instant::now());
    let by = now + BANNER_LIMIT.min(node.login_grace);
    let opened = tokio::select! {
        opened = tokio::time::timeout_at(by, opening::open(&node, &config, stream, (&whence, admitted.is_nobodys()))) => opened,
        () = node.shutdown.draining() => {
            admitted.record(Outcome::Unblamed);
            return;
        }
    };
    let Opened { stream, read, hello } = match opened {
        Ok(Ok(opened)) => opened,
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
    };
    let begun = Begun { admitted, whence, local, config, by, grace: now + node.login_grace };
    match hello {
        None => {
            let stream = Greeted::new(&begun.config, read.freeze(), Either::Left(stream));
            speak(node, begun, Transport::new(stream, Link::new()), None).await;
        }
        Some(Hello::New { key }) => resumable(node, begun, key, stream, read).await,
        Some(Hello::Again(again)) => opening::resume(&node, begun, again, stream, read).await,
    }
}

/// A connection whose client has said its first word.
pub(super) struct Begun {
    pub(super) admitted: Blame,
    pub(super) whence: Whence,
    pub(super) local: SocketAddr,
    config: Arc<russh::server::Config>,
    /// Until when the client has to say that it speaks SSH, and to log in.
    by: Instant,
    grace: Instant,
}

/// Serves a connection that survives the loss of what carries it, once its client is let in.
async fn resumable(node: Arc<Shared>, mut begun: Begun, key: [u8; 32], stream: BoxedIo, read: BytesMut) {
    let carrier = match node.resumable.begin(key, &*node.entropy) {
        Ok(carrier) => carrier,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a connection cannot be served");
            return begun.admitted.record(Outcome::Unblamed);
        }
    };
    let Some((carrier, lane, claim)) = carrier else { return begun.admitted.record(Outcome::Failed) };
    let (lasting, leaving) = (carrier.lane(), node.shutdown.clone());
    let lane = Greeted::new(&begun.config, Bytes::new(), Either::Right(lane));
    let carrying = TaskScope::new();
    let table = Arc::clone(&node.resumable);
    carrying.spawn(carrier.run(stream, read, table, async move { leaving.draining().await }));
    let patience = speak(node, begun, Transport::over_lively(lane, Link::new()), Some(claim)).await;
    // What the session said last.
    lasting.finished(patience).await;
}

/// Speaks SSH to the end of a connection. Says how long its last words may take.
async fn speak(
    node: Arc<Shared>,
    begun: Begun,
    transport: Transport<Greeted<Either<BoxedIo, ResumeStream>>>,
    claim: Option<Claim>,
) -> Duration {
    let Begun { mut admitted, whence, local, config, by, grace } = begun;
    let link = transport.link().clone();
    let cut = CutOnDrop(link.clone());
    let (progress, mut progressed) = watch::channel(Progress::Connected);
    let activity = Activity::default();
    let tether = Tether::new();
    let _ended = EndedOnDrop(tether.clone());
    let handler = Connection::new(
        Arc::clone(&node),
        link.clone(),
        whence.clone(),
        local,
        progress,
        activity.clone(),
        tether.clone(),
    );
    let refusals = handler.refusals();
    let banner = tokio::time::timeout_at(by, run_stream(config, transport, handler));
    let mut session = tokio::select! {
        session = banner => match session {
            Ok(Ok(session)) => session,
            Ok(Err(_)) => return GOODBYE_LIMIT,
            Err(_) => {
                admitted.record(Outcome::GraceExceeded);
                return GOODBYE_LIMIT;
            }
        },
        () = node.shutdown.draining() => {
            admitted.record(Outcome::Unblamed);
            return GOODBYE_LIMIT;
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
            return GOODBYE_LIMIT;
        }
        () = node.shutdown.draining() => {
            admitted.record(Outcome::Unblamed);
            return GOODBYE_LIMIT;
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
        return GOODBYE_LIMIT;
    }
    link.moves();
    let owner = || Owner { tether: tether.clone(), whence: whence.clone() };
    let _kept = claim.map(|claim| node.resumable.keep(claim, owner()));
    let ended = tokio::select! {
        ended = &mut session => ended,
        never = refusals.attend() => match never {},
        over = lifetime::over(&node, &tether, &link) => {
            tether.end(over.clone());
            let (last_words, show, limit) = match over.is_urgent() {
                true => URGENT_LIMITS,
                false => (LAST_WORDS_LIMIT, SHOW_LIMIT, GOODBYE_LIMIT),
            };
            let goodbye = async {
                // Their terminals show why before the connection goes.
                let heard = activity.sessions.count() > 0;
                let _ = tokio::time::timeout(last_words, activity.sessions.none()).await;
                if heard && tokio::time::timeout(show, &mut session).await.is_ok() {
                    return;
                }
                let goodbye = handle.disconnect(Disconnect::ByApplication, over.to_string(), String::new());
                let _ = tokio::time::timeout(limit, async { (goodbye.await, (&mut session).await) }).await;
                drop(cut);
            };
            tokio::join!(goodbye, lifetime::announce(&node, &tether, whence.arrival().client(), local, &over));
            return if over.is_urgent() { URGENT_LIMITS.2 } else { GOODBYE_LIMIT };
        }
        () = idle_and_draining(&node, &activity) => {
            if tokio::time::timeout(HANG_UP_LIMIT, &mut session).await.is_ok() {
                return GOODBYE_LIMIT;
            }
            let goodbye = handle.disconnect(Disconnect::ByApplication, "the node goes away".into(), String::new());
            let _ = tokio::time::timeout(GOODBYE_LIMIT, async { (goodbye.await, (&mut session).await) }).await;
            return GOODBYE_LIMIT;
        }
        () = node.shutdown.aborted() => return URGENT_LIMITS.2,
    };
    if !report(&ended, peer) {
        admitted.crashed();
    }
    drop(cut);
    GOODBYE_LIMIT
}

/// Tells of a connection that was cut for what it said of its client.
fn turned_away(node: &Shared, peer: SocketAddr, local: SocketAddr, why: OriginRejected) {
    let reason = chain(&why);
    tracing::warn!(%peer, %reason, "a connection was refused");
    let event = node.event(EventKind::AuthFailure).remote(Some(peer)).error(reason);
    node.audit.note(event.field("addr.local", local.to_string()));
}

async fn idle_and_draining(node: &Shared, activity: &Activity) {
    node.shutdown.draining().await;
    activity.none().await;
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
