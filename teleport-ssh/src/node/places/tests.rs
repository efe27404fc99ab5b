#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use std::collections::HashSet;

use async_trait::async_trait;
use teleport_core::api::{ApiError, ApiResult};
use teleport_core::entropy::SystemEntropy;
use teleport_core::task::TaskScope;

use super::*;

/// What the auth service knows, and how it is.
#[derive(Debug, Default)]
struct Auth {
    held: Mutex<HashSet<ConnectionId>>,
    calls: Mutex<Vec<usize>>,
    released: Mutex<Vec<ConnectionId>>,
    away: AtomicBool,
    full: AtomicBool,
    silent: AtomicBool,
}

#[async_trait]
impl ConnectionApi for Auth {
    async fn hold_connections(&self, request: HoldConnections) -> ApiResult<HeldConnections> {
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.away.load(Ordering::SeqCst) {
            return Err(ApiError::unavailable("away"));
        }
        assert!(request.connections.len() <= HoldConnections::MAX);
        self.calls.lock().unwrap().push(request.connections.len());
        let ids = request.connections.iter().map(|claim| claim.id);
        if self.full.load(Ordering::SeqCst) {
            return Ok(HeldConnections { refused: ids.collect() });
        }
        self.held.lock().unwrap().extend(ids);
        Ok(HeldConnections::default())
    }

    async fn release_connections(&self, request: ReleaseConnections) -> ApiResult<()> {
        if self.away.load(Ordering::SeqCst) {
            return Err(ApiError::unavailable("away"));
        }
        assert!(request.connections.len() <= HoldConnections::MAX);
        self.released.lock().unwrap().extend(request.connections.iter().map(|(_, id)| *id));
        let mut held = self.held.lock().unwrap();
        request.connections.iter().for_each(|(_, id)| {
            held.remove(id);
        });
        Ok(())
    }
}

fn start() -> (Arc<Auth>, Places, TaskScope) {
    let auth = Arc::new(Auth::default());
    let api: Arc<dyn ConnectionApi> = auth.clone();
    let places = Places::new(api, Arc::new(SystemEntropy::new()));
    let scope = TaskScope::new();
    let attended = places.clone();
    scope.spawn(async move { attended.attend().await });
    (auth, places, scope)
}

async fn take(places: &Places) -> Result<Place, NoPlace> {
    places.take(&"alice".parse().unwrap(), 3).await
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_as_long_as_the_connection_and_given_back_once() {
    let (auth, places, _scope) = start();
    let place = take(&places).await.unwrap();
    let long = CONNECTION_LEASE * 20;
    assert!(tokio::time::timeout(long, place.lost()).await.is_err());
    let prolonged = auth.calls.lock().unwrap().len() - 1;
    let expected = long.as_secs() / PROLONG.as_secs();
    assert!((expected - 2..=expected).contains(&(prolonged as u64)), "{prolonged} of {expected}");
    assert_eq!(auth.held.lock().unwrap().len(), 1);
    place.give_back();
    drop(place);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(auth.held.lock().unwrap().is_empty());
    assert!(places.state().held.is_empty());
    assert_eq!(auth.released.lock().unwrap().len(), 1);
    // Nothing is asked for what is over.
    let calls = auth.calls.lock().unwrap().len();
    tokio::time::sleep(long).await;
    assert_eq!(auth.calls.lock().unwrap().len(), calls);
}

#[tokio::test(start_paused = true)]
async fn many_places_are_prolonged_in_few_calls() {
    let (auth, places, _scope) = start();
    let mut all = Vec::new();
    for _ in 0..HoldConnections::MAX + 10 {
        all.push(take(&places).await.unwrap());
    }
    auth.calls.lock().unwrap().clear();
    tokio::time::sleep(PROLONG + Duration::from_secs(1)).await;
    assert_eq!(*auth.calls.lock().unwrap(), [HoldConnections::MAX, 10]);
    drop(all);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(auth.held.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_the_auth_service_there_is_no_place() {
    let (auth, places, _scope) = start();
    auth.away.store(true, Ordering::SeqCst);
    assert_eq!(take(&places).await.unwrap_err(), NoPlace::Unknown);
    auth.away.store(false, Ordering::SeqCst);
    auth.silent.store(true, Ordering::SeqCst);
    let asked = Instant::now();
    assert_eq!(take(&places).await.unwrap_err(), NoPlace::Unknown);
    assert_eq!(asked.elapsed(), ANSWER_LIMIT);
    auth.silent.store(false, Ordering::SeqCst);
    // What may have been taken is given back.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let released = auth.released.lock().unwrap().len();
    auth.full.store(true, Ordering::SeqCst);
    assert_eq!(take(&places).await.unwrap_err(), NoPlace::TooMany { most: 3 });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(auth.released.lock().unwrap().len(), released, "nothing was taken");
}

/// Not a moment longer than others believe that the place is taken.
#[tokio::test(start_paused = true)]
async fn a_silent_auth_service_ends_connections_when_their_places_have_run_out() {
    let (auth, places, _scope) = start();
    let place = take(&places).await.unwrap();
    // An absence that is short enough is not noticed.
    auth.away.store(true, Ordering::SeqCst);
    assert!(tokio::time::timeout(CONNECTION_LEASE - RETRY, place.lost()).await.is_err());
    auth.away.store(false, Ordering::SeqCst);
    assert!(tokio::time::timeout(CONNECTION_LEASE, place.lost()).await.is_err());

    let calls = auth.calls.lock().unwrap().len();
    while auth.calls.lock().unwrap().len() == calls {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    auth.away.store(true, Ordering::SeqCst);
    let prolonged = Instant::now();
    assert_eq!(place.lost().await, NoPlace::Unknown);
    let after = prolonged.elapsed();
    assert!(after <= CONNECTION_LEASE && after + Duration::from_millis(10) > CONNECTION_LEASE, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_somebody_else_took_is_lost() {
    let (auth, places, _scope) = start();
    let place = take(&places).await.unwrap();
    auth.full.store(true, Ordering::SeqCst);
    assert_eq!(place.lost().await, NoPlace::TooMany { most: 3 });
    assert_eq!(place.lost().await, NoPlace::TooMany { most: 3 }, "and stays so");
    assert!(places.state().held.is_empty());
    // The test's service knows of it still.
    drop(place);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(auth.held.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_before_the_answer_leaves_no_place_behind() {
    let (auth, places, _scope) = start();
    auth.silent.store(true, Ordering::SeqCst);
    assert!(tokio::time::timeout(Duration::from_secs(1), take(&places)).await.is_err());
    // What the call may have taken is given back; here it had taken nothing.
    auth.away.store(true, Ordering::SeqCst);
    assert_eq!(places.state().ended.len(), 1);
    assert!(places.state().held.is_empty());
}
