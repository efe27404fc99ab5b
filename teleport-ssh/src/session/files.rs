//! What a session does to files, on its way to the audit log.

use tokio::sync::mpsc;

use crate::sftp::FileOperation;

/// How many reports may wait for the audit log.
const WAITING: usize = 64;

/// Where a service tells what a client does to files. Clones report of the same session.
#[derive(Clone, Debug)]
pub struct FileReporter(mpsc::Sender<FileReport>);

#[derive(Debug)]
pub(crate) enum FileReport {
    Done(FileOperation),
    Totals { files: u64, read: u64, written: u64 },
}

/// The other end.
#[derive(Debug)]
pub(crate) struct FileReports(mpsc::Receiver<FileReport>);

impl FileReporter {
    pub(crate) fn new() -> (Self, FileReports) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), FileReports(receiver))
    }

    /// Tells of an operation; waits while the audit log is behind. When it is dropped early, nothing is told.
    pub async fn done(&self, operation: FileOperation) {
        // Nobody hears it when the node is stopping.
        let _ = self.0.send(FileReport::Done(operation)).await;
    }

    /// Tells of an operation if there is room now.
    pub(crate) fn note(&self, operation: FileOperation) {
        let _ = self.0.try_send(FileReport::Done(operation));
    }

    /// Tells at the end how many files were opened, and how many bytes the client was given and sent. When it is dropped early,
    /// nothing is told.
    pub async fn totals(&self, files: u64, read: u64, written: u64) {
        let _ = self.0.send(FileReport::Totals { files, read, written }).await;
    }
}

impl FileReports {
    /// The next one; `None` at the end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<FileReport> {
        self.0.recv().await
    }

    /// The next of those that are there already.
    pub(crate) fn left(&mut self) -> Option<FileReport> {
        self.0.try_recv().ok()
    }
}
