//! One conversation with a server: requests go out in order, answers come back in any.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use teleport_core::task::TaskScope;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::SftpError;
use super::answer::Answer;
use crate::sftp::wire::{self, MAX_DATA, MAX_PACKET, Packet, VERSION, kind, string};

/// What may be on its way in both directions together, in bytes: twice what a channel of ours carries unread.
const WINDOW: usize = 4 << 20;
/// The unit of the window, in bytes.
const UNIT: usize = 1 << 10;
/// The longest read or write of a server that does not say what it takes, in bytes.
const COMMON_DATA: u32 = 32 << 10;
/// The shortest that is believed.
const LEAST_DATA: u64 = 1 << 10;
/// Requests are handed over together up to so many bytes.
const TOGETHER: usize = 64 << 10;
/// How much is read at once, in bytes.
const READ: usize = 64 << 10;

/// The longest answer without data or names, in bytes.
pub(super) const SHORT: usize = 4 << 10;
/// The longest answer with one path.
pub(super) const PATH: usize = 16 << 10;
/// The longest answer with entries of a directory.
pub(super) const ENTRIES: usize = MAX_PACKET;

/// A server of files. Clones speak with the same one; the connection ends with the last of them.
#[derive(Clone)]
pub struct Sftp(pub(super) Arc<Shared>);

pub(super) struct Shared {
    /// Bounded by the window: what is in it has room there, or closes what had.
    requests: mpsc::UnboundedSender<Vec<u8>>,
    pending: Mutex<Pending>,
    window: Arc<Semaphore>,
    /// The longest data of one read and one write.
    pub(super) most: (u32, u32),
    pub(super) can: Extensions,
    _tasks: TaskScope,
}

/// What a server offers of the extensions that are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) expand_path: bool,
    limits: bool,
}

#[derive(Debug, Default)]
struct Pending {
    next: u32,
    waiting: HashMap<u32, Waiting>,
    ended: Option<SftpError>,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Answer>,
    /// The longest answer.
    most: usize,
    room: Option<OwnedSemaphorePermit>,
}

/// Room for a request and its answer.
#[derive(Debug)]
pub(super) struct Room {
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Room {
    /// Beyond the window: for what others wait for that have room in it.
    pub(super) const fn beyond(bytes: usize) -> Self {
        Self { permit: None, bytes }
    }
}

/// An answer that is waited for. When it is dropped, the answer is thrown away once it comes.
pub(super) struct Call {
    answer: oneshot::Receiver<Answer>,
    shared: Arc<Shared>,
}

impl Call {
    /// Waits for the answer. Cancel safe.
    pub(super) async fn answer(&mut self) -> Result<Answer, SftpError> {
        (&mut self.answer).await.map_err(|_| self.shared.ended())
    }

    /// The answer, if it is there.
    pub(super) fn now(&mut self) -> Result<Option<Answer>, SftpError> {
        match self.answer.try_recv() {
            Ok(answer) => Ok(Some(answer)),
            Err(oneshot::error::TryRecvError::Empty) => Ok(None),
            Err(oneshot::error::TryRecvError::Closed) => Err(self.shared.ended()),
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

impl fmt::Debug for Sftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sftp").field("most", &self.0.most).field("can", &self.0.can).finish_non_exhaustive()
    }
}

impl Sftp {
    /// Begins the protocol over streams that lead to a server. The caller says how long that may take: dropping the future gives up.
    ///
    /// # Errors
    /// [`SftpError`]; one that does not speak version 3 breaks the protocol.
    pub async fn over(
        from_server: impl AsyncRead + Send + Unpin + 'static,
        mut to_server: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, SftpError> {
        let closed = |_| SftpError::Closed;
        to_server.write_all(&Self::hello()).await.map_err(closed)?;
        to_server.flush().await.map_err(closed)?;
        Self::greeted(from_server, to_server).await
    }

    /// What a client says first.
    pub(crate) fn hello() -> Vec<u8> {
        let mut hello = Vec::new();
        Packet::begin(&mut hello, kind::INIT).u32(VERSION);
        hello
    }

    /// As [`over`](Self::over), after the server was [greeted](Self::hello).
    pub(crate) async fn greeted(
        mut from_server: impl AsyncRead + Send + Unpin + 'static,
        mut to_server: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, SftpError> {
        let closed = |_| SftpError::Closed;
        let mut inbox = BytesMut::new();
        let can = loop {
            if let Some(packet) = take(&mut inbox)? {
                break begin(&packet)?;
            }
            fill(&mut from_server, &mut inbox).await?;
        };
        let tasks = TaskScope::new();
        let (requests, outbox) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(WINDOW / UNIT));
        let shared = Shared {
            requests,
            pending: Mutex::default(),
            window,
            most: (COMMON_DATA, COMMON_DATA),
            can,
            _tasks: tasks.clone(),
        };
        let mut shared = Arc::new(shared);
        // Before anybody else holds it, so that what it says can still be set.
        let mut first = can.limits.then(|| {
            let call = shared.begin(None, SHORT, kind::EXTENDED, |packet| {
                packet.string("limits@openssh.com");
            });
            call.answer
        });
        let mut outbox = Outbox(outbox);
        if let Some(answer) = &mut first {
            let Some(request) = outbox.next().await else { return Err(SftpError::Closed) };
            to_server.write_all(&request).await.map_err(closed)?;
            to_server.flush().await.map_err(closed)?;
            let answer = loop {
                if let Some(packet) = take(&mut inbox)? {
                    shared.answered(packet)?;
                    break answer.try_recv().map_err(|_| SftpError::Closed)?;
                }
                fill(&mut from_server, &mut inbox).await?;
            };
            let most = limits(answer.extended()?)?;
            // Its call was taken apart above, so this is the only one.
            Arc::get_mut(&mut shared).ok_or(SftpError::Closed)?.most = most;
        }
        // Neither may keep the connection, which keeps both.
        let listener = Arc::downgrade(&shared);
        tasks.spawn(async move {
            let why = loop {
                let packet = match take(&mut inbox) {
                    Ok(Some(packet)) => packet,
                    Ok(None) => match fill(&mut from_server, &mut inbox).await {
                        Ok(()) => continue,
                        Err(why) => break why,
                    },
                    Err(why) => break why,
                };
                let Some(shared) = listener.upgrade() else { return };
                if let Err(why) = shared.answered(packet) {
                    break why;
                }
            };
            if let Some(shared) = listener.upgrade() {
                shared.end(why);
            }
        });
        let speaker = Arc::downgrade(&shared);
        tasks.spawn(async move {
            while let Some(requests) = outbox.next().await {
                let sent = to_server.write_all(&requests).await;
                if sent.is_err() || to_server.flush().await.is_err() {
                    if let Some(shared) = speaker.upgrade() {
                        shared.end(SftpError::Closed);
                    }
                    return;
                }
            }
        });
        Ok(Self(shared))
    }

    /// Waits for room for a request whose own data or whose answer has so many bytes. Cancel safe.
    pub(super) async fn room(&self, bytes: usize) -> Result<Room, SftpError> {
        let permit = Arc::clone(&self.0.window).acquire_many_owned(units(bytes)).await;
        Ok(Room { permit: Some(permit.map_err(|_| self.0.ended())?), bytes })
    }

    /// The same, if there is room now.
    pub(super) fn room_now(&self, bytes: usize) -> Option<Room> {
        let permit = Arc::clone(&self.0.window).try_acquire_many_owned(units(bytes));
        Some(Room { permit: Some(permit.ok()?), bytes })
    }

    /// Sends a request in this room; its answer may be as long as the room, and as a short answer.
    pub(super) fn begin(&self, room: Room, kind: u8, put: impl FnOnce(&mut Packet<'_>)) -> Call {
        let most = room.bytes.max(SHORT);
        self.0.begin(room.permit, most, kind, put)
    }

    /// Sends a request for which there always has to be room, such as one that makes room.
    pub(super) fn begin_at_once(&self, kind: u8, put: impl FnOnce(&mut Packet<'_>)) -> Call {
        self.0.begin(None, SHORT, kind, put)
    }

    /// Asks, and waits for an answer of at most so many bytes. Cancel safe: what was asked is done all the same.
    pub(super) async fn call(
        &self,
        most: usize,
        kind: u8,
        put: impl FnOnce(&mut Packet<'_>),
    ) -> Result<Answer, SftpError> {
        let room = self.room(most).await?;
        self.begin(room, kind, put).answer().await
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT).min(WINDOW / UNIT)).unwrap_or(u32::MAX)
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(
        self: &Arc<Self>,
        room: Option<OwnedSemaphorePermit>,
        most: usize,
        kind: u8,
        put: impl FnOnce(&mut Packet<'_>),
    ) -> Call {
        let (sender, answer) = oneshot::channel();
        let call = Call { answer, shared: Arc::clone(self) };
        let mut pending = self.pending();
        // After the end nobody would answer.
        if pending.ended.is_none() {
            let id = pending.next;
            // What is on its way is bounded far below the numbers that there are.
            pending.next = id.wrapping_add(1);
            pending.waiting.insert(id, Waiting { answer: sender, most, room });
            let mut request = Vec::new();
            put(&mut Packet::answer(&mut request, kind, id));
            // Within the lock, so that numbers go out in their order. Its other end is there until the end.
            let _ = self.requests.send(request);
        }
        call
    }

    /// Gives an answer to whoever waits for it.
    fn answered(&self, packet: BytesMut) -> Result<(), SftpError> {
        let mut fields = packet.get(1..).unwrap_or_default();
        let id = fields.try_get_u32().map_err(|_| SftpError::Protocol("an answer without a number"))?;
        let waiting = self.pending().waiting.remove(&id);
        let Some(Waiting { answer, most, room }) = waiting else {
            return Err(SftpError::Protocol("an answer to nothing that was asked"));
        };
        // What stands around the data of a read is far less than that.
        if packet.len() > most.saturating_add(64) {
            return Err(SftpError::Protocol("a longer answer than was asked for"));
        }
        // Nobody may wait for it any more.
        let _ = answer.send(Answer::new(packet.freeze(), room));
        Ok(())
    }

    /// Ends everything that waits.
    fn end(&self, why: SftpError) {
        let mut pending = self.pending();
        pending.ended.get_or_insert(why);
        pending.waiting.clear();
        drop(pending);
        self.window.close();
    }

    pub(super) fn ended(&self) -> SftpError {
        self.pending().ended.clone().unwrap_or(SftpError::Closed)
    }
}

/// Requests on their way to the server.
struct Outbox(mpsc::UnboundedReceiver<Vec<u8>>);

impl Outbox {
    /// The next ones, as many as may go together.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut requests = self.0.recv().await?;
        while requests.len() < TOGETHER
            && let Ok(request) = self.0.try_recv()
        {
            requests.extend_from_slice(&request);
        }
        Some(requests)
    }
}

/// Takes a whole packet off the front, without its length.
fn take(inbox: &mut BytesMut) -> Result<Option<BytesMut>, SftpError> {
    let length = wire::length(inbox).map_err(|_| SftpError::Protocol("a packet of an impossible length"))?;
    let Some(length) = length else { return Ok(None) };
    if inbox.len() < 4 + length {
        inbox.reserve(4 + length - inbox.len());
        return Ok(None);
    }
    inbox.advance(4);
    Ok(Some(inbox.split_to(length)))
}

/// Reads on.
async fn fill(from: &mut (impl AsyncRead + Unpin), inbox: &mut BytesMut) -> Result<(), SftpError> {
    if inbox.capacity() - inbox.len() < READ / 2 {
        inbox.reserve(READ);
    }
    match from.read_buf(inbox).await {
        Ok(0) | Err(_) => Err(SftpError::Closed),
        Ok(_) => Ok(()),
    }
}

/// Reads the server's first packet.
fn begin(mut packet: &[u8]) -> Result<Extensions, SftpError> {
    let kind = packet.try_get_u8().map_err(|_| SftpError::Protocol("an empty packet"))?;
    let version = packet.try_get_u32().map_err(|_| SftpError::Protocol("no version"))?;
    if (kind, version) != (kind::VERSION, VERSION) {
        return Err(SftpError::Protocol("it does not speak SFTP version 3"));
    }
    let mut can = Extensions::default();
    while !packet.is_empty() {
        let (name, version) = (string(&mut packet)?, string(&mut packet)?);
        match (name, version) {
            (b"expand-path@openssh.com", b"1") => can.expand_path = true,
            (b"limits@openssh.com", b"1") => can.limits = true,
            _ => {}
        }
    }
    Ok(can)
}

/// The longest data of a read and a write; a zero means that the server does not say.
fn limits(mut fields: &[u8]) -> Result<(u32, u32), SftpError> {
    let mut next = || fields.try_get_u64().map_err(|_| SftpError::Protocol("limits without numbers"));
    let (_, read, write) = (next()?, next()?, next()?);
    let most = |said: u64| match said {
        0 => COMMON_DATA,
        said => u32::try_from(said.clamp(LEAST_DATA, MAX_DATA as u64)).unwrap_or(COMMON_DATA),
    };
    Ok((most(read), most(write)))
}
