#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use teleport_core::access::RoleSet;
use teleport_core::api::ApiResult;
use teleport_core::cert::TrustBundle;
use teleport_core::id::ClusterName;
use teleport_core::task::TaskScope;
use teleport_core::testing::RepeatableEntropy;
use tokio::sync::mpsc;

use super::*;

fn view() -> AccessView {
    let trust = TrustBundle {
        cluster: ClusterName::new("example.com").unwrap(),
        user_ca: Vec::new(),
        openssh_ca: Vec::new(),
        host_ca: Vec::new(),
        user_tls_ca: Vec::new(),
        host_tls_ca: Vec::new(),
    };
    AccessView::new(trust, RoleSet::default())
}

type Views = mpsc::Receiver<ApiResult<AccessView>>;

/// Gives out the streams that the test puts in.
#[derive(Debug)]
struct Streams(tokio::sync::Mutex<mpsc::Receiver<Views>>);

#[async_trait]
impl TrustApi for Streams {
    async fn trust(&self) -> ApiResult<TrustBundle> {
        Ok(view().trust)
    }

    async fn watch_access(&self) -> ApiResult<BoxStream<'static, ApiResult<AccessView>>> {
        match self.0.lock().await.recv().await {
            Some(views) => Ok(futures_util::stream::unfold(views, async |mut views| {
                let view = views.recv().await?;
                Some((view, views))
            })
            .boxed()),
            None => Err(ApiError::denied()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn fails_closed_without_a_view_and_after_too_long_a_silence() {
    let (give, streams) = mpsc::channel(4);
    let api = Arc::new(Streams(tokio::sync::Mutex::new(streams)));
    let cache = AccessCache::new(Duration::from_secs(60));
    let scope = TaskScope::new();
    scope.spawn(cache.follow(api, Arc::new(RepeatableEntropy::new(1)), Shutdown::new()));
    assert_eq!(cache.usable().unwrap_err(), NoView::Missing);

    let (first, views) = mpsc::channel(1);
    give.send(views).await.unwrap();
    first.send(Ok(view())).await.unwrap();
    cache.ready().await;
    assert!(cache.usable().is_ok());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(cache.usable().is_ok(), "as long as the stream is open the view is fresh");

    drop(first);
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(cache.usable().is_ok());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(matches!(cache.usable(), Err(NoView::Stale { .. })));

    let (second, views) = mpsc::channel(1);
    give.send(views).await.unwrap();
    let seen = cache.0.versions.subscribe();
    second.send(Ok(view())).await.unwrap();
    let mut seen = seen;
    seen.changed().await.unwrap();
    assert!(cache.usable().is_ok());
    assert_eq!(cache.age(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn strict_ends_with_the_stream() {
    let cache = AccessCache::new(Duration::ZERO);
    cache.put(view());
    assert!(cache.usable().is_ok());
    cache.lost();
    assert!(matches!(cache.usable(), Err(NoView::Stale { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_removed_decides_nothing_any_more() {
    let (give, streams) = mpsc::channel(4);
    let api = Arc::new(Streams(tokio::sync::Mutex::new(streams)));
    let cache = AccessCache::new(Duration::from_secs(60));
    let scope = TaskScope::new();
    scope.spawn(cache.follow(api, Arc::new(RepeatableEntropy::new(1)), Shutdown::new()));
    let (first, views) = mpsc::channel(1);
    give.send(views).await.unwrap();
    first.send(Ok(view())).await.unwrap();
    cache.ready().await;
    let mut told = Box::pin(cache.evicted());
    assert!(futures_util::poll!(&mut told).is_pending());
    let mut waiting = Box::pin(cache.wait_for(|view| !view.proxies.is_empty()));
    assert!(futures_util::poll!(&mut waiting).is_pending());

    first.send(Err(ApiError::evicted())).await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), told).await.expect("it is told at once");
    assert_eq!(cache.usable().unwrap_err(), NoView::Evicted);
    assert!(cache.current().is_none());
    tokio::time::timeout(Duration::from_secs(1), cache.evicted()).await.expect("also who asks later is told");
    // Nobody waits for a view that cannot come.
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.expect("an end").is_none());
    assert!(tokio::time::timeout(Duration::from_secs(1), cache.ready()).await.expect("an end").is_none());
    // It does not ask again: nobody would answer otherwise.
    scope.join().await;
    // And nothing brings it back.
    cache.put(view());
    assert_eq!(cache.usable().unwrap_err(), NoView::Evicted);
}

#[test]
fn jitter_stays_between_half_and_all() {
    let entropy = RepeatableEntropy::new(3);
    let pause = Duration::from_secs(10);
    for _ in 0..1000 {
        let jittered = jitter(pause, &entropy);
        assert!(jittered >= pause / 2 && jittered <= pause, "{jittered:?}");
    }
}
