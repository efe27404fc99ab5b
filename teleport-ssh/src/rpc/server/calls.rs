//! Calls, each in a task of the server's own.
//!
//! The library that speaks HTTP drops what it runs for a request as soon as the client takes the request back or goes. A call that is
//! dropped between its act and its audit event has acted and not told of it: so what has begun runs to its end, whoever waits.

use std::io;
use std::sync::Arc;

use hyper::body::Incoming;
use teleport_core::api::ApiError;
use teleport_core::task::{Shutdown, TaskScope};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tracing::{Instrument, field};

use super::connection::{Guard, Place};
use super::dispatch::dispatch;
use super::figures::ApiFigures;
use super::watch::Ends;
use crate::rpc::http::{Answer, refuse};
use crate::rpc::routes::Route;
use crate::rpc::{Busy, trace};

/// The calls of one connection. Each holds a permit until it ends, so that who takes requests back has no more of them running than
/// who waits; and the connection's place at the door, so that who comes anew each time has not, either.
pub(super) struct Calls {
    tasks: TaskScope,
    most: u32,
    permits: Arc<Semaphore>,
    place: Arc<Place>,
    guard: Arc<Guard>,
    shutdown: Shutdown,
    figures: ApiFigures,
}

impl Calls {
    /// Up to `most` at the same time, in `tasks`.
    pub(super) fn new(
        tasks: TaskScope,
        most: u32,
        place: Place,
        guard: Arc<Guard>,
        shutdown: Shutdown,
        figures: ApiFigures,
    ) -> Self {
        Self {
            tasks,
            most,
            permits: Arc::new(Semaphore::new(most as usize)),
            place: Arc::new(place),
            guard,
            shutdown,
            figures,
        }
    }

    /// How many there may be at the same time.
    pub(super) const fn most(&self) -> u32 {
        self.most
    }

    /// Carries out a call. Dropping the future before there is a permit for it leaves nothing begun; later only the answer is lost.
    pub(super) async fn run(
        &self,
        route: Route,
        body: Incoming,
        busy: Busy,
        traced: Option<String>,
    ) -> Answer {
        let lost = || refuse(&ApiError::internal(io::Error::other("the call did not come to its end")));
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return lost() };
        let (guard, place, shutdown) =
            (Arc::clone(&self.guard), Running(Arc::clone(&self.place)), self.shutdown.clone());
        let (figures, operation, began) = (self.figures.clone(), route.operation().name(), Instant::now());
        let (sender, receiver) = oneshot::channel();
        let span = tracing::info_span!("call", otel.kind = "server", operation, otel.status_code = field::Empty, error.type = field::Empty);
        trace::join(&span, traced.as_deref());
        let seen = span.clone();
        let call = async move {
            let ends = Ends::new(Arc::clone(&guard), shutdown, figures.clone());
            let answer = dispatch(guard.api(), route, body, ends).await;
            figures.count(operation, began.elapsed(), answer.as_ref().err().map(ApiError::kind));
            if let Err(error) = &answer {
                trace::failed(&seen, error);
            }
            let answer = answer.unwrap_or_else(|error| refuse(&error));
            drop((permit, place, busy));
            // Nobody may be waiting any more.
            let _ = sender.send(answer);
        };
        self.tasks.spawn(call.instrument(span));
        receiver.await.unwrap_or_else(|_| lost())
    }
}

/// A call that runs. A panic ends its task alone: the connection and its place live on and would not know of it.
struct Running(Arc<Place>);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.crashed();
        }
    }
}
