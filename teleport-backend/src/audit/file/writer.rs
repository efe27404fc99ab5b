//! The one thread that appends: group commit.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::ledger::{Ledger, WriteError};

/// The most submissions of one sync.
const MAX_GROUP: usize = 512;

/// How long to wait for the next submission while more are expected: those whose events were written last have just
/// been answered, and with the first of their next alone on its way they would share every second sync only.
const GATHER: Duration = Duration::from_micros(150);

/// An event that only lacks its number and its digest.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) day: String,
    pub(super) json: Vec<u8>,
}

pub(super) struct Submission {
    pub(super) entries: Vec<Rendered>,
    pub(super) reply: oneshot::Sender<Result<(), WriteError>>,
    /// Given back when the submission is answered.
    pub(super) _permit: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    ledger: Ledger,
    submissions: mpsc::Receiver<Submission>,
}

impl Writer {
    pub(super) const fn new(ledger: Ledger, submissions: mpsc::Receiver<Submission>) -> Self {
        Self { ledger, submissions }
    }

    pub(super) fn run(mut self) {
        let mut expected = 1;
        loop {
            let first = match self.ledger.wakes_after() {
                None => self.submissions.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(after) => self.submissions.recv_timeout(after),
            };
            let first = match first {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.ledger.tick();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut group = vec![first];
            while group.len() < MAX_GROUP {
                let next = if group.len() < expected {
                    self.submissions.recv_timeout(GATHER).ok()
                } else {
                    self.submissions.try_recv().ok()
                };
                match next {
                    Some(next) => group.push(next),
                    None => break,
                }
            }
            expected = group.len();
            let result = self.ledger.write(group.iter().flat_map(|submission| &submission.entries));
            if let Err(error) = &result {
                let error: &dyn std::error::Error = error;
                tracing::error!(error, "audit events were lost");
            }
            for submission in group {
                // Nobody listens if the future of `emit` was dropped.
                let _ = submission.reply.send(result.clone());
            }
            self.ledger.tick();
        }
        self.ledger.stop();
    }
}
