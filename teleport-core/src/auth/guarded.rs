//! Streams for callers: driven by a task of their own, and ended when the caller may not hear more.
//!
//! Who reads a stream may stop for as long as it likes. What nobody polls meanwhile could hold a lock, or a place in the queue for
//! one, of the storage or of a copy in memory, and everybody else would wait for it. So what makes the items is always polled, and
//! waits for its reader only between two of them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use tokio::sync::mpsc;

use super::{Caller, Inner, eviction, locks};
use crate::api::{ApiError, ApiResult};
use crate::cert::HostIdentity;
use crate::id::HostRole;
use crate::task::TaskScope;

/// When the stream of a host ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// When the host is removed. One that is locked has to hear that it is.
    Removed,
    /// When the host is removed or locked.
    RemovedOrLocked,
}

/// The stream as it is for the caller: that of a host ends when the host may not hear more, with the error that says so and before anything
/// that comes later.
pub(super) fn guarded<T: Send + 'static>(
    auth: &Arc<Inner>,
    caller: &Caller,
    until: Until,
    items: impl Stream<Item = ApiResult<T>> + Send + 'static,
) -> BoxStream<'static, ApiResult<T>> {
    let host = caller.host().filter(|host| host.role != HostRole::Auth).cloned();
    let (auth, (sender, receiver)) = (Arc::clone(auth), mpsc::channel(1));
    let tasks = TaskScope::new();
    tasks.spawn(async move { drive(items, ending(&auth, host, until), sender).await });
    // The task ends with the stream.
    stream::unfold((receiver, tasks), |(mut items, task)| async move {
        let item = items.recv().await?;
        Some((item, (items, task)))
    })
    .boxed()
}

/// Resolves when the host may hear nothing more.
async fn ending(auth: &Arc<Inner>, host: Option<HostIdentity>, until: Until) -> ApiError {
    let Some(host) = host else { return std::future::pending().await };
    let locked = async {
        match until {
            Until::Removed => std::future::pending().await,
            Until::RemovedOrLocked => locks::locked(auth, &host).await,
        }
    };
    tokio::select! {
        biased;
        removed = eviction::removed(auth, &host) => removed.err().unwrap_or_else(ApiError::evicted),
        locked = locked => locked.map_or_else(|error| error, |locked| ApiError::locked(&locked)),
    }
}

/// Tells the items until they end or one is an error, or `ending` resolves.
async fn drive<T>(
    items: impl Stream<Item = ApiResult<T>>,
    ending: impl Future<Output = ApiError>,
    reader: mpsc::Sender<ApiResult<T>>,
) {
    let mut items = pin!(items);
    let telling = async {
        while let Some(item) = items.next().await {
            let over = item.is_err();
            if reader.send(item).await.is_err() || over {
                return None::<Infallible>;
            }
        }
        None
    };
    let why = tokio::select! {
        biased;
        why = ending => why,
        _ = telling => return,
    };
    // What waits to be taken was told before; a reader that is gone needs no reason.
    let _ = reader.send(Err(why)).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use tokio::sync::Mutex;

    use super::*;

    /// What looks whether the stream is to end may need what everybody needs, and has its place in the queue for it when the reader stops.
    #[tokio::test]
    async fn a_reader_that_has_stopped_holds_no_lock() {
        let lock = Arc::new(Mutex::new(()));
        let held = Arc::clone(&lock).lock_owned().await;
        let waits = Arc::clone(&lock);
        let looks = async move {
            drop(waits.lock().await);
            std::future::pending().await
        };
        let (sender, reader) = mpsc::channel(1);
        let tasks = TaskScope::new();
        tasks.spawn(drive(stream::repeat_with(|| ApiResult::Ok(1)), looks, sender));
        // It has no room for the second item, and nobody takes the first.
        while reader.is_empty() {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        drop(held);
        let free = tokio::time::timeout(Duration::from_secs(60), lock.lock()).await;
        assert!(free.is_ok(), "whoever reads nothing keeps the lock");
    }

    #[tokio::test]
    async fn the_reason_comes_before_what_comes_later() {
        let (sender, mut reader) = mpsc::channel(1);
        let (end, ended) = tokio::sync::oneshot::channel::<ApiError>();
        let tasks = TaskScope::new();
        let endless = stream::repeat_with(|| ApiResult::Ok(1));
        tasks.spawn(drive(endless, async move { ended.await.unwrap() }, sender));
        assert_eq!(reader.recv().await.unwrap().unwrap(), 1);
        end.send(ApiError::evicted()).unwrap();
        let mut told = 0;
        let why = loop {
            match reader.recv().await.unwrap() {
                Ok(_) => told += 1,
                Err(why) => break why,
            }
        };
        assert!(told <= 3, "what had been made, and no more: {told}");
        assert_eq!(why.kind(), ApiError::evicted().kind());
        assert!(reader.recv().await.is_none());
    }
}
