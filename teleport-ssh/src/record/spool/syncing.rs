//! Makes durable what was written, beside the thread that writes: a disk takes its time for it, and sessions go on meanwhile.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use teleport_core::id::SessionId;

use super::worker::Message;

/// A file of which the first `len` bytes are to survive a loss of power.
pub(super) struct Sync {
    pub(super) session: SessionId,
    pub(super) file: Arc<File>,
    pub(super) len: u64,
}

impl Sync {
    /// Waits for the disk.
    pub(super) fn run(self) -> Synced {
        Synced { session: self.session, len: self.len, result: self.file.sync_data() }
    }
}

/// How it went.
pub(super) struct Synced {
    pub(super) session: SessionId,
    pub(super) len: u64,
    pub(super) result: io::Result<()>,
}

/// The thread that waits for the disk. It tells the spool's thread how each went, until it is dropped.
pub(super) struct Syncer {
    queue: Sender<Sync>,
    _thread: JoinHandle<()>,
}

impl Syncer {
    pub(super) fn start(told: Sender<Message>) -> io::Result<Self> {
        let (queue, jobs): (_, Receiver<Sync>) = channel();
        let run = move || {
            for job in jobs {
                // The spool's thread is gone, or about to: it syncs the rest itself.
                if told.send(Message::Synced(job.run())).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("recording-sync".into()).spawn(run)?;
        Ok(Self { queue, _thread: thread })
    }

    pub(super) fn send(&self, sync: Sync) {
        // The thread lives as long as this.
        let _ = self.queue.send(sync);
    }
}
