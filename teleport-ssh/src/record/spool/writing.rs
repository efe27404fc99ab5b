//! One recording that is being written, and what becomes of it when the disk takes nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use teleport_core::access::SessionRecording;
use teleport_core::recording::{Encoder, RecordedEvent};

use super::recorder::cost;
use super::syncing::{Sync, Synced};
use crate::record::live::Live;
use crate::record::room::Room;

/// When so many bytes of a session wait to be recorded, they are compressed less: it prints as fast as it can, and needs the processor.
const HURRY_AT: usize = 512 << 10;

/// A recording that is being written.
pub(super) struct Writing {
    live: Arc<Live>,
    encoder: Box<Encoder>,
    file: Arc<File>,
    /// Bytes of the file that are whole frames. What is behind them was written in part, and is written over.
    len: u64,
    max_len: u64,
    synced: u64,
    /// Whether the disk is at it.
    syncing: bool,
    /// Whole frames that are not in the file yet.
    backlog: Vec<u8>,
    /// Whether the disk, or the bound of the spool, holds them back.
    stalled: bool,
    /// Whether it is the disk.
    disk_failed: bool,
    /// How many events were taken.
    taken: u64,
    /// What the session may wait for: taken, and, of a strict one, not written.
    owed: usize,
    /// Bytes of output left out since the last event that was written.
    lost: u64,
    /// The newest size of the terminal of those that were left out.
    resized: Option<RecordedEvent>,
    ended: bool,
}

impl Writing {
    /// Of a file with `len` bytes, in which there will be about `max_len` at most.
    pub(super) fn new(live: Arc<Live>, encoder: Box<Encoder>, file: File, len: u64, max_len: u64) -> Self {
        Self {
            live,
            encoder,
            file: Arc::new(file),
            len,
            max_len,
            synced: len,
            syncing: false,
            backlog: Vec::new(),
            stalled: false,
            disk_failed: false,
            taken: 0,
            owed: 0,
            lost: 0,
            resized: None,
            ended: false,
        }
    }

    pub(super) fn mode(&self) -> SessionRecording {
        self.live.mode
    }

    /// How many bytes survive a loss of power.
    pub(super) const fn durable(&self) -> u64 {
        self.synced
    }

    pub(super) const fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// How many bytes wait to be taken.
    pub(super) fn behind(&self) -> usize {
        self.live.behind()
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether everything is on the disk, the end included.
    pub(super) const fn is_over(&self) -> bool {
        self.ended && !self.stalled && self.synced == self.len
    }

    /// Takes an event. `full` says that the spool has no room: of a strict session the event is kept in memory then, and the session
    /// waits; else the output is left out.
    pub(super) fn event(&mut self, event: &RecordedEvent, full: bool, room: &Room) {
        self.taken += 1;
        self.encoder.hurry(self.live.behind() > HURRY_AT);
        self.owed += cost(event);
        self.ended = matches!(event, RecordedEvent::End { .. });
        let too_long = self.len >= self.max_len;
        let encoded = if self.mode().is_strict() {
            if too_long && !self.ended {
                self.live.fail("the recording has become too long");
            }
            self.encoder.event(event)
        } else {
            self.put(event, full || too_long || self.stalled)
        };
        if let Err(error) = encoded {
            // Of the compressor, which has no memory.
            self.give_up(&error);
        }
        // The end is written whatever the bound: without it nothing could be delivered, and made room.
        let held = full && self.mode().is_strict() && !self.ended;
        self.write(self.ended, held, room);
        if !self.mode().is_strict() {
            self.settle();
        }
    }

    /// Writes what is in memory.
    pub(super) fn flush(&mut self, room: &Room) {
        let held = self.mode().is_strict() && !self.ended && room.is_full_for(self.live.meta.session);
        self.write(true, held, room);
    }

    /// Makes what was taken readable for whoever streams it.
    pub(super) fn hand_out(&mut self, room: &Room) {
        if self.live.mode != SessionRecording::Sync {
            return;
        }
        let held = !self.ended && room.is_full_for(self.live.meta.session);
        self.write(true, held, room);
        // On the disk first: after a loss of power nobody may have more of it than the file.
        if let Some(sync) = self.rest() {
            self.synced(sync.run(), room);
        }
        if !self.stalled {
            let (written, len) = (self.taken, self.len);
            self.live.advance(|progress| (progress.written, progress.len) = (written, len));
        }
    }

    /// When it is full only the end is written, and how much is missing.
    fn put(&mut self, event: &RecordedEvent, full: bool) -> io::Result<()> {
        match event {
            RecordedEvent::Output { data, .. } if full => {
                self.lost += data.len() as u64;
                return Ok(());
            }
            // As of output, a user can make as many of them as there is time.
            RecordedEvent::Resize { .. } if full => {
                self.resized = Some(event.clone());
                return Ok(());
            }
            RecordedEvent::Gap { lost, .. } if full => {
                self.lost += lost;
                return Ok(());
            }
            _ => {}
        }
        // Before anything else is shown; another size or the end makes it worthless.
        let resized = self.resized.take().filter(|_| matches!(event, RecordedEvent::Output { .. }));
        if let Some(resized) = resized {
            self.encoder.event(&resized)?;
        }
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => self.encoder.event(&RecordedEvent::Gap { at: event.at(), lost })?,
        }
        self.encoder.event(event)
    }

    /// Writes the frames that are whole, and with `flush` the open one; those of before first. `held` keeps them in memory.
    fn write(&mut self, flush: bool, held: bool, room: &Room) {
        match self.encoder.take(flush) {
            Ok(bytes) if self.backlog.is_empty() => self.backlog = bytes,
            Ok(bytes) => self.backlog.extend(bytes),
            Err(error) => self.give_up(&error),
        }
        let session = self.live.meta.session;
        if !self.backlog.is_empty() {
            if held {
                self.stall();
                return;
            }
            if let Err(error) = self.file.write_all_at(&self.backlog, self.len) {
                if !std::mem::replace(&mut self.disk_failed, true) {
                    room.disk_failed(session, &error);
                }
                self.stall();
                return;
            }
            let bytes = std::mem::take(&mut self.backlog).len() as u64;
            self.len += bytes;
            room.add(session, bytes);
        }
        if std::mem::take(&mut self.disk_failed) {
            room.disk_works();
        }
        if std::mem::take(&mut self.stalled) {
            tracing::info!(%session, "the recording goes on");
            self.live.stalled(false);
        }
        self.settle();
    }

    fn settle(&mut self) {
        match std::mem::take(&mut self.owed) {
            0 => {}
            owed => self.live.settle(owed),
        }
    }

    fn stall(&mut self) {
        if !std::mem::replace(&mut self.stalled, true) {
            self.live.stalled(true);
        }
    }

    /// What is to be synced, if there is something and the disk is not at it already. The outcome goes to [`Writing::synced`].
    pub(super) fn sync(&mut self) -> Option<Sync> {
        if self.syncing {
            return None;
        }
        let sync = self.rest()?;
        self.syncing = true;
        Some(sync)
    }

    /// What is not on the disk yet, whether or not the disk is at a part of it.
    pub(super) fn rest(&self) -> Option<Sync> {
        let (session, file, len) = (self.live.meta.session, Arc::clone(&self.file), self.len);
        (self.synced != len).then_some(Sync { session, file, len })
    }

    /// How a sync went.
    pub(super) fn synced(&mut self, Synced { len, result, .. }: Synced, room: &Room) {
        self.syncing = false;
        // Asking again would say nothing: an error is told once.
        self.synced = self.synced.max(len);
        if let Err(error) = result {
            self.give_up(&error);
            room.disk_lost(self.live.meta.session, &error);
        }
        let synced = self.synced;
        self.live.advance(|progress| progress.synced = synced);
    }

    /// Something is lost, and nobody knows what.
    fn give_up(&self, error: &io::Error) {
        let session = self.live.meta.session;
        tracing::error!(%session, error = error as &dyn std::error::Error, "a recording may have lost something");
        if self.mode().is_strict() {
            self.live.fail("its disk failed");
        }
    }
}

#[cfg(test)]
mod tests;
