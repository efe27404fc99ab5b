//! The collector, by the HTTP client that object storage is reached by as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use teleport_backend::recordings::s3::{HttpTransport, TransportError};
use teleport_core::task::TaskScope;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::daemon::recordings::Https;

/// How long an exchange may take.
const EXCHANGE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LONGEST_ANSWER: usize = 64 << 10;

/// Where traces are sent. The thread of the SDK that asks has no runtime: requests are tasks of ours.
#[derive(Debug)]
pub(super) struct Collector {
    https: Https,
    runtime: Handle,
    tasks: TaskScope,
    /// Whether the log was told that nothing gets there.
    failing: AtomicBool,
}

impl Collector {
    pub(super) fn new(runtime: Handle) -> Result<Self> {
        let https = Https::new()?.with_timeout(EXCHANGE);
        Ok(Self { https, runtime, tasks: TaskScope::new(), failing: AtomicBool::new(false) })
    }

    /// Tells the log of the first failure, and of its end: not of each that follows.
    fn note(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let failure = match outcome {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers with HTTP {}", answer.status())),
            Err(error) => Some(chain(error.as_ref())),
        };
        match failure {
            Some(reason) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%reason, "the collector of traces takes none: those that do not wait for long are lost until it does");
            }
            None if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("the collector takes traces again");
            }
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (sender, receiver) = oneshot::channel();
        let https = self.https.clone();
        let exchange = async move {
            // The SDK may have given up.
            let _ = sender.send(https.send(request, LONGEST_ANSWER).await);
        };
        {
            let _here = self.runtime.enter();
            self.tasks.spawn(exchange);
        }
        let outcome = match receiver.await {
            Ok(outcome) => outcome.map_err(|error: TransportError| HttpError::from(error)),
            Err(ended) => Err(ended.into()),
        };
        self.note(&outcome);
        outcome
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
