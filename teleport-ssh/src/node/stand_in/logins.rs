//! Logins under way at servers, of all users together: for a server they all come from one address, the proxy's, and it makes an address wait
//! that begins too many at a time, or whose logins it refuses too often.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use teleport_core::id::{HostId, OsLogin};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

/// How many are under way at one server: OpenSSH begins to hang up at ten (`MaxStartups`).
const AT_A_TIME: usize = 8;
/// How long nobody tries another login that the server is not known to take, after it has refused one. OpenSSH (`PerSourcePenalties`) keeps
/// five seconds for each against the address, and hangs up on everybody from there at fifteen.
const AFTER_REFUSAL: Duration = Duration::from_secs(6);
/// How long anybody waits for a turn.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// Logins of a server that are remembered to be taken.
const MAX_KNOWN: usize = 1024;
/// Servers that are remembered while nobody is there.
const MAX_SERVERS: usize = 10_000;

/// By server.
#[derive(Default)]
pub(super) struct Logins(Mutex<HashMap<HostId, Arc<AtServer>>>);

impl Logins {
    /// Those at one server.
    pub(super) fn at(&self, server: HostId) -> Arc<AtServer> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() >= MAX_SERVERS && !servers.contains_key(&server) {
            servers.retain(|_, server| Arc::strong_count(server) > 1);
        }
        Arc::clone(servers.entry(server).or_default())
    }
}

/// One server's.
pub(super) struct AtServer {
    turns: Arc<Semaphore>,
    /// The logins that it took the last time.
    known: Mutex<HashSet<OsLogin>>,
    /// Whoever tries another one holds it; when the next one may.
    others: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl Default for AtServer {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_A_TIME)), known: Mutex::default(), others: Arc::default() }
    }
}

impl AtServer {
    fn known(&self) -> MutexGuard<'_, HashSet<OsLogin>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a login may be begun; `None` if that takes too long. Cancel safe.
    pub(super) async fn turn(self: &Arc<Self>, login: &OsLogin) -> Option<Turn> {
        timeout(WAIT_LIMIT, self.wait(login)).await.ok().flatten()
    }

    async fn wait(self: &Arc<Self>, login: &OsLogin) -> Option<Turn> {
        let mut other = None;
        if !self.known().contains(login) {
            let guard = Arc::clone(&self.others).lock_owned().await;
            // Whoever had it may have found out that this one is taken.
            if !self.known().contains(login) {
                if let Some(next) = *guard {
                    sleep_until(next).await;
                }
                other = Some(guard);
            }
        }
        let place = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        Some(Turn { server: Arc::clone(self), login: login.clone(), other, _place: place })
    }
}

/// A login that is under way, and counts until this is dropped.
pub(super) struct Turn {
    server: Arc<AtServer>,
    login: OsLogin,
    /// When the server is not known to take it.
    other: Option<OwnedMutexGuard<Option<Instant>>>,
    _place: OwnedSemaphorePermit,
}

impl Turn {
    /// The server has let the user in.
    pub(super) fn taken(self) {
        let mut known = self.server.known();
        if known.len() >= MAX_KNOWN && !known.contains(&self.login) {
            known.clear();
        }
        known.insert(self.login.clone());
    }

    /// The server has refused.
    pub(super) fn refused(mut self) {
        self.server.known().remove(&self.login);
        if let Some(next) = &mut self.other {
            **next = Some(Instant::now() + AFTER_REFUSAL);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use futures_util::FutureExt;

    use super::*;

    fn server(id: u8) -> HostId {
        format!("00000000-0000-4000-8000-0000000000{id:02x}").parse().unwrap()
    }

    fn login(name: &str) -> OsLogin {
        OsLogin::new(name).unwrap()
    }

    /// A server that is known to take this login.
    async fn taking(logins: &Logins, name: &str) -> Arc<AtServer> {
        let server = logins.at(server(1));
        server.turn(&login(name)).await.unwrap().taken();
        server
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_under_way_at_a_server_whoever_they_are() {
        let logins = Logins::default();
        let (one, root) = (taking(&logins, "root").await, login("root"));
        let mut turns = Vec::new();
        for _ in 0..AT_A_TIME {
            turns.push(one.turn(&root).await.unwrap());
        }
        // Somebody else's connection asks for the same server.
        let same = logins.at(server(1));
        let mut next = Box::pin(same.turn(&root));
        assert!((&mut next).now_or_never().is_none());
        // Another server does not wait for this one.
        assert!(logins.at(server(2)).turn(&root).await.is_some());
        turns.pop();
        assert!(next.await.is_some());
        // Nobody waits for ever.
        let began = Instant::now();
        turns.push(same.turn(&root).await.unwrap());
        assert!(same.turn(&root).await.is_none());
        assert_eq!(began.elapsed(), WAIT_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn logins_that_are_refused_come_one_by_one_and_hold_up_nobody_else() {
        let logins = Logins::default();
        let (server, root) = (taking(&logins, "root").await, login("root"));
        let first = server.turn(&login("a")).await.unwrap();
        let (b, c) = (login("b"), login("c"));
        let mut second = Box::pin(server.turn(&b));
        assert!((&mut second).now_or_never().is_none(), "one at a time");
        server.turn(&root).await.unwrap().taken();
        first.refused();
        let began = Instant::now();
        let second = second.await.unwrap();
        assert_eq!(began.elapsed(), AFTER_REFUSAL);
        second.refused();
        // Those who have been let in wait for nothing, until they are refused.
        server.turn(&root).await.unwrap().refused();
        assert_eq!(began.elapsed(), AFTER_REFUSAL);
        server.turn(&root).await.unwrap().taken();
        assert_eq!(began.elapsed(), AFTER_REFUSAL * 2);
        // What came to nothing otherwise is not held against anybody.
        drop(server.turn(&c).await.unwrap());
        assert!(server.turn(&c).await.is_some());
        assert_eq!(began.elapsed(), AFTER_REFUSAL * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_login_goes_on_when_it_was_taken() {
        let logins = Logins::default();
        let (server, root) = (logins.at(server(1)), login("root"));
        let first = server.turn(&root).await.unwrap();
        let waiting = futures_util::future::join_all((0..AT_A_TIME).map(|_| server.turn(&root)));
        let (turns, ()) = tokio::join!(waiting, async { first.taken() });
        // At the same time: nobody has the turn of another.
        assert_eq!(turns.iter().flatten().count(), AT_A_TIME);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let server = Logins::default().at(server(1));
        for number in 0..=MAX_KNOWN {
            server.turn(&login(&format!("user{number}"))).await.unwrap().taken();
        }
        assert_eq!(server.known().len(), 1);
    }
}
