//! The stream of all changes below the prefix.

use std::sync::Arc;

use teleport_core::storage::{Revision, WatchEvent};

use super::Shared;
use super::client::{EtcdError, Failure};
use super::grpc::{CallError, MAX_ANSWER};
use super::messages::{self, Event, WatchAnswer};
use crate::shared::backoff;
use crate::shared::described::describe;

/// After so many refusals in a row watches end that are told nothing any more.
const REFUSALS: u32 = 3;

/// Follows the changes for as long as it is polled, through lost connections.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut failures = 0;
    while !shared.client.is_closed() {
        let before = shared.hub.revision();
        let failure = follow(&shared).await;
        let after = shared.hub.revision();
        match failure {
            Failure::Closed(_) => return,
            Failure::Compacted | Failure::AnswerTooLong => restart(&shared, &failure).await,
            // It would be met again and again. Whoever lists hears of it, if it is still there.
            Failure::Etcd(EtcdError::Damaged { ref key }) => {
                tracing::error!(%key, "etcd holds an item that this program did not write");
                restart(&shared, &failure).await;
            }
            Failure::Etcd(error) => {
                if failures == 0 || after != before {
                    tracing::warn!(error = %describe(&error), "the stream of changes of etcd was interrupted");
                }
                // A stream is refused in another way than a call if the login has run out; a call renews it.
                let asked = shared.range(&shared.layout.format(), b"", 1, 0).await;
                let is_refused = match asked {
                    Err(Failure::Etcd(error)) => !error.is_passing(),
                    _ => failures >= REFUSALS && after == before && !error.is_passing(),
                };
                if is_refused {
                    // Nobody waits for what may never come: whoever watches lists again, and hears the reason.
                    shared.hub.restart(after);
                }
            }
        }
        failures = if after == before { failures + 1 } else { 0 };
        tokio::time::sleep(backoff::wait(shared.client.remote().entropy(), failures)).await;
    }
}

/// Changes may have happened that nobody can tell any more: all watches end.
async fn restart(shared: &Shared, reason: &Failure) {
    match shared.range(&shared.layout.format(), b"", 1, 0).await {
        Ok(answer) => {
            tracing::warn!(%reason, "changes cannot be followed up; whoever watches lists again");
            shared.hub.restart(Revision::from_u64(answer.header.revision));
            shared.published.send_replace(answer.header.revision);
        }
        Err(error) => tracing::warn!(%error, "etcd cannot be asked for its newest revision"),
    }
}

/// Publishes what comes behind the last revision that was published. Returns why it has ended.
async fn follow(shared: &Shared) -> Failure {
    let (start, end) = shared.layout.all();
    let from = shared.hub.revision().as_u64();
    let mut answers = match shared.client.stream(&messages::watch(&start, &end, from + 1)).await {
        Ok(answers) => answers,
        Err(failure) => return failure,
    };
    let mut held = Vec::new();
    loop {
        let answer = match answers.next().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return interrupted(shared, "etcd has ended the stream".to_owned()),
            Err(CallError::TooLong) => return Failure::AnswerTooLong,
            Err(error) => return interrupted(shared, describe(&error)),
        };
        let answer = match messages::watch_answer(answer) {
            Ok(answer) => answer,
            Err(error) => return error.into(),
        };
        if answer.created && answer.header.revision < from {
            // Either the store was restored from a backup, or this server lags behind the others, which the others know.
            match shared.range(&shared.layout.format(), b"", 1, 0).await {
                Ok(newest) if newest.header.revision < from => return Failure::Compacted,
                Ok(_) => {}
                Err(failure) => return failure,
            }
        }
        if let Err(failure) = take(shared, answer, &mut held) {
            return failure;
        }
    }
}

fn interrupted(shared: &Shared, reason: String) -> Failure {
    EtcdError::Unreachable { servers: shared.client.config.to_string(), reason }.into()
}

fn refused(reason: String) -> Failure {
    EtcdError::Refused { reason }.into()
}

/// One answer of the stream. `held` are the events of a revision that may not be whole yet.
fn take(shared: &Shared, answer: WatchAnswer, held: &mut Vec<Event>) -> Result<(), Failure> {
    if answer.compacted != 0 {
        return Err(Failure::Compacted);
    }
    if answer.canceled {
        return Err(refused(answer.reason));
    }
    shared.client.check(answer.header)?;
    held.extend(answer.events);
    // No batch of ours is as long, and nobody knows when it would end.
    if answer.fragment && held.iter().map(Event::len).sum::<usize>() > MAX_ANSWER {
        return Err(Failure::AnswerTooLong);
    }
    let keep = if answer.fragment { held.last().map(|event| event.item.revision) } else { None };
    let ready = held.iter().position(|event| Some(event.item.revision) == keep).unwrap_or(held.len());
    let mut events = Vec::new();
    let mut revision = None;
    for event in held.drain(..ready) {
        let own = event.item.revision;
        if let Some(former) = revision.replace(own).filter(|former| *former != own) {
            publish(shared, former, &mut events);
        }
        events.extend(translate(shared, event)?);
    }
    if let Some(revision) = revision {
        publish(shared, revision, &mut events);
    }
    Ok(())
}

fn publish(shared: &Shared, revision: u64, events: &mut Vec<WatchEvent>) {
    shared.hub.publish(Revision::from_u64(revision), events);
    shared.published.send_replace(revision);
    events.clear();
}

fn translate(shared: &Shared, event: Event) -> Result<Option<WatchEvent>, EtcdError> {
    let Some(key) = shared.layout.key(&event.item.key)? else { return Ok(None) };
    Ok(Some(if event.is_delete {
        WatchEvent::Deleted { key, revision: Revision::from_u64(event.item.revision) }
    } else {
        WatchEvent::Put(shared.layout.parse(event.item)?)
    }))
}
