//! A node and ways to it that break, within one process.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, BytesMut};
use teleport_core::task::{Shutdown, TaskScope};
use teleport_core::testing::RepeatableEntropy;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

use super::super::client::{ClientLane, Notice, Redial, Undialled, identification};
use super::super::lane::ResumeStream;
use super::super::node::{Claim, Kept, NotResumed, Table};
use super::super::wire::{Hello, MARK, Opening};
use crate::rpc::BoxedIo;

/// Numbers that look random, the same for the same seed.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// A wire that breaks when so many bytes have gone either way, or stays silent from then on.
pub(super) struct Cut {
    wire: DuplexStream,
    left: usize,
    silent: bool,
    cuts: Arc<AtomicUsize>,
}

impl Cut {
    fn spend(&mut self, bytes: usize) {
        self.left -= bytes;
        if self.left == 0 {
            self.cuts.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.left == 0 {
            return if self.silent { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        let mut part = vec![0; out.remaining().min(self.left)];
        let mut part = ReadBuf::new(&mut part);
        let polled = Pin::new(&mut self.wire).poll_read(context, &mut part);
        self.spend(part.filled().len());
        out.put_slice(part.filled());
        polled
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.left == 0 {
            // The system's buffer takes what nobody gets.
            return if self.silent {
                Poll::Ready(Ok(data.len()))
            } else {
                Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()))
            };
        }
        let part = &data[..data.len().min(self.left)];
        let polled = Pin::new(&mut self.wire).poll_write(context, part);
        if let Poll::Ready(Ok(written)) = polled {
            self.spend(written);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

/// After how many bytes a new wire breaks, and whether it falls silent then; given how many have broken.
pub(super) type Fate = Box<dyn FnMut(usize) -> (usize, bool) + Send>;

/// A node with one table, and the network before it.
#[derive(Clone)]
pub(super) struct World(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) table: Arc<Table<&'static str>>,
    pub(super) scope: TaskScope,
    pub(super) entropy: Arc<RepeatableEntropy>,
    pub(super) leaving: Shutdown,
    pub(super) permits: AtomicBool,
    /// How many wires broke.
    pub(super) cuts: Arc<AtomicUsize>,
    fate: Mutex<Fate>,
    begun: mpsc::UnboundedSender<(ResumeStream, Option<Claim>)>,
    /// Why clients were refused.
    pub(super) refused: Mutex<Vec<String>>,
    pub(super) notices: Mutex<Vec<Notice>>,
    /// Nobody is reached.
    pub(super) unreachable: AtomicBool,
    buffer: usize,
}

/// The node's end of a connection.
pub(super) struct Served {
    pub(super) stream: ResumeStream,
    pub(super) kept: Option<Kept<&'static str>>,
}

impl World {
    pub(super) fn new(
        keeps: Duration,
        fate: impl FnMut(usize) -> (usize, bool) + Send + 'static,
    ) -> (Self, mpsc::UnboundedReceiver<(ResumeStream, Option<Claim>)>) {
        let (begun, connections) = mpsc::unbounded_channel();
        let inner = Inner {
            table: Arc::new(Table::new(keeps, 2)),
            scope: TaskScope::new(),
            entropy: Arc::new(RepeatableEntropy::new(5)),
            leaving: Shutdown::new(),
            permits: AtomicBool::new(true),
            cuts: Arc::default(),
            fate: Mutex::new(Box::new(fate)),
            begun,
            refused: Mutex::default(),
            notices: Mutex::default(),
            unreachable: AtomicBool::new(false),
            buffer: 4096,
        };
        (Self(Arc::new(inner)), connections)
    }

    /// A wire to the node, which serves its other end.
    pub(super) fn wire(&self) -> Cut {
        let (near, far) = tokio::io::duplex(self.0.buffer);
        let cuts = self.0.cuts.load(Ordering::SeqCst);
        let (left, silent) = self.0.fate.lock().unwrap()(cuts);
        let world = self.clone();
        self.0.scope.spawn(async move { world.serve(Box::new(far)).await });
        Cut { wire: near, left, silent, cuts: Arc::clone(&self.0.cuts) }
    }

    async fn serve(self, mut far: BoxedIo) {
        let greeting = format!("SSH-2.0-Test {MARK}\r\n");
        if far.write_all(greeting.as_bytes()).await.is_err() {
            return;
        }
        let mut read = BytesMut::new();
        let (hello, len) = loop {
            match Hello::read(&read) {
                Opening::Hello(hello, len) => break (hello, len),
                Opening::Other => panic!("an SSH client"),
                Opening::Partial => {}
            }
            match far.read_buf(&mut read).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        read.advance(len);
        let Inner { table, entropy, leaving, .. } = &*self.0;
        match hello {
            Hello::New { key } => {
                let Some((carrier, stream, claim)) = table.begin(key, &**entropy).unwrap() else {
                    self.0.refused.lock().unwrap().push("no key".to_owned());
                    return;
                };
                self.0.begun.send((stream, Some(claim))).unwrap();
                let leaving = leaving.clone();
                carrier.run(far, read, Arc::clone(table), async move { leaving.draining().await }).await;
            }
            Hello::Again(again) => {
                let permit = |_: &&str| match self.0.permits.load(Ordering::SeqCst) {
                    true => Ok(()),
                    false => Err("not permitted".to_owned()),
                };
                struct Why(String);
                impl From<NotResumed> for Why {
                    fn from(why: NotResumed) -> Self {
                        Self(why.to_string())
                    }
                }
                let permit = |owner: &&'static str| permit(owner).map_err(Why);
                if let Err(why) = table.resume(far, read, again, &**entropy, permit).await {
                    self.0.refused.lock().unwrap().push(why.0);
                }
            }
        }
    }

    /// A client of the node, once it has heard the node.
    pub(super) async fn client(&self) -> (ClientLane, ResumeStream) {
        let mut wire = self.wire();
        let (mut read, end) = identification(&mut wire).await.unwrap();
        read.advance(end.unwrap());
        let world = self.clone();
        let observer = Arc::new(move |notice| world.0.notices.lock().unwrap().push(notice));
        let entropy = Arc::clone(&self.0.entropy) as _;
        let begun = ClientLane::begin(wire, read, self.clone(), "web".to_owned(), Some(observer), entropy);
        let (lane, stream, driver) = begun.unwrap();
        self.0.scope.spawn(driver);
        (lane, stream)
    }

    /// The node lets the client in: what it has can be resumed from now on.
    pub(super) fn let_in(&self, (stream, claim): (ResumeStream, Option<Claim>)) -> Served {
        Served { stream, kept: claim.map(|claim| self.0.table.keep(claim, "alice")) }
    }

    pub(super) fn refused(&self) -> Vec<String> {
        self.0.refused.lock().unwrap().clone()
    }
}

#[async_trait]
impl Redial for World {
    type Wire = Cut;

    async fn dial(&self) -> Result<Cut, Undialled> {
        match self.0.unreachable.load(Ordering::SeqCst) {
            true => Err(Undialled::Unreachable("nobody is reached".to_owned())),
            false => Ok(self.wire()),
        }
    }

    async fn goodbye(&self, mut wire: Cut) {
        let _ = wire.shutdown().await;
    }
}
