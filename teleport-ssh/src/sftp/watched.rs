//! A session that is watched: its operations go to the audit log before the client hears of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::watch::{Totals, Watch};
use crate::session::FileReporter;

/// Watches one session.
#[derive(Debug)]
pub(crate) struct Watched {
    // Of one task, so it is never waited for.
    watch: Mutex<Watch>,
    reporter: FileReporter,
}

impl Watched {
    pub(crate) fn new(reporter: FileReporter) -> Self {
        Self { watch: Mutex::default(), reporter }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what the server is about to get.
    pub(crate) fn client(&self, pieces: &[Bytes]) {
        let mut watch = self.watch();
        for piece in pieces {
            watch.client(piece);
        }
    }

    /// Takes note of what the client is about to get, and tells what was done.
    pub(crate) async fn server(&self, piece: &[u8]) {
        let done = {
            let mut watch = self.watch();
            watch.server(piece);
            watch.done()
        };
        for operation in done {
            self.reporter.done(operation).await;
        }
    }

    /// Tells what is left to tell.
    pub(crate) async fn finish(self) {
        let watch = self.watch.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (left, Totals { files, read, written }) = watch.finish();
        for operation in left {
            self.reporter.done(operation).await;
        }
        self.reporter.totals(files, read, written).await;
    }
}
