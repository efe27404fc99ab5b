//! The accept loop of every listener: it never waits for a peer, survives what `accept` can report, owns the tasks of its
//! connections, and keeps strangers within limits.

pub mod limits;
mod lobby;
mod ports;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use teleport_core::entropy::{Entropy, EntropyExt};
use teleport_core::task::{Shutdown, TaskScope};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use self::limits::{Gate, Limits, Outcome, Startup};
pub(crate) use self::lobby::Lobby;
pub(crate) use self::ports::Ports;

/// Connections that the system keeps until they are accepted.
const BACKLOG: i32 = 1024;
/// What a client reads that is refused because there are too many.
pub(crate) const REFUSAL: &[u8] = b"Exceeded MaxStartups\r\n";
/// The longest pause after an error of `accept`.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
#[non_exhaustive]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// The reason.
    pub source: io::Error,
}

/// Opens a port. It listens at once; accepting begins with [`serve`].
///
/// # Errors
/// [`BindError`], for instance when the port is in use.
///
/// # Panics
/// Outside a tokio runtime with I/O enabled.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )?;
        // A port whose last owner's connections are still winding up is free.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|source| BindError { address, source })
}

/// What a listener has seen.
#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    panics: AtomicU64,
}

/// A snapshot of a listener's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections handed to the handler.
    pub accepted: u64,
    /// Connections refused by the limits.
    pub refused: u64,
    /// Connections whose task panicked: defects.
    pub panics: u64,
    /// Connections now.
    pub connections: u32,
    /// Connections now that have not authenticated, without those of exempt addresses.
    pub startups: u32,
}

/// The limits and counters of one listener, shared by all its connections.
#[derive(Clone)]
pub struct Door(Arc<Shared>);

struct Shared {
    gate: Mutex<Gate>,
    counters: Counters,
    entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.counts()).finish()
    }
}

impl Door {
    /// For a new listener.
    pub fn new(limits: Limits, entropy: Arc<dyn Entropy>) -> Self {
        let gate = Mutex::new(Gate::new(limits));
        Self(Arc::new(Shared { gate, counters: Counters::default(), entropy }))
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.0.counters;
        let gate = self.gate();
        Counts {
            accepted: counters.accepted.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            panics: counters.panics.load(Ordering::Relaxed),
            connections: gate.connections(),
            startups: gate.startups(),
        }
    }

    /// These addresses are exempt from now on, beside those of [`Limits::exempt`].
    pub(crate) fn exempt(&self, proxies: &[IpAddr]) {
        self.gate().exempt(proxies);
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.0.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Door::admit`], with a word for honest clients who are refused, if the socket takes it at once; nobody waits for it.
    fn admit_or_say(&self, address: IpAddr, stream: &TcpStream) -> Option<Admitted> {
        let admitted = self.admit(address);
        if admitted.is_none() {
            let _ = stream.try_write(REFUSAL);
        }
        admitted
    }

    /// Somebody was refused for a reason that is not known here.
    pub(crate) fn count_refusal(&self) {
        self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets a connection in, or counts its refusal.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Admitted> {
        // Without dice the strictest: as soon as refusals begin, all are refused.
        let dice = self.0.entropy.bytes().map_or(0, u32::from_le_bytes);
        let admitted = self.gate().admit(address, Instant::now(), dice);
        match admitted {
            Ok(startup) => {
                self.0.counters.accepted.fetch_add(1, Ordering::Relaxed);
                Some(Admitted {
                    door: self.clone(),
                    startup,
                    outcome: Outcome::NoAttempt,
                    crashed: AtomicBool::new(false),
                })
            }
            Err(reason) => {
                self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%address, ?reason, "connection refused");
                None
            }
        }
    }
}

/// One connection's place among the limits; dropping it gives the place back.
#[derive(Debug)]
pub struct Admitted {
    door: Door,
    startup: Startup,
    outcome: Outcome,
    crashed: AtomicBool,
}

impl Admitted {
    /// The beginning went like this. After [`Outcome::Authenticated`] the connection no longer counts as a stranger's.
    pub fn record(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        if outcome == Outcome::Authenticated {
            self.door.gate().started(&mut self.startup, outcome, Instant::now());
        }
    }

    /// The handling of this connection failed by a defect. Counted once for a connection.
    pub fn crashed(&self) {
        if !self.crashed.swap(true, Ordering::Relaxed) {
            self.door.0.counters.panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it comes from an address that is exempt: a proxy's, behind which there are many.
    pub(crate) fn is_exempt(&self) -> bool {
        self.startup.is_exempt()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.crashed();
        }
        let crashed = self.crashed.load(Ordering::Relaxed);
        let outcome = if crashed { Outcome::Crashed } else { self.outcome };
        self.door.gate().ended(self.startup, outcome, Instant::now());
    }
}

/// A connection for a handler.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The connection, with Nagle's algorithm off.
    pub stream: TcpStream,
    /// The other side.
    pub peer: SocketAddr,
    /// This side.
    pub local: SocketAddr,
    /// Its place among the limits; to be kept as long as the connection lives.
    pub admitted: Admitted,
}

/// Accepts connections until `shutdown` drains, and waits for their handlers until it aborts. Each connection is handled in
/// a task of its own that ends with this future at the latest; a panic ends one connection and is counted.
///
/// Dropping the future ends everything at once.
pub async fn serve<H, F>(listener: TcpListener, door: Door, shutdown: Shutdown, handler: H)
where
    H: Fn(Accepted) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    accept(listener, |_| Some(&door), shutdown, handler).await;
}

/// [`serve`] behind load balancers that say where their clients are.
pub(crate) async fn serve_behind<H, F>(
    listener: TcpListener,
    (lobby, door): (Lobby, Door),
    shutdown: Shutdown,
    handler: H,
) where
    H: Fn(Accepted) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    if !lobby.is_open() {
        return serve(listener, door, shutdown, handler).await;
    }
    let (through, to) = (lobby.clone(), door.clone());
    let lead_in = move |accepted| {
        let (lobby, door, handler) = (through.clone(), to.clone(), handler.clone());
        async move {
            if let Some(accepted) = lobby.lead_in(accepted, &door).await {
                handler(accepted).await;
            }
        }
    };
    accept(listener, |peer| lobby.door(&door, peer), shutdown, lead_in).await;
}

async fn accept<'a, H, F>(
    listener: TcpListener,
    door: impl Fn(IpAddr) -> Option<&'a Door>,
    shutdown: Shutdown,
    handler: H,
) where
    H: Fn(Accepted) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let scope = TaskScope::new();
    let mut backoff = Duration::ZERO;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.draining() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = Duration::ZERO;
                if let Some(accepted) = door(peer.ip()).and_then(|door| welcome(stream, peer, door)) {
                    scope.spawn(handler(accepted));
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: those who are here finish, and then there is room again.
                backoff = (backoff * 2).clamp(Duration::from_millis(5), MAX_BACKOFF);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    ?backoff,
                    "cannot accept connections"
                );
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    () = shutdown.draining() => {}
                }
            }
        }
    }
    drop(listener);
    tokio::select! {
        () = scope.join() => {}
        () = shutdown.aborted() => scope.abort().await,
    }
}

fn welcome(stream: TcpStream, peer: SocketAddr, door: &Door) -> Option<Accepted> {
    let admitted = door.admit_or_say(peer.ip(), &stream)?;
    // The peer may be gone already; then the handler will see it.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok()?;
    Some(Accepted { stream, peer, local, admitted })
}

/// Whether an error of `accept` is about the connection that was to be accepted, and not about this process.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests;
