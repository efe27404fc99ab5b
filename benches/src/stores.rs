//! The drivers of storage beside what they are made of: commits a second by one and by many callers, reads, and how fast those who watch are told.

mod raw;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use teleport_backend::memory::MemoryBackend;
use teleport_backend::network::{BoxedStream, Network, Remote, TlsOptions};
use teleport_backend::open_remote;
use teleport_backend::redb::RedbBackend;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::SystemEntropy;
use teleport_core::storage::{Backend, BackendExt, Key, Prefix, WatchEvent};
use teleport_core::task::TaskScope;
use tokio::time::Instant;

use self::raw::Raw;
use crate::Scale;
use crate::report::{Goal, Row, median};
use crate::servers::StoreServer;

/// As long as the record of a node.
pub(crate) const VALUE: usize = 300;
/// How many items a list has.
pub(crate) const ITEMS: usize = 1000;
/// How many callers there are where there are many.
const CALLERS: usize = 64;
/// How many watch one prefix.
const WATCHES: usize = 1000;

/// Plain TCP, to this machine.
#[derive(Debug)]
struct Tcp;

#[async_trait]
impl Network for Tcp {
    async fn connect(&self, host: &str, port: u16) -> std::io::Result<BoxedStream> {
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn secure(&self, _: BoxedStream, host: &str, _: &TlsOptions) -> std::io::Result<BoxedStream> {
        Err(std::io::Error::other(format!("{host} is spoken to without TLS here")))
    }
}

/// Commits a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commits {
    /// By one caller.
    alone: f64,
    /// By [`CALLERS`].
    together: f64,
}

/// What one kind of storage reaches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    commits: Commits,
    /// Reading one item, in microseconds.
    get: f64,
    /// Reading [`ITEMS`], in milliseconds.
    range: f64,
}

/// Memory, redb, etcd and PostgreSQL.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut rows = Vec::new();
    let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
    rows.extend(of("memory", &memory, None, None, scale).await?);

    let dir = tempfile::tempdir()?;
    let raw = Arc::new(Raw::redb(&dir.path().join("raw.redb"))?);
    let redb = RedbBackend::open(dir.path().join("ours.redb"), Arc::clone(&clock)).await?;
    let redb: Arc<dyn Backend> = Arc::new(redb);
    rows.extend(of("redb", &redb, Some(raw.figures(scale).await?), None, scale).await?);
    redb.close().await;
    if scale.smoke {
        return Ok(rows);
    }
    for name in ["etcd", "postgres"] {
        let server =
            if name == "etcd" { StoreServer::etcd().await? } else { StoreServer::postgres().await? };
        let remote = Remote::new(Arc::new(Tcp), Arc::new(SystemEntropy::new()));
        let ours = open_remote(&server.url, Arc::clone(&clock), remote).await?;
        let raw = match name {
            "etcd" => Raw::etcd(server.port).await?,
            _ => Raw::postgres(server.port).await?,
        };
        let raw = Arc::new(raw);
        let figures = raw.figures(scale).await?;
        rows.extend(of(name, &ours, Some(figures), raw.told(scale).await?, scale).await?);
        ours.close().await;
    }
    Ok(rows)
}

fn key(text: &str) -> Result<Key> {
    Ok(Key::new(text)?)
}

/// How often `act` is done in a second by so many callers at a time: the median of some rounds.
pub(crate) async fn rate<F: Future<Output = Result<()>> + Send>(
    callers: usize,
    scale: Scale,
    act: impl Fn(usize, usize) -> F + Clone + Send + Sync + 'static,
) -> Result<f64> {
    let time = scale.of(Duration::from_secs(1), Duration::from_millis(50));
    let mut rates = Vec::new();
    for _ in 0..scale.of(3, 1) {
        let (done, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (scope, began) = (TaskScope::new(), Instant::now());
        for caller in 0..callers {
            let (act, done, failed) = (act.clone(), Arc::clone(&done), Arc::clone(&failed));
            scope.spawn(async move {
                let mut round = 0;
                while began.elapsed() < time {
                    match act(caller, round).await {
                        Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                        Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                    };
                    round += 1;
                }
            });
        }
        scope.join().await;
        anyhow::ensure!(failed.load(Ordering::Relaxed) == 0, "some requests have failed");
        rates.push(done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64());
    }
    Ok(median(rates))
}

/// How long `act` takes, in seconds: the median.
pub(crate) async fn time<F: Future<Output = Result<()>>>(
    times: usize,
    act: impl Fn(usize) -> F,
) -> Result<f64> {
    let mut took = Vec::new();
    for round in 0..times {
        let began = Instant::now();
        act(round).await?;
        took.push(began.elapsed().as_secs_f64());
    }
    Ok(median(took))
}

async fn measure(backend: &Arc<dyn Backend>, scale: Scale) -> Result<Figures> {
    let put = |backend: &Arc<dyn Backend>| {
        let backend = Arc::clone(backend);
        move |caller: usize, round: usize| {
            let backend = Arc::clone(&backend);
            async move {
                let key = key(&format!("commits/{caller}/{}", round % 100))?;
                backend.put(&key, Bytes::from(vec![b'x'; VALUE]), None).await?;
                Ok(())
            }
        }
    };
    let alone = rate(1, scale, put(backend)).await?;
    let together = rate(CALLERS, scale, put(backend)).await?;
    for item in 0..ITEMS {
        backend.put(&key(&format!("items/{item:04}"))?, Bytes::from(vec![b'x'; VALUE]), None).await?;
    }
    let get = time(scale.of(2000, 10), async |round| {
        let item = backend.get(&key(&format!("items/{:04}", round % ITEMS))?).await?;
        item.map(drop).context("an item is missing")
    });
    let get = get.await? * 1e6;
    let items = Prefix::new("items")?;
    let range = time(scale.of(50, 2), async |_| {
        anyhow::ensure!(backend.list(&items).await?.len() == ITEMS, "items are missing");
        Ok(())
    });
    Ok(Figures { commits: Commits { alone, together }, get, range: range.await? * 1e3 })
}

/// How long it takes until all who watch have heard of a commit, from its beginning, in milliseconds.
async fn fan_out(backend: &Arc<dyn Backend>, scale: Scale) -> Result<f64> {
    let prefix = Prefix::new("watched")?;
    let count = scale.of(WATCHES, 10);
    let mut watches = Vec::new();
    for _ in 0..count {
        watches.push(backend.watch(&prefix).await?);
    }
    let mut took = Vec::new();
    for round in 0..scale.of(20, 2) {
        let began = Instant::now();
        backend.put(&key(&format!("watched/{round}"))?, Bytes::from(vec![b'x'; VALUE]), None).await?;
        for watch in &mut watches {
            while !matches!(watch.next().await?, WatchEvent::Put(_)) {}
        }
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(took))
}

async fn of(
    name: &'static str,
    backend: &Arc<dyn Backend>,
    raw: Option<Figures>,
    told: Option<Commits>,
    scale: Scale,
) -> Result<Vec<Row>> {
    let ours = measure(backend, scale).await.with_context(|| name.to_owned())?;
    let row = |what: &str, unit, figure: fn(&Figures) -> f64, goal| {
        let what = format!("{name}: {what}");
        match &raw {
            Some(raw) => Row::against(what, unit, figure(&ours), ("raw", figure(raw)), goal),
            None => Row::alone(what, unit, figure(&ours), Goal::Free),
        }
    };
    // Of one that does the same, if there is one; of the least that there is otherwise.
    let least = if told.is_some() { Goal::Free } else { Goal::AtLeast(0.9) };
    let same = |figure: fn(&Commits) -> f64| {
        told.map(|told| {
            let what = format!("{name}:   beside raw that does the same");
            Row::against(what, "1/s", figure(&ours.commits), ("raw", figure(&told)), Goal::AtLeast(0.9))
        })
    };
    let shared = if name == "redb" { Goal::AtLeast(10.0) } else { Goal::Free };
    let mut rows = vec![row("commits of one caller", "1/s", |figures| figures.commits.alone, least)];
    rows.extend(same(|commits| commits.alone));
    rows.push(row(
        &format!("commits of {CALLERS} callers"),
        "1/s",
        |figures| figures.commits.together,
        Goal::Free,
    ));
    rows.extend(same(|commits| commits.together));
    rows.extend([
        Row::against(
            format!("{name}:   beside one caller"),
            "1/s",
            ours.commits.together,
            ("alone", ours.commits.alone),
            shared,
        ),
        row("an item", "us", |figures| figures.get, Goal::Free),
        row(&format!("a list of {ITEMS}"), "ms", |figures| figures.range, Goal::Free),
        Row::alone(
            format!("{name}: {} watches have heard of a commit", scale.of(WATCHES, 10)),
            "ms",
            fan_out(backend, scale).await?,
            Goal::Free,
        ),
    ]);
    Ok(rows)
}
