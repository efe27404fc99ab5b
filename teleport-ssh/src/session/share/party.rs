//! Those who take part in a session, with their seats.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use teleport_core::api::Participant;
use teleport_core::clock::Timestamp;
use teleport_core::id::UserName;
use teleport_core::resource::JoinMode;
use tokio::sync::{mpsc, watch};

use super::audience::{View, Viewer};
use super::sizes::{Sizes, watched};
use crate::session::{ExitStatus, SessionOutput, TerminalSize};

/// The most who take part in one session beside its owner.
const MAX_SEATS: usize = 64;
/// The most seats of one person: nobody keeps others out.
const MAX_SEATS_OF_ONE: usize = 8;
/// The most who are remembered to have taken part.
const MAX_REMEMBERED: usize = 256;
/// How long a program has to draw for another size.
const REDRAW: Duration = Duration::from_millis(150);
/// How long the owner's terminal has to take a word about the others.
const TELL_LIMIT: Duration = Duration::from_millis(500);

/// There is no seat left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_SEATS} take part in the session already, or {MAX_SEATS_OF_ONE} times the same user")]
pub(crate) struct TooMany;

/// A session with a terminal, which others may join.
pub(crate) struct Party {
    owner: UserName,
    output: SessionOutput,
    sizes: Sizes,
    typing: mpsc::Sender<Bytes>,
    over: watch::Sender<Option<ExitStatus>>,
    seats: Mutex<Seats>,
    /// Told of whenever somebody comes or goes.
    changed: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Seats {
    next: u64,
    taken: Vec<(u64, Participant)>,
    took_part: Vec<UserName>,
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Party").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Party {
    /// For a session that begins: its output must have an audience, and what comes out of the other end of `typing` is typed.
    pub(crate) fn new(
        owner: UserName,
        output: SessionOutput,
        sizes: Sizes,
        typing: mpsc::Sender<Bytes>,
        changed: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let (over, seats) = (watch::Sender::new(None), Mutex::default());
        Self { owner, output, sizes, typing, over, seats, changed }
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size of the terminal.
    pub(crate) fn size(&self) -> TerminalSize {
        self.sizes.common()
    }

    /// Who takes part beside the owner, in the order of coming.
    pub(crate) fn participants(&self) -> Vec<Participant> {
        self.seats().taken.iter().map(|(_, participant)| participant.clone()).collect()
    }

    /// Who has taken part, each once, the owner first.
    pub(crate) fn took_part(&self) -> Vec<UserName> {
        std::iter::once(self.owner.clone()).chain(self.seats().took_part.iter().cloned()).collect()
    }

    /// The session has ended so.
    pub(crate) fn end(&self, status: ExitStatus) {
        self.over.send_if_modified(|over| over.is_none().then(|| *over = Some(status)).is_some());
    }

    /// Lets somebody take part, whose terminal has this size.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(crate) fn join(
        self: &Arc<Self>,
        user: &UserName,
        mode: JoinMode,
        size: TerminalSize,
        since: Timestamp,
    ) -> Result<Seat, TooMany> {
        let number = {
            let mut seats = self.seats();
            let own = seats.taken.iter().filter(|(_, taken)| taken.user == *user).count();
            if seats.taken.len() >= MAX_SEATS || own >= MAX_SEATS_OF_ONE {
                return Err(TooMany);
            }
            seats.next += 1;
            let number = seats.next;
            seats.taken.push((number, Participant { user: user.clone(), mode, since }));
            let known = *user == self.owner || seats.took_part.contains(user);
            if !known && seats.took_part.len() < MAX_REMEMBERED {
                seats.took_part.push(user.clone());
            }
            number
        };
        let viewer = self.output.with_audience(|audience| audience.enter(size.rows)).unwrap_or_default();
        self.sizes.set(number, counted(mode, size));
        (self.changed)();
        let over = self.over.subscribe();
        Ok(Seat { party: Arc::clone(self), number, mode, viewer, over, rows: size.rows })
    }

    /// Says something to all, the recording included: as a line of its own, or, where a program draws on all of the screen, over
    /// the last row. Whatever draws is made to draw again.
    pub(crate) async fn say(&self, what: &str) {
        let alternate = self.output.with_audience(|audience| audience.is_alternate()).unwrap_or_default();
        if alternate {
            self.redraw().await;
            let (columns, rows) = self.sizes.common().cells();
            let what: String = what.chars().take(usize::from(columns).saturating_sub(10)).collect();
            self.show(format!("\x1b7\x1b[{rows};1H\x1b[7mteleport: {what}\x1b[0m\x1b[K\x1b8")).await;
        } else {
            self.show(format!("\r\nteleport: {what}\r\n")).await;
            // A shell shows its prompt again.
            self.redraw().await;
        }
    }

    async fn show(&self, text: String) {
        // The others have it before the owner is waited for.
        let _ = tokio::time::timeout(TELL_LIMIT, self.output.stdout(text)).await;
    }

    async fn redraw(&self) {
        let shorter = self.sizes.shorten();
        tokio::time::sleep(REDRAW).await;
        drop(shorter);
        tokio::time::sleep(REDRAW).await;
    }

    /// Types. Waits until there is room. Cancel safe: what was not taken was not typed.
    pub(crate) async fn type_in(&self, keys: Bytes) {
        // Nobody reads what is typed any more when the session is about to end.
        let _ = self.typing.send(keys).await;
    }

    /// Who is there, in words.
    pub(crate) fn present(&self) -> String {
        let mut words = vec![self.owner.to_string()];
        let seats = self.seats();
        words.extend(seats.taken.iter().map(|(_, one)| format!("{} ({})", one.user, one.mode)));
        const MOST: usize = 8;
        if words.len() > MOST {
            let more = words.len() - MOST;
            words.truncate(MOST);
            words.push(format!("{more} more"));
        }
        words.join(", ")
    }
}

/// Somebody's place in a session. Dropping it leaves.
#[derive(Debug)]
pub(crate) struct Seat {
    party: Arc<Party>,
    number: u64,
    mode: JoinMode,
    viewer: Arc<Viewer>,
    over: watch::Receiver<Option<ExitStatus>>,
    rows: u32,
}

/// What a terminal counts for among those of a session.
fn counted(mode: JoinMode, size: TerminalSize) -> TerminalSize {
    match mode {
        JoinMode::Observer => watched(size),
        _ => size,
    }
}

impl Seat {
    /// The session.
    pub(crate) fn party(&self) -> &Arc<Party> {
        &self.party
    }

    /// What there is to show next; how the session has ended, once that was all. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<View, ExitStatus> {
        loop {
            // Looked at before what waits: after the end nothing is added.
            let over = self.over.borrow_and_update().clone();
            match self.viewer.take() {
                Ok(pieces) if !pieces.is_empty() => return Ok(View::Output(pieces)),
                Ok(_) => {}
                Err(_) => {
                    let again =
                        self.party.output.with_audience(|audience| audience.again(&self.viewer, self.rows));
                    if let Some(again) = again {
                        return Ok(again);
                    }
                }
            }
            if let Some(status) = over {
                return Err(status);
            }
            tokio::select! {
                () = self.viewer.woken() => {}
                // The sender lives in the party.
                _ = self.over.changed() => {}
            }
        }
    }

    /// The terminal has a new size.
    pub(crate) fn resize(&mut self, size: TerminalSize) {
        self.rows = size.rows;
        self.party.sizes.set(self.number, counted(self.mode, size));
    }

    /// What gives the terminal back to its user.
    pub(crate) fn undo(&self) -> Bytes {
        self.party.output.with_audience(|audience| audience.undo()).unwrap_or_default()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.party.output.with_audience(|audience| audience.leave(&self.viewer));
        self.party.seats().taken.retain(|(number, _)| *number != self.number);
        self.party.sizes.remove(self.number);
        (self.party.changed)();
    }
}
