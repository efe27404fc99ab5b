//! Watches as answers without an end: one JSON document a line.
//!
//! `{"item":…}` is an item; an empty line says that the connection lives; `{"error":…}` and `{"end":true}` are the last line. A stream that
//! ends without a last line was cut. Nothing is buffered beyond HTTP/2's window: who does not read is, in the end, cut by the source.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use teleport_core::api::{ApiError, ApiResult};
use teleport_core::auth::policy::Operation;
use teleport_core::task::Shutdown;
use tokio::time::{Instant, MissedTickBehavior};

use super::connection::Guard;
use super::figures::{ApiFigures, Watching};
use crate::rpc::http::{Answer, ErrorBody};

/// How often a line is sent at least, and how often it is looked whether the caller may still watch.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Why a watch may have to end.
pub(super) struct Ends {
    guard: Arc<Guard>,
    shutdown: Shutdown,
    figures: ApiFigures,
}

impl Ends {
    pub(super) fn new(guard: Arc<Guard>, shutdown: Shutdown, figures: ApiFigures) -> Self {
        Self { guard, shutdown, figures }
    }

    fn may_go_on(&self) -> bool {
        self.guard.still_accepted()
    }
}

#[derive(Serialize)]
struct ItemLine<T> {
    item: T,
}

#[derive(Serialize)]
struct EndLine {
    end: bool,
}

struct Watch<T> {
    items: BoxStream<'static, ApiResult<T>>,
    ends: Ends,
    tick: tokio::time::Interval,
    over: bool,
    _counted: Watching,
}

impl<T: Serialize> Watch<T> {
    async fn next_line(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let item = tokio::select! {
            biased;
            () = self.ends.shutdown.draining() => None,
            item = self.items.next() => item,
            _ = self.tick.tick() => {
                return Some(if self.ends.may_go_on() { Bytes::from_static(b"\n") } else { self.last(denied()) });
            }
        };
        self.tick.reset();
        Some(match item {
            Some(_) if !self.ends.may_go_on() => self.last(denied()),
            Some(Ok(item)) => match line(&ItemLine { item }) {
                Ok(line) => line,
                Err(error) => self.last(ErrorBody::new(&ApiError::internal(error))),
            },
            Some(Err(error)) => self.last(ErrorBody::new(&error)),
            None => self.last(EndLine { end: true }),
        })
    }

    fn last(&mut self, document: impl Serialize) -> Bytes {
        self.over = true;
        line(&document).unwrap_or_default()
    }
}

fn denied() -> ErrorBody {
    ErrorBody::new(&ApiError::denied())
}

fn line<T: Serialize>(document: &T) -> serde_json::Result<Bytes> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    Ok(line.into())
}

/// The answer that is a watch.
pub(super) fn stream<T: Serialize + Send + 'static>(
    operation: Operation,
    items: BoxStream<'static, ApiResult<T>>,
    ends: Ends,
) -> Answer {
    let mut tick = tokio::time::interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let counted = ends.figures.watch(operation.name());
    let watch = Watch { items, ends, tick, over: false, _counted: counted };
    let lines = stream::unfold(watch, |mut watch| async move {
        let line = watch.next_line().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), watch))
    });
    let mut answer = Response::new(StreamBody::new(lines).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}
