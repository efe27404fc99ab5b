//! The one thread that appends: group commit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::file_of;
use crate::shared::files;

/// The most submissions of one sync.
const MAX_GROUP: usize = 512;

/// How long to wait for the next submission while more are expected: those whose events were written last have just
/// been answered, and with the first of their next alone on its way they would share every second sync only.
const GATHER: Duration = Duration::from_micros(150);

pub(super) struct Submission {
    pub(super) days: BTreeMap<String, Vec<u8>>,
    pub(super) reply: oneshot::Sender<Result<(), WriteError>>,
    /// Given back when the submission is answered.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// The log could not be written. Cloned to everyone whose events were in the group.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit file of {day} cannot be written")]
pub(super) struct WriteError {
    day: String,
    source: Arc<io::Error>,
}

pub(super) struct Writer {
    directory: Arc<Path>,
    /// The file that was written last; nearly always the one that comes next.
    open: Option<(String, File)>,
    submissions: mpsc::Receiver<Submission>,
}

impl Writer {
    pub(super) fn new(directory: Arc<Path>, submissions: mpsc::Receiver<Submission>) -> Self {
        Self { directory, open: None, submissions }
    }

    pub(super) fn run(mut self) {
        let mut expected = 1;
        while let Ok(first) = self.submissions.recv() {
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
            let result = self.write(&mut group);
            if let Err(error) = &result {
                let error: &dyn std::error::Error = error;
                tracing::error!(error, "audit events were lost");
            }
            for submission in group {
                // Nobody listens if the future of `emit` was dropped.
                let _ = submission.reply.send(result.clone());
            }
        }
    }

    fn write(&mut self, group: &mut [Submission]) -> Result<(), WriteError> {
        let mut days: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for submission in group {
            for (day, mut lines) in std::mem::take(&mut submission.days) {
                days.entry(day).or_default().append(&mut lines);
            }
        }
        for (day, lines) in days {
            self.append(&day, &lines).map_err(|error| {
                // The file may end within a line now; opening it anew closes that line.
                self.open = None;
                WriteError { day: day.clone(), source: Arc::new(error) }
            })?;
        }
        Ok(())
    }

    fn append(&mut self, day: &str, lines: &[u8]) -> io::Result<()> {
        let file = match self.open.take() {
            Some((open, file)) if open == day => file,
            _ => self.open_file(day)?,
        };
        let (_, file) = self.open.insert((day.to_owned(), file));
        file.write_all(lines)?;
        file.sync_data()
    }

    fn open_file(&self, day: &str) -> io::Result<File> {
        let path = file_of(&self.directory, day);
        let is_new = !path.exists();
        let mut file = files::private().read(true).append(true).open(&path)?;
        if is_new {
            files::sync_directory(&self.directory)?;
        }
        let len = file.metadata()?.len();
        if len > 0 {
            let mut last = [0];
            file.read_exact_at(&mut last, len - 1)?;
            if last != *b"\n" {
                tracing::warn!(path = %path.display(), "the audit file ends within a line; the line is closed");
                file.write_all(b"\n")?;
            }
        }
        Ok(file)
    }
}
