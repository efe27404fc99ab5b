//! The node's side: which connections can be resumed, and by whom.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use teleport_core::entropy::{Entropy, EntropyError, EntropyExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};

use super::ANSWER_LIMIT;
use super::carry::{Ended, carry};
use super::keys::{Half, Keys, Proved, Said};
use super::lane::{Lane, ResumeStream};
use super::pulse::Side;
use super::wire::{Accepted, Again, Challenge, NO, ResumeId, YES};
use crate::rpc::BoxedIo;

/// Connections that can be resumed, with what the node knows of each.
#[derive(Debug)]
pub(crate) struct Table<T> {
    lanes: Mutex<HashMap<ResumeId, Arc<Resumable<T>>>>,
    keeps: Duration,
    /// Places for those that have lost their wire.
    detached: Semaphore,
}

#[derive(Debug)]
struct Resumable<T> {
    keys: Keys,
    lane: Arc<Lane>,
    wires: mpsc::Sender<Wire>,
    owner: T,
}

/// A wire whose other end has proved that the connection is its own.
struct Wire {
    stream: BoxedIo,
    early: BytesMut,
    theirs: u64,
    ours: u64,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

/// Why a connection was not resumed. For the log; the client hears that it was not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotResumed {
    #[error("no randomness")]
    Entropy(#[from] EntropyError),
    #[error("the connection broke again")]
    Io(#[from] io::Error),
    #[error("the client's position is not within what is kept")]
    Position,
    #[error("the proof is wrong")]
    Proof,
    #[error("the client did not answer in time")]
    Timeout,
    #[error("there is no such connection")]
    Unknown,
}

impl<T> Table<T> {
    /// Keeps connections for so long after they have lost their wire, and so many at a time.
    pub(crate) fn new(keeps: Duration, most: usize) -> Self {
        Self { lanes: Mutex::default(), keeps, detached: Semaphore::new(most.min(Semaphore::MAX_PERMITS)) }
    }

    #[cfg(test)]
    pub(super) fn ids(&self) -> Vec<ResumeId> {
        self.lanes().keys().copied().collect()
    }

    /// Whether any is kept at all.
    pub(crate) const fn offers(&self) -> bool {
        !self.keeps.is_zero()
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, HashMap<ResumeId, Arc<Resumable<T>>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a lane for a client that asked for it with this key; `None` for a key that is no key. The node's answer is the first
    /// that is carried.
    pub(crate) fn begin(
        &self,
        key: [u8; 32],
        entropy: &dyn Entropy,
    ) -> Result<Option<(Carrier, ResumeStream, Claim)>, EntropyError> {
        let (half, id) = (Half::new(entropy)?, ResumeId(entropy.bytes()?));
        let keeps = u32::try_from(self.keeps.as_secs()).unwrap_or(u32::MAX);
        let answer = Accepted { key: half.public(), id, keeps }.to_bytes();
        let Some(keys) = half.of_node(key, id) else { return Ok(None) };
        let (sender, wires) = mpsc::channel(1);
        let lane = Lane::new();
        let claim = Claim { keys, lane: Arc::clone(&lane), wires: sender.clone() };
        let stream = ResumeStream::new(Arc::clone(&lane));
        Ok(Some((Carrier { id, lane, answer, _sender: sender, wires }, stream, claim)))
    }

    /// From now on the connection survives the loss of its wire.
    pub(crate) fn keep(self: &Arc<Self>, claim: Claim, owner: T) -> Kept<T> {
        let Claim { keys, lane, wires } = claim;
        let id = keys.id();
        lane.keep();
        self.lanes().insert(id, Arc::new(Resumable { keys, lane, wires, owner }));
        Kept { table: Arc::clone(self), id }
    }

    /// Asks a client that wants to go on with a connection to prove that it is its own, and then `permit` whether it may.
    ///
    /// # Errors
    /// [`NotResumed`], or those of `permit`, which the client hears of as well.
    pub(crate) async fn resume<E: From<NotResumed>>(
        &self,
        mut stream: BoxedIo,
        mut early: BytesMut,
        again: Again,
        entropy: &dyn Entropy,
        permit: impl FnOnce(&T) -> Result<(), E>,
    ) -> Result<(), E> {
        let agreed = self.agree(&mut stream, &mut early, again, entropy);
        let agreed = tokio::time::timeout(ANSWER_LIMIT, agreed).await.unwrap_or(Err(NotResumed::Timeout));
        let permitted = match &agreed {
            Ok((found, ..)) => permit(&found.owner),
            Err(_) => Ok(()),
        };
        let refused = agreed.is_err() || permitted.is_err();
        let answer = tokio::time::timeout(ANSWER_LIMIT, async {
            stream.write_all(&[if refused { NO } else { YES }]).await?;
            stream.flush().await
        });
        let answered = answer.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        permitted?;
        let (found, theirs, ours, Proved { .. }) = agreed?;
        answered.map_err(NotResumed::Io)?;
        let wire = Wire { stream, early, theirs, ours };
        // Whoever carries takes the newest at once.
        found.wires.send(wire).await.map_err(|_| NotResumed::Unknown)?;
        Ok(())
    }

    async fn agree(
        &self,
        stream: &mut BoxedIo,
        early: &mut BytesMut,
        again: Again,
        entropy: &dyn Entropy,
    ) -> Result<(Arc<Resumable<T>>, u64, u64, Proved), NotResumed> {
        let found = self.lanes().get(&again.id).map(Arc::clone).ok_or(NotResumed::Unknown)?;
        let node_received = {
            let state = found.lane.lock();
            if !state.machine.can_resume(again.received) {
                return Err(NotResumed::Position);
            }
            state.machine.received()
        };
        let said = Said {
            client_nonce: again.nonce,
            node_nonce: entropy.bytes()?,
            client_received: again.received,
            node_received,
        };
        let challenge = Challenge {
            nonce: said.node_nonce,
            received: node_received,
            proof: found.keys.prove_node(&said),
        };
        stream.write_all(&[&[YES][..], &challenge.to_bytes()].concat()).await?;
        stream.flush().await?;
        let proof = loop {
            if let Some(proof) = early.first_chunk::<32>() {
                let proof = *proof;
                bytes::Buf::advance(early, 32);
                break proof;
            }
            if stream.read_buf(early).await? == 0 {
                return Err(NotResumed::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let proved = found.keys.check_client(&said, &proof).ok_or(NotResumed::Proof)?;
        Ok((found, again.received, node_received, proved))
    }
}

/// A connection that can be resumed, as long as this lives.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    table: Arc<Table<T>>,
    id: ResumeId,
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        self.table.lanes().remove(&self.id);
    }
}

/// What makes a connection one that can be resumed.
#[derive(Debug)]
pub(crate) struct Claim {
    keys: Keys,
    lane: Arc<Lane>,
    wires: mpsc::Sender<Wire>,
}

/// Carries the bytes of one connection.
#[derive(Debug)]
pub(crate) struct Carrier {
    id: ResumeId,
    lane: Arc<Lane>,
    answer: Vec<u8>,
    /// There is always somebody who may send.
    _sender: mpsc::Sender<Wire>,
    wires: mpsc::Receiver<Wire>,
}

impl Carrier {
    /// The lane, to see what becomes of it.
    pub(crate) fn lane(&self) -> Arc<Lane> {
        Arc::clone(&self.lane)
    }

    /// Carries, until the stream ends or nobody has come back in time. `early` was read from `stream` already. When `leaving` resolves
    /// nobody can come back any more. Dropping the future lets go of the stream.
    pub(crate) async fn run<T>(
        mut self,
        mut stream: BoxedIo,
        early: BytesMut,
        table: Arc<Table<T>>,
        leaving: impl Future<Output = ()>,
    ) {
        let begun = async {
            stream.write_all(&self.answer).await?;
            stream.flush().await
        };
        let begun = begun.await;
        let lane = Arc::clone(&self.lane);
        match begun {
            Ok(()) => self.carry_on(stream, early, &table, leaving).await,
            Err(error) => lane.fail(error.kind(), "the connection was lost"),
        }
        lane.finish();
    }

    async fn carry_on<T>(
        &mut self,
        mut stream: BoxedIo,
        mut early: BytesMut,
        table: &Table<T>,
        leaving: impl Future<Output = ()>,
    ) {
        let lane = Arc::clone(&self.lane);
        tokio::pin!(leaving);
        loop {
            let next = {
                let carried = carry(&lane, &mut stream, std::mem::take(&mut early), Side::Node);
                tokio::pin!(carried);
                loop {
                    tokio::select! {
                        ended = &mut carried => break Err(ended),
                        Some(wire) = self.wires.recv() => {
                            // Of two that came at once, the second may be behind by now.
                            if lane.lock().machine.can_resume(wire.theirs) {
                                break Ok(wire);
                            }
                        }
                    }
                }
            };
            let wire = match next {
                Ok(wire) => wire,
                Err(Ended::Closed) => return,
                Err(Ended::Violated(violation)) => {
                    return lane.fail(io::ErrorKind::InvalidData, &violation.to_string());
                }
                Err(Ended::Lost(why)) => {
                    // Whoever is there sees that it is not.
                    drop(std::mem::replace(&mut stream, Box::new(tokio::io::empty())));
                    tokio::select! {
                        wire = self.wait(&lane, table, &why) => match wire {
                            Some(wire) => wire,
                            None => return,
                        },
                        () = &mut leaving => return lane.fail(io::ErrorKind::ConnectionAborted, "the node goes away"),
                    }
                }
            };
            if lane.lock().machine.resume(wire.theirs, wire.ours).is_err() {
                return lane.fail(io::ErrorKind::InvalidData, "the positions do not fit");
            }
            (stream, early) = (wire.stream, wire.early);
            lane.work.notify_one();
        }
    }

    /// Waits for the client to come back. `None` if it does not, or nobody waits for it any more.
    async fn wait<T>(&mut self, lane: &Lane, table: &Table<T>, why: &io::Error) -> Option<Wire> {
        let lost = |kind, why: &str| lane.fail(kind, why);
        if !lane.is_kept() {
            lost(why.kind(), &why.to_string());
            return None;
        }
        let Ok(_place) = table.detached.try_acquire() else {
            lost(
                io::ErrorKind::QuotaExceeded,
                "the connection was lost, and too many are waiting to be resumed",
            );
            return None;
        };
        let id = self.id;
        tracing::info!(connection = ?id, why = %why, "a connection was lost; its client may come back");
        let patience = tokio::time::sleep(table.keeps);
        tokio::pin!(patience);
        loop {
            if lane.lock().machine.is_closed() {
                return None;
            }
            tokio::select! {
                Some(wire) = self.wires.recv() => {
                    if lane.lock().machine.can_resume(wire.theirs) {
                        return Some(wire);
                    }
                }
                () = &mut patience => {
                    tracing::info!(connection = ?id, "a connection was given up: its client has not come back");
                    lost(io::ErrorKind::TimedOut, "the connection was lost and not resumed in time");
                    return None;
                }
                () = lane.work.notified() => {}
            }
        }
    }
}
