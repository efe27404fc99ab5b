//! The disk's end of the spool: one thread writes what all sessions send.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use teleport_core::access::SessionRecording;
use teleport_core::id::SessionId;
use teleport_core::recording::{Encoder, MAX_PART_LEN, RecordedEvent};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::recorder::cost;
use super::syncing::{Synced, Syncer};
use super::writing::Writing;
use super::{CLOSED, OPEN, Sessions, path};
use crate::record::live::Live;
use crate::record::room::Room;

/// After some events the spool's thread lets more of them gather: to wake it for each would cost more than to write them.
const GATHER_FOR: Duration = Duration::from_millis(2);
/// As long as a session has less than this in the queue, in bytes, whoever else wants the processor comes first: those who carry what
/// is recorded.
const GIVE_WAY_BELOW: usize = 2 << 20;
/// How long output may wait in memory: what a `kill -9` can lose. And how often a disk that took nothing is tried again.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// What sessions tell the spool's thread.
pub(super) enum Message {
    Begin { live: Arc<Live>, encoder: Box<Encoder>, file: File, len: u64 },
    Event { session: SessionId, event: RecordedEvent },
    Synced(Synced),
    Close,
}

/// What the thread of a spool works with.
pub(super) struct Worker {
    pub(super) dir: PathBuf,
    pub(super) messages: Receiver<Message>,
    pub(super) queued: Arc<AtomicUsize>,
    pub(super) syncer: Syncer,
    /// Told when there is something to upload.
    pub(super) news: Arc<Notify>,
    pub(super) room: Arc<Room>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) max_recording: u64,
}

/// The thread of a spool: whatever touches the disk while sessions run.
struct Running {
    worker: Worker,
    files: HashMap<SessionId, Writing>,
    /// Of those that are streamed: what was told since the auth service could last have it.
    told: Vec<SessionId>,
    /// Whether the room was counted since the last flush; counting looks at every file.
    counted: bool,
}

impl Worker {
    /// Until the spool is closed.
    pub(super) fn run(self) {
        Running { worker: self, files: HashMap::new(), told: Vec::new(), counted: true }.run();
    }
}

impl Running {
    fn run(&mut self) {
        let mut flush_at: Option<Instant> = None;
        let mut busy = false;
        loop {
            let now = Instant::now();
            if flush_at.is_some_and(|at| at <= now) {
                // What the disk did not take is tried again.
                flush_at = self.flush().then(|| now + FLUSH_EVERY);
            }
            // With nothing to flush there is nothing to wake up for.
            let wait = flush_at.map_or(Duration::from_secs(3600), |at| at - now);
            let message = match self.worker.messages.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.hand_out();
                    if std::mem::take(&mut busy) {
                        std::thread::sleep(GATHER_FOR);
                        continue;
                    }
                    self.worker.messages.recv_timeout(wait)
                }
                Err(TryRecvError::Disconnected) => break,
                Ok(message) => Ok(message),
            };
            match message {
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
                // Nothing that comes often, or has to be flushed.
                Ok(Message::Synced(synced)) => self.synced(synced),
                Ok(message) => {
                    self.handle(message);
                    busy = true;
                    flush_at.get_or_insert(now + FLUSH_EVERY);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        // What is here is written; recordings without an end stay open for the next start to close.
        self.flush();
        let rest: Vec<_> = self.files.values().filter_map(Writing::rest).collect();
        for sync in rest {
            self.synced(sync.run());
        }
    }

    /// Writes what is in memory, and whether something is left that the disk did not take.
    fn flush(&mut self) -> bool {
        self.counted = false;
        let mut over = Vec::new();
        let mut left = false;
        for (session, writing) in &mut self.files {
            writing.flush(&self.worker.room);
            match writing.sync() {
                Some(sync) => self.worker.syncer.send(sync),
                // The disk is still at what was there before.
                None => left |= writing.rest().is_some(),
            }
            left |= writing.is_stalled();
            if writing.is_over() {
                over.push(*session);
            }
        }
        for session in over {
            self.close(session);
        }
        left
    }

    /// More of a recording is on the disk.
    fn synced(&mut self, synced: Synced) {
        let session = synced.session;
        // It was closed meanwhile, by a sync that came later and was done here.
        let Some(writing) = self.files.get_mut(&session) else { return };
        let part = |writing: &Writing| writing.durable() / MAX_PART_LEN as u64;
        let before = part(writing);
        writing.synced(synced, &self.worker.room);
        if part(writing) > before {
            self.worker.news.notify_one();
        }
        self.finish(session);
    }

    /// Closes what has ended, once it is on the disk.
    fn finish(&mut self, session: SessionId) {
        let Some(writing) = self.files.get_mut(&session).filter(|writing| writing.has_ended()) else {
            return;
        };
        if writing.is_over() {
            self.close(session);
        } else if let Some(sync) = writing.sync() {
            self.worker.syncer.send(sync);
        }
    }

    /// Makes what was told available to those who stream it.
    fn hand_out(&mut self) {
        for session in std::mem::take(&mut self.told) {
            if let Some(writing) = self.files.get_mut(&session) {
                writing.hand_out(&self.worker.room);
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Begin { live, encoder, file, len } => {
                let session = live.meta.session;
                let max = self.worker.max_recording;
                self.files.insert(session, Writing::new(live, encoder, file, len, max));
                self.told.push(session);
            }
            Message::Event { session, event } => self.event(session, &event),
            Message::Synced(_) | Message::Close => {}
        }
    }

    fn event(&mut self, session: SessionId, event: &RecordedEvent) {
        self.worker.queued.fetch_sub(cost(event), Ordering::Relaxed);
        let room = &self.worker.room;
        let mut full = room.is_full_for(session);
        if full && !self.counted {
            self.counted = true;
            if let Err(error) = room.count() {
                tracing::error!(error = &error as &dyn std::error::Error, "the spool cannot be read");
            }
            full = room.is_full_for(session);
        }
        if full && matches!(event, RecordedEvent::Output { .. }) {
            room.tell_full(session);
        }
        let Some(writing) = self.files.get_mut(&session) else { return };
        writing.event(event, full, room);
        if writing.mode() == SessionRecording::Sync {
            self.told.push(session);
        }
        if writing.behind() < GIVE_WAY_BELOW {
            std::thread::yield_now();
        }
        self.finish(session);
    }

    fn close(&mut self, session: SessionId) {
        let from = path(&self.worker.dir, session, OPEN);
        if let Err(error) = fs::rename(&from, from.with_extension(CLOSED)) {
            tracing::error!(%session, error = &error as &dyn std::error::Error, "a recording cannot be closed");
        }
        self.files.remove(&session);
        self.worker.sessions.end(session);
        self.worker.news.notify_one();
    }
}
