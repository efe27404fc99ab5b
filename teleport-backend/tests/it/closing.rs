//! Closing a driver for servers while it writes.

use std::sync::Arc;

use bytes::Bytes;
use teleport_backend::open_remote;
use teleport_core::clock::SystemClock;
use teleport_core::storage::{Backend, BackendExt, Batch, Key, Prefix, Revision, StorageError, WatchEvent};
use tokio::time::Instant;

use crate::remote::said;
use crate::servers::proxy::{Mode, Proxy};
use crate::servers::{Etcd, PATIENCE, Postgres, remote};

async fn open(url: &str) -> Arc<dyn Backend> {
    let until = Instant::now() + PATIENCE;
    loop {
        match open_remote(url, Arc::new(SystemClock::new()), remote()).await {
            Ok(backend) => return backend,
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
    }
}

/// Begins a write whose answer does not come, sees that the server has done it, and closes. `meanwhile` runs when closing has begun.
async fn close_while_writing(
    direct: &str,
    through: &str,
    proxy: &Proxy,
    meanwhile: impl Future<Output = ()>,
) -> Result<Revision, StorageError> {
    let (direct, through) = (open(direct).await, open(through).await);
    // From then on the connection of the writer is there.
    through.delete_range(&Prefix::root()).await.unwrap();
    through.commit(Batch::new()).await.unwrap();
    let mut watch = direct.watch(&Prefix::root()).await.unwrap();
    assert!(matches!(watch.next().await, Ok(WatchEvent::Ready { .. })));
    proxy.set(Mode::StallAnswersTo(b"written"));
    let write = async { through.put(&Key::new("written").unwrap(), Bytes::new(), None).await };
    let close = async {
        let told = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
        assert!(matches!(told, Ok(WatchEvent::Put(_))), "{told:?}");
        // In this order: closing has begun when the rest happens.
        tokio::join!(through.close(), meanwhile);
    };
    let (result, ()) = tokio::join!(write, close);
    let refused = through.put(&Key::new("late").unwrap(), Bytes::new(), None).await;
    assert!(matches!(refused, Err(StorageError::Unavailable { .. })), "{refused:?}");
    assert!(direct.get(&Key::new("late").unwrap()).await.unwrap().is_none());
    direct.close().await;
    result
}

async fn both_ways(port: u16, url: impl Fn(u16, u64) -> String) {
    let proxy = Proxy::to(port).await;
    // The answer comes late, and is heard.
    let direct = url(port, 60);
    let through = url(proxy.port, 60);
    let released = async { proxy.set(Mode::Pass) };
    close_while_writing(&direct, &through, &proxy, released).await.unwrap();
    // It never comes: that the backend was closed would be half the truth.
    let proxy = Proxy::to(port).await;
    let through = url(proxy.port, 5);
    let result = close_while_writing(&direct, &through, &proxy, async {});
    match tokio::time::timeout(2 * PATIENCE, result).await.expect("closing ends") {
        Err(StorageError::Unavailable { source }) => {
            assert!(said(&*source).contains("not known"), "{source:?}")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_ends_its_commits() {
    let etcd = Etcd::start().await;
    let url = |port, timeout: u64| format!("etcd://127.0.0.1:{port}/closing?timeout={timeout}");
    Box::pin(both_ways(etcd.port, url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_ends_its_commits() {
    let server = Postgres::start().await;
    let url = |port, timeout: u64| {
        format!("postgres://tester@127.0.0.1:{port}/state?schema=closing&timeout={timeout}")
    };
    Box::pin(both_ways(server.port, url)).await;
}
