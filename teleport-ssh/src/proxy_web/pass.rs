//! Connections to the auth service, whose bytes are passed on as they are.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use teleport_core::api::ProxyAccess;
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::origin::Audience;
use teleport_core::task::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

use super::peek::Hello;
use super::shares::Shares;
use crate::identity::HostIdentityHandle;
use crate::listener::limits::{Limits, Outcome, Source};
use crate::listener::{Admitted, Door};
use crate::origin::OriginSigner;
use crate::rpc::limits::{Buckets, Guest, Guests};
use crate::rpc::{Connector, Prefixed, Rate, STRANGERS_GONE};

/// Connections that are passed on at the same time from one source, however long they last. Behind one address there may be a whole site
/// of nodes.
const PASSED_PER_SOURCE: usize = 2_048;
/// How long a connection waits for this proxy's own to the auth service, which comes first.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon the auth service is asked again when it has not answered.
const RETRY: Duration = Duration::from_secs(1);
/// How long connections go on after draining has begun, or after the auth service has ended its side.
const FAREWELL: Duration = Duration::from_secs(5);

/// Limits for those whom a proxy passes on to the auth service, as far as they may be strangers.
///
/// At the door of an auth service elsewhere all that is passed on comes from this proxy's address, which it counts before it hears where a
/// client is: strangers are limited here, by where they come from. The defaults keep them to half of the connections that the auth service
/// takes from one proxy ([`Limits::per_exempt`]): this proxy's own calls, and those of whoever is known, always find room there.
///
/// The proxy does not see who shows a certificate, because TLS ends at the auth service. But that lets nobody without one stay: whoever
/// is still connected after about half a minute is no stranger and does not count any more. Bytes are not limited: a node may
/// begin with a recording, and looks like everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "configuration; see `Default`")]
pub struct PassLimits {
    /// Connections of one source at the same time.
    pub per_source: u32,
    /// Connections of all sources at the same time, and half of [`PassLimits::connections`] at most. From half of it on, new ones are refused at random.
    pub strangers: u32,
    /// How often one source may connect, members of the cluster included. A stranger's connection is good for a few calls.
    pub rate: Rate,
    /// All connections that are passed on at the same time, those of members included, which last. Each is two open files.
    pub connections: u32,
}

impl Default for PassLimits {
    fn default() -> Self {
        let strangers = Limits::default().per_exempt / 2;
        let connections = Shares::of_this_process().passes;
        Self { per_source: 256, strangers, rate: Rate::per_minute(240, 512), connections }
    }
}

/// The way to the auth service, and how many are on it.
#[derive(Debug)]
pub(super) struct Passes {
    auth: Arc<dyn Connector>,
    /// All of them, by their source.
    guests: Guests,
    /// All of them, and those who may be strangers.
    door: Door,
    /// How often each source has come.
    rate: Mutex<Buckets<Source>>,
    clock: Arc<dyn Clock>,
    origins: OriginSigner,
    open: watch::Sender<bool>,
}

/// A place on the way.
#[derive(Debug)]
pub(super) struct Pass {
    peer: SocketAddr,
    admitted: Admitted,
    _guest: Guest,
}

impl Passes {
    pub(super) fn new(
        auth: Arc<dyn Connector>,
        limits: PassLimits,
        identity: HostIdentityHandle,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let PassLimits { per_source, strangers, rate, connections } = limits;
        // Members keep room, however few files there may be.
        let strangers = strangers.min((connections / 2).max(1));
        let limits = Limits {
            per_source,
            startup_begin: strangers.div_ceil(2),
            startup_full: strangers,
            connections,
            penalties: false,
            ..Limits::default()
        };
        Self {
            auth,
            // The door counts them all.
            guests: Guests::new(PASSED_PER_SOURCE, usize::MAX),
            origins: OriginSigner::new(identity, Arc::clone(&clock), Arc::clone(&entropy)),
            door: Door::new(limits, entropy),
            rate: Mutex::new(Buckets::new(rate)),
            clock,
            open: watch::Sender::new(false),
        }
    }

    /// Lets connections pass from the moment on when the auth service has answered this proxy. From then on it knows the
    /// proxy's address; before, strangers would compete with the proxy for the places that it gives an address that it does not know.
    pub(super) async fn open(&self, api: &dyn ProxyAccess) {
        while api.trust().await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        self.open.send_replace(true);
    }

    /// What happens here.
    pub(super) fn door(&self) -> Door {
        self.door.clone()
    }

    /// A place, if there is one.
    pub(super) fn admit(&self, peer: SocketAddr) -> Option<Pass> {
        if !self
            .rate
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(Source::of(peer.ip()), self.clock.now())
        {
            tracing::info!(%peer, "too many connections to the auth service in a short time");
            self.door.count_refusal();
            return None;
        }
        let Some(guest) = self.guests.admit(peer.ip()) else {
            tracing::info!(%peer, "too many connections of one source to the auth service");
            self.door.count_refusal();
            return None;
        };
        let Some(admitted) = self.door.admit(peer.ip()) else {
            tracing::info!(%peer, "too many connections to the auth service");
            return None;
        };
        Some(Pass { peer, admitted, _guest: guest })
    }

    /// Passes everything on to the auth service and back, behind a statement of where the client is; one that another proxy has made, whose
    /// client this is, goes on as it is. The auth service sees who its clients are and ends what is idle or refused, and whoever has
    /// no certificate: who is here for longer than that takes is no stranger any more.
    pub(super) async fn pass_on(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        (header, hello): (Option<Bytes>, Hello),
        mut pass: Pass,
        shutdown: &Shutdown,
    ) {
        let mut open = self.open.subscribe();
        // The sender lives in `self`: only the time can fail.
        if tokio::time::timeout(PATIENCE, open.wait_for(|open| *open)).await.is_err() {
            return;
        }
        let mut upstream = match self.auth.connect().await {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the auth service cannot be reached"
                );
                return;
            }
        };
        let header = match header
            .map_or_else(|| self.origins.header(pass.peer, Audience::Auth), |known| Ok(known.into()))
        {
            Ok(header) => header,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a connection is not passed on");
                return;
            }
        };
        let mut downstream = Prefixed::new([&header[..], &hello.bytes].concat(), &mut stream);
        // There is no end to be seen in what is passed on: who is connected when this proxy drains has a moment to finish.
        let farewell = async {
            shutdown.draining().await;
            tokio::time::sleep(FAREWELL).await;
        };
        let known = async {
            tokio::time::sleep(STRANGERS_GONE).await;
            pass.admitted.record(Outcome::Authenticated);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            copied = copy(&mut downstream, &mut upstream) => {
                if let Err(error) = copied {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(peer = %pass.peer, error, "a connection to the auth service broke off");
                }
            }
            () = farewell => {}
            () = known => {}
        }
    }
}

/// Passes bytes both ways until both sides have ended. Once the auth service has, its client has a moment to do so too: it
/// cannot hold on to the connection, and with it to a place here, by saying nothing.
async fn copy(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    auth: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_auth, mut to_auth) = tokio::io::split(auth);
    let mut asking = pin!(async {
        tokio::io::copy(&mut from_client, &mut to_auth).await?;
        to_auth.shutdown().await
    });
    let mut answering = pin!(async {
        tokio::io::copy(&mut from_auth, &mut to_client).await?;
        to_client.shutdown().await
    });
    tokio::select! {
        asked = &mut asking => {
            asked?;
            answering.await
        }
        answered = &mut answering => {
            answered?;
            tokio::time::timeout(FAREWELL, asking).await.unwrap_or(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use async_trait::async_trait;
    use bytes::BytesMut;
    use teleport_core::entropy::SystemEntropy;
    use teleport_core::id::HostRole;
    use teleport_core::testing::{ManualClock, NoEntropy};
    use tokio::io::{AsyncReadExt as _, DuplexStream};

    use super::*;
    use crate::rpc::BoxedIo;

    /// An auth service that says nothing.
    #[derive(Debug, Default)]
    struct Silent(Mutex<Vec<DuplexStream>>);

    #[async_trait]
    impl Connector for Silent {
        async fn connect(&self) -> io::Result<BoxedIo> {
            let (ours, theirs) = tokio::io::duplex(64);
            self.0.lock().unwrap().push(theirs);
            Ok(Box::new(ours))
        }
    }

    fn passes(limits: PassLimits) -> (Arc<Passes>, Arc<ManualClock>) {
        passes_with(limits, Arc::new(SystemEntropy::new()))
    }

    fn passes_with(limits: PassLimits, entropy: Arc<dyn Entropy>) -> (Arc<Passes>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        let identity = crate::origin::tests::identity(HostRole::Proxy, &*clock);
        let passes = Passes::new(Arc::new(Silent::default()), limits, identity, clock.clone(), entropy);
        passes.open.send_replace(true);
        (Arc::new(passes), clock)
    }

    fn hello() -> Hello {
        Hello { bytes: BytesMut::new(), protocols: Vec::new() }
    }

    /// Whoever has stayed for longer than the auth service lets strangers stay has shown a certificate.
    #[tokio::test(start_paused = true)]
    async fn who_stays_is_no_stranger() {
        let (passes, _) = passes(PassLimits { per_source: 1, ..PassLimits::default() });
        let peer = "192.0.2.1:4711".parse().unwrap();
        let pass = passes.admit(peer).unwrap();
        let (_client, near) = tokio::io::duplex(64);
        let passing = async { passes.pass_on(near, (None, hello()), pass, &Shutdown::new()).await };
        let watching = async {
            assert!(passes.admit(peer).is_none());
            tokio::time::sleep(STRANGERS_GONE.saturating_sub(Duration::from_secs(1))).await;
            assert!(passes.admit(peer).is_none(), "it may be a stranger still");
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(passes.admit(peer).is_some());
        };
        tokio::select! {
            () = passing => unreachable!("nobody ended it"),
            () = watching => {}
        }
    }

    /// With few files there are few places, and strangers do not take all of them.
    #[tokio::test]
    async fn strangers_take_half_of_the_places_at_most_and_refusals_are_counted() {
        // Without dice all are refused as soon as refusals begin.
        let limits = PassLimits { connections: 6, ..PassLimits::default() };
        let (passes, _) = passes_with(limits, Arc::new(NoEntropy));
        let peer = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let (mut held, mut refused) = (Vec::new(), 0);
        for round in 0..3 {
            held.extend((0..2).map(|port| passes.admit(peer(port)).unwrap()));
            refused += 1;
            assert!(passes.admit(peer(3)).is_none(), "{round}");
            assert_eq!(passes.door().counts().refused, refused);
            held.iter_mut().for_each(|pass| pass.admitted.record(Outcome::Authenticated));
        }
        // Of all there are as many as was said.
        assert_eq!(passes.door().counts().connections, 6);
        assert!(passes.admit(peer(4)).is_none());
        assert_eq!(passes.door().counts().refused, 4);
        held.pop();
        assert!(passes.admit(peer(4)).is_some());
    }

    #[tokio::test]
    async fn one_source_comes_only_so_often() {
        let (passes, clock) = passes(PassLimits { rate: Rate::per_minute(60, 3), ..PassLimits::default() });
        let (one, other) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap());
        let come = |peer| (0..10).filter(|_| passes.admit(peer).is_some()).count();
        assert_eq!((come(one), come(one), come(other)), (3, 0, 3));
        clock.advance(Duration::from_secs(2));
        assert_eq!(come(one), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_after_the_end_loses_the_place() {
        let (mut client, mut near) = tokio::io::duplex(64);
        let (mut far, mut auth) = tokio::io::duplex(64);
        let passing = tokio::time::timeout(2 * FAREWELL, copy(&mut near, &mut far));
        let ends = async {
            auth.write_all(b"bye").await.unwrap();
            drop(auth);
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (passed, heard) = tokio::join!(passing, ends);
        assert!(passed.is_ok(), "it waited for a client that says nothing");
        assert_eq!(heard, b"bye");
    }

    #[tokio::test]
    async fn a_client_that_has_asked_still_gets_its_answer() {
        let (mut client, mut near) = tokio::io::duplex(64);
        let (mut far, mut auth) = tokio::io::duplex(64);
        let ends = async {
            client.write_all(b"ask").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = Vec::new();
            auth.read_to_end(&mut asked).await.unwrap();
            auth.write_all(b"answer").await.unwrap();
            drop(auth);
            let mut answered = Vec::new();
            client.read_to_end(&mut answered).await.unwrap();
            (asked, answered)
        };
        let (passed, (asked, answered)) = tokio::join!(copy(&mut near, &mut far), ends);
        passed.unwrap();
        assert_eq!((asked.as_slice(), answered.as_slice()), (&b"ask"[..], &b"answer"[..]));
    }
}
