//! All tunnels of a node: to which proxies there are none yet, and when to dial.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::cert::HostIdentity;
use teleport_core::clock::Clock;
use teleport_core::entropy::{Entropy, EntropyExt as _};
use teleport_core::id::HostId;
use teleport_core::peering::{Peering, is_missing, is_wanted};
use teleport_core::task::{Shutdown, TaskScope};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent::{self, Begun, Ends, Strings};
use super::health::{Health, SOON};
use super::place::Places;
use super::unwelcome;
use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::rpc::BoxedIo;
use crate::view::{AccessCache, jitter};

/// The shortest and the longest pause before the next attempt. The longest is how long a node is away at most after its proxies have
/// come back.
pub(crate) const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// The same when what was reached is a proxy that has a tunnel already, which costs it some work: thousands of nodes may wait for
/// another one.
const LONGEST_IN_VAIN: Duration = Duration::from_secs(8);

/// When to dial. A tunnel that stands is no success yet: a proxy that refuses the node ends it at once, and must not be dialled without a pause.
#[derive(Debug)]
struct Pacing {
    bounds: (Duration, Duration),
    pause: Duration,
    not_before: Instant,
}

impl Pacing {
    fn new(bounds: (Duration, Duration), now: Instant) -> Self {
        Self { bounds, pause: bounds.0, not_before: now }
    }

    /// A dial begins now. The next one comes after a pause, which doubles up to `longest`.
    fn dials(&mut self, now: Instant, longest: Duration, entropy: &dyn Entropy) {
        self.not_before = now + jitter(self.pause, entropy);
        self.pause = (self.pause * 2).min(longest);
    }

    /// No tunnel was missing for so long.
    fn rested(&mut self, time: Duration) {
        if time >= self.bounds.1 {
            self.pause = self.bounds.0;
        }
    }
}

/// What a pool needs.
pub(crate) struct Pool {
    /// The web ports of proxies, or of whatever stands before them.
    pub(crate) addresses: Vec<String>,
    pub(crate) identity: HostIdentityHandle,
    pub(crate) view: AccessCache,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Between two attempts, as [`PAUSE`].
    pub(crate) pause: (Duration, Duration),
    /// Is told which proxies others can ask for this node.
    pub(crate) announce: Box<dyn Fn(Vec<HostId>) + Send + Sync>,
    /// Is told for how long when a proxy has not answered: what else goes that way may be dead as well.
    pub(crate) silent: Arc<dyn Fn(Duration) + Send + Sync>,
}

/// A tunnel as the pool sees it.
struct Held {
    proxy: HostId,
    material: Arc<HostMaterial>,
    health: watch::Receiver<Health>,
    draining: CancellationToken,
    retired: CancellationToken,
    over: CancellationToken,
}

impl Held {
    /// Whether the proxy can rely on it.
    fn is_good(&self, material: &Arc<HostMaterial>) -> bool {
        *self.health.borrow() == Health::Good
            && !self.draining.is_cancelled()
            && !self.retired.is_cancelled()
            && !self.over.is_cancelled()
            // Of a renewed identity only the newest certificate is shown.
            && self.material.tls_certificate == material.tls_certificate
    }
}

/// Keeps tunnels to all proxies, or to as many as there should be, until `shutdown` drains, and then those that have streams, until it aborts. `accept` takes each stream, and
/// returns soon.
pub(crate) async fn serve(pool: Pool, shutdown: Shutdown, accept: Arc<dyn Fn(BoxedIo, Ends) + Send + Sync>) {
    // Nodes that know several addresses begin with any of them, so that all proxies have as many.
    let first = pool.entropy.bytes::<1>().map_or(0, |[dice]| usize::from(dice));
    let mut places = Places::new(pool.addresses.clone()).beginning_at(first);
    let scope = TaskScope::new();
    let (news, mut changed) = mpsc::channel(1);
    let mut held: Vec<Held> = Vec::new();
    let mut pacing = Pacing::new(pool.pause, Instant::now());
    let mut longest = pool.pause.1;
    let mut views = pool.view.changes();
    let mut identities = pool.identity.changes();
    let mut failing = false;
    loop {
        let view = pool.view.current();
        let is_welcome = |proxy: &HostIdentity| {
            view.as_ref().is_none_or(|view| view.keep_way(proxy, pool.clock.now()).is_ok())
        };
        held.retain(|tunnel| !tunnel.over.is_cancelled());
        let material = pool.identity.current();
        // Of several to one proxy the newest good one; others end with their streams.
        for (at, tunnel) in held.iter().enumerate() {
            let newer = held.get(at + 1..).unwrap_or_default().iter();
            let mut newer = newer.filter(|other| other.proxy == tunnel.proxy);
            if newer.any(|other| other.is_good(&material)) {
                tunnel.retired.cancel();
            }
        }
        let peering = view.as_ref().and_then(|view| view.peering.as_ref());
        let mut good = held_by(&held, &material);
        if let Some(peering) = peering {
            retire(peering, &held, &mut good, &*pool.entropy);
        }
        (pool.announce)(peering.map(|peering| peering.announced(&good)).unwrap_or_default());
        let none = BTreeSet::new();
        let known = view.as_ref().map_or(&none, |view| &view.proxy_ids);
        if !is_missing(known, peering, &good) {
            failing = false;
            let since = Instant::now();
            tokio::select! {
                () = shutdown.draining() => break,
                () = views.next() => {}
                _ = identities.next() => {}
                _ = changed.recv() => {}
            }
            pacing.rested(since.elapsed());
            continue;
        }
        tokio::select! {
            () = shutdown.draining() => break,
            // What is announced may be another thing by now.
            () = views.next() => continue,
            _ = changed.recv() => continue,
            () = tokio::time::sleep_until(pacing.not_before) => {}
        }
        pacing.dials(Instant::now(), longest, &*pool.entropy);
        longest = pool.pause.1;
        let dialling = places.dial(&material, &pool.clock);
        let dialled = tokio::select! {
            () = shutdown.draining() => break,
            dialled = dialling => dialled,
        };
        let begun = match dialled {
            Ok(dialled)
                if !is_wanted(peering, &good, dialled.proxy.host_id) || !is_welcome(&dialled.proxy) =>
            {
                tracing::debug!(proxy = %dialled.proxy.host_id, "reached a proxy to which no tunnel is missing");
                longest = LONGEST_IN_VAIN;
                continue;
            }
            Ok(dialled) => {
                let proxy = dialled.proxy.clone();
                // Until then it takes the place of no other: a proxy that has no room says so by not beginning.
                tokio::select! {
                    () = shutdown.draining() => break,
                    begun = dialled.begin() => begun.map(|begun| (proxy, begun)),
                }
            }
            Err(error) => Err(error),
        };
        match begun {
            Ok((proxy, begun)) => {
                tracing::info!(proxy = %proxy.host_id, "a tunnel to a proxy stands");
                held.push(start((proxy, begun), material, &pool, &scope, news.clone(), &accept));
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                // Once for each time that it fails.
                match std::mem::replace(&mut failing, true) {
                    false => tracing::warn!(error, "no tunnel to a proxy can be made; it is tried again"),
                    true => tracing::debug!(error, "no tunnel to a proxy can be made"),
                }
            }
        }
    }
    for tunnel in &held {
        tunnel.retired.cancel();
    }
    tokio::select! {
        () = scope.join() => {}
        () = shutdown.aborted() => scope.abort().await,
    }
}

/// The proxies that can rely on a tunnel.
fn held_by(held: &[Held], material: &Arc<HostMaterial>) -> BTreeSet<HostId> {
    held.iter().filter(|tunnel| tunnel.is_good(material)).map(|tunnel| tunnel.proxy).collect()
}

/// Lets go of tunnels that are more than there should be: any of them, so that no proxy loses all of its nodes.
fn retire(peering: &Peering, held: &[Held], good: &mut BTreeSet<HostId>, entropy: &dyn Entropy) {
    for _ in 0..peering.surplus(good) {
        let among: Vec<HostId> =
            good.iter().copied().filter(|proxy| peering.proxies.contains_key(proxy)).collect();
        let dice = entropy.bytes::<2>().map_or(0, |dice| usize::from(u16::from_le_bytes(dice)));
        let Some(proxy) = dice.checked_rem(among.len()).and_then(|at| among.get(at)) else { return };
        for tunnel in held.iter().filter(|tunnel| tunnel.proxy == *proxy) {
            tunnel.retired.cancel();
        }
        good.remove(proxy);
    }
}

fn start(
    (host, begun): (HostIdentity, Begun<impl AsyncRead + AsyncWrite + Send + Unpin + 'static>),
    material: Arc<HostMaterial>,
    pool: &Pool,
    scope: &TaskScope,
    news: mpsc::Sender<()>,
    accept: &Arc<dyn Fn(BoxedIo, Ends) + Send + Sync>,
) -> Held {
    let (view, clock) = (pool.view.clone(), Arc::clone(&pool.clock));
    let (health, watched) = watch::channel(Health::Good);
    let (draining, retired) = (CancellationToken::new(), CancellationToken::new());
    let over = CancellationToken::new();
    let held = Held {
        proxy: host.host_id,
        material,
        health: watched.clone(),
        draining: draining.clone(),
        retired: retired.clone(),
        over: over.clone(),
    };
    let (proxy, accept, silent) = (host.host_id, Arc::clone(accept), Arc::clone(&pool.silent));
    // However the task ends.
    let ended = over.drop_guard();
    scope.spawn(async move {
        let strings = Strings { health, draining, retired };
        let telling = tell(watched, strings.draining.clone(), (&*silent, news.clone()));
        let outcome: io::Result<()> = tokio::select! {
            outcome = agent::attend(begun, &strings, &*accept) => outcome,
            never = telling => match never {},
            () = unwelcome(&view, &host, &*clock) => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, "the proxy is locked or was removed"))
            }
        };
        match &outcome {
            Ok(()) => tracing::info!(%proxy, "a tunnel to a proxy has ended"),
            Err(error) => {
                tracing::info!(%proxy, error = error as &dyn std::error::Error, "a tunnel to a proxy broke off");
            }
        }
        drop(ended);
        let _ = news.try_send(());
    });
    held
}

/// Wakes the pool when something is to be known of a tunnel.
async fn tell(
    mut health: watch::Receiver<Health>,
    draining: CancellationToken,
    (silent, news): (&(dyn Fn(Duration) + Send + Sync), mpsc::Sender<()>),
) -> std::convert::Infallible {
    let mut told = false;
    loop {
        tokio::select! {
            changed = health.changed() => match changed {
                Ok(()) if *health.borrow_and_update() == Health::Doubtful => silent(SOON),
                Ok(()) => {}
                Err(_) => std::future::pending().await,
            },
            () = draining.cancelled(), if !told => told = true,
        }
        // If it is full, the pool is about to look.
        let _ = news.try_send(());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use teleport_core::testing::NoEntropy;

    use super::*;

    #[tokio::test]
    async fn a_silent_tunnel_is_told_of_once_each_time() {
        let (health, watched) = watch::channel(Health::Good);
        let (news, mut changed) = mpsc::channel(1);
        let (heard, mut silences) = mpsc::unbounded_channel();
        let silent = move |silent| {
            let _ = heard.send(silent);
        };
        let telling = tell(watched, CancellationToken::new(), (&silent, news));
        let told = async {
            for state in [Health::Doubtful, Health::Good, Health::Doubtful, Health::Good] {
                health.send_replace(state);
                changed.recv().await.unwrap();
                assert_eq!(silences.try_recv().ok(), (state == Health::Doubtful).then_some(SOON));
            }
        };
        tokio::select! {
            never = telling => match never {},
            () = told => {}
        }
    }

    /// Each tunnel stands, and is ended at once.
    #[test]
    fn a_proxy_that_ends_every_tunnel_is_dialled_less_and_less() {
        let start = Instant::now();
        let (mut pacing, mut now, mut pauses) = (Pacing::new(PAUSE, start), start, Vec::new());
        for _ in 0..8 {
            pacing.dials(now, PAUSE.1, &NoEntropy);
            // It stood for a moment.
            pacing.rested(Duration::from_millis(100));
            pauses.push((pacing.not_before - now).as_millis());
            now = pacing.not_before;
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
        // After a good time it is dialled soon again, and while another one is looked for, seldom.
        pacing.rested(PAUSE.1);
        pacing.dials(now, PAUSE.1, &NoEntropy);
        assert_eq!(pacing.not_before - now, PAUSE.0);
        for _ in 0..8 {
            now = pacing.not_before;
            pacing.dials(now, LONGEST_IN_VAIN, &NoEntropy);
        }
        assert_eq!(pacing.not_before - now, LONGEST_IN_VAIN);
    }
}
