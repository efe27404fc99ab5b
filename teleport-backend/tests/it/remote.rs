//! Drivers for servers: the suite, and what happens when the server or the network fails. Every test runs on each of the servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use teleport_backend::conformance::{self, SuiteClock};
use teleport_backend::{OpenError, open_remote};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::storage::{
    Backend, BackendExt, Batch, Condition, Key, Prefix, Revision, StorageError, Watch, WatchEnd, WatchEvent,
};
use teleport_core::task::TaskScope;
use teleport_core::testing::ManualClock;
use tokio::time::Instant;

use crate::history::g2_two_services_over_bad_networks_are_linearizable;
use crate::servers::proxy::{Mode, Proxy};
use crate::servers::{Etcd, PATIENCE, Postgres, remote};

pub(crate) enum Server {
    Etcd(Etcd),
    Postgres(Postgres),
}

impl Server {
    pub(crate) async fn etcd() -> Self {
        Self::Etcd(Etcd::start().await)
    }

    pub(crate) async fn postgres() -> Self {
        Self::Postgres(Postgres::start().await)
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Etcd(etcd) => etcd.port,
            Self::Postgres(postgres) => postgres.port,
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.kill(),
            Self::Postgres(postgres) => postgres.kill(),
        }
    }

    async fn restart(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.restart().await,
            Self::Postgres(postgres) => postgres.restart().await,
        }
    }

    /// The URL of a cluster's place, through a port.
    pub(crate) fn url(&self, port: u16, name: &str) -> String {
        match self {
            Self::Etcd(_) => format!("etcd://127.0.0.1:{port}/{name}?timeout=30s"),
            Self::Postgres(_) => {
                format!("postgres://tester@127.0.0.1:{port}/state?schema={name}&timeout=30s")
            }
        }
    }

    pub(crate) async fn open(&self, port: u16, name: &str) -> Arc<dyn Backend> {
        open(&self.url(port, name)).await.unwrap()
    }
}

async fn open(url: &str) -> Result<Arc<dyn Backend>, OpenError> {
    open_remote(url, Arc::new(SystemClock::new()), remote()).await
}

/// The same where a call has little time: on a machine with much to do it is tried again.
async fn opened(url: &str) -> Arc<dyn Backend> {
    let until = Instant::now() + PATIENCE;
    loop {
        match open(url).await {
            Ok(backend) => return backend,
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
    }
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub(crate) fn number(value: u64) -> Bytes {
    value.to_string().into()
}

/// The whole error, with its sources.
pub(crate) fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

async fn next(watch: &mut Watch) -> Result<WatchEvent, WatchEnd> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event comes in time")
}

async fn ready(backend: &dyn Backend, prefix: &Prefix) -> Watch {
    let mut watch = backend.watch(prefix).await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(WatchEvent::Ready { .. })));
    watch
}

async fn until_written(backend: &dyn Backend, at: &Key, value: u64) -> Revision {
    let until = Instant::now() + PATIENCE;
    loop {
        match backend.put(at, number(value), None).await {
            Ok(revision) => return revision,
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
    }
}

/// Both servers, each in a test of its own.
macro_rules! on_each {
    ($($name:ident),+ $(,)?) => {
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                Box::pin(super::$name(super::Server::etcd().await)).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                Box::pin(super::$name(super::Server::postgres().await)).await;
            })+
        }
    };
}

on_each!(
    conforms,
    a_cut_connection_leaves_no_gap,
    a_killed_server_keeps_what_it_acknowledged,
    an_answer_that_is_lost_is_an_unknown_outcome,
    slow_servers_are_waited_for,
    calls_end_in_time,
    i2_one_of_many_services_wins,
    expired_items_are_removed_once_by_all,
    g2_a_clock_that_jumps_ahead_and_back_removes_nothing,
    i3_names_are_data_and_clusters_share_a_server,
    bad_urls_and_servers_that_are_away,
    g2_two_services_over_bad_networks_are_linearizable,
);

async fn conforms(server: Server) {
    let count = AtomicUsize::new(0);
    let factory = async |clock: Arc<dyn Clock>| {
        let name = format!("suite{}", count.fetch_add(1, Ordering::Relaxed));
        open_remote(&server.url(server.port(), &name), clock, remote()).await.unwrap()
    };
    conformance::run_all(&factory).await;
}

/// A watch behind a network that breaks again and again hears of every commit once, in order.
async fn a_cut_connection_leaves_no_gap(server: Server) {
    let proxy = Proxy::to(server.port()).await;
    let direct = server.open(server.port(), "gap").await;
    let through = server.open(proxy.port, "gap").await;
    let prefix = Prefix::new("n").unwrap();
    let mut watch = ready(&*through, &prefix).await;
    for value in 0..60 {
        direct.put(&key("n/x"), number(value), None).await.unwrap();
        if value % 10 == 3 {
            proxy.set(if value % 20 == 3 { Mode::Pass } else { Mode::Refuse });
            proxy.cut();
        }
        if value % 10 == 8 {
            proxy.set(Mode::Pass);
        }
    }
    proxy.set(Mode::Pass);
    for value in 0..60 {
        match next(&mut watch).await {
            Ok(WatchEvent::Put(item)) => assert_eq!(item.value, number(value), "no gap, and nothing twice"),
            other => panic!("{other:?} instead of {value}"),
        }
    }
    assert_eq!(through.get(&key("n/x")).await.unwrap().unwrap().value, number(59));
    through.close().await;
    direct.close().await;
}

/// `kill -9` at any moment loses nothing that was acknowledged; who reads or watches meanwhile goes on afterwards.
async fn a_killed_server_keeps_what_it_acknowledged(mut server: Server) {
    // Short: whoever has not sent its write yet waits as long for a server that is gone.
    let backend = opened(&server.url(server.port(), "killed").replace("timeout=30s", "timeout=5s")).await;
    let mut watch = ready(&*backend, &Prefix::new("w").unwrap()).await;
    // Taken while they come: a watch does not wait for ever for whoever looks at it later.
    let (events, mut told) = tokio::sync::mpsc::unbounded_channel();
    let watching = TaskScope::new();
    watching.spawn(async move {
        loop {
            let event = watch.next().await;
            let is_over = event.is_err();
            if events.send(event).is_err() || is_over {
                return;
            }
        }
    });
    let mut acknowledged = BTreeMap::new();
    let mut unknown = 0;
    for cycle in 0..3_u64 {
        let scope = TaskScope::new();
        let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
        for writer in 0..4 {
            let (backend, sender) = (Arc::clone(&backend), sender.clone());
            scope.spawn(async move {
                for value in 0.. {
                    let at = key(&format!("w/{cycle}.{writer}.{value}"));
                    let result = backend.create(&at, number(value), None).await;
                    let is_over = result.is_err();
                    if sender.send((at, result)).is_err() || is_over {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut take = |(at, result): (Key, Result<Revision, StorageError>)| match result {
            Ok(revision) => {
                acknowledged.insert(at, revision);
            }
            Err(StorageError::Unavailable { .. }) => unknown += 1,
            // The outcome of a write that is repeated by nobody cannot be a conflict with itself.
            Err(other) => panic!("{other:?}"),
        };
        for _ in 0..40 {
            take(results.recv().await.unwrap());
        }
        server.kill();
        while let Some(result) = results.recv().await {
            take(result);
        }
        server.restart().await;
        until_written(&*backend, &key(&format!("w/{cycle}")), cycle).await;
    }
    let found = backend.list(&Prefix::root()).await.unwrap();
    let found: BTreeMap<_, _> = found.into_iter().map(|item| (item.key, item.revision)).collect();
    for (at, revision) in &acknowledged {
        assert_eq!(found.get(at), Some(revision), "{at} was acknowledged");
    }
    assert!(found.len() <= acknowledged.len() + unknown + 3, "nothing is written twice");
    // All of it was told as well, in order.
    let mut heard = BTreeMap::new();
    let mut newest = Revision::ZERO;
    // A write that was never answered may have been repeated by the test itself, and then the newest counts.
    while heard != found {
        let event =
            tokio::time::timeout(PATIENCE, told.recv()).await.expect("an event comes in time").unwrap();
        match event {
            Ok(WatchEvent::Put(item)) => {
                assert!(item.revision > newest, "{} after {newest}", item.revision);
                newest = item.revision;
                heard.insert(item.key, item.revision);
            }
            other => panic!("{other:?} after {} of {}", heard.len(), found.len()),
        }
    }
    backend.close().await;
}

/// A connection that is lost in the middle of a commit: the caller hears that nothing is known, and the write is not repeated.
async fn an_answer_that_is_lost_is_an_unknown_outcome(server: Server) {
    let proxy = Proxy::to(server.port()).await;
    let direct = server.open(server.port(), "lost").await;
    let through = server.open(proxy.port, "lost").await;
    let mut watch = ready(&*direct, &Prefix::root()).await;
    let at = key("counter");
    through.put(&at, number(0), None).await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(WatchEvent::Put(_))));

    proxy.set(Mode::StallAnswersTo(b"counter"));
    let cut = async {
        // Only what the server has done is told.
        let told = next(&mut watch).await;
        proxy.cut();
        told
    };
    let (result, told) = tokio::join!(through.put(&at, number(1), None), cut);
    proxy.set(Mode::Pass);
    match result {
        Err(StorageError::Unavailable { source }) => {
            assert!(said(&*source).contains("not known"), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(told, Ok(WatchEvent::Put(item)) if item.value == number(1)));
    direct.put(&key("end"), number(2), None).await.unwrap();
    match next(&mut watch).await {
        Ok(WatchEvent::Put(item)) => assert_eq!(item.key, key("end"), "it was not written again"),
        other => panic!("{other:?}"),
    }
    through.close().await;
    direct.close().await;
}

async fn slow_servers_are_waited_for(server: Server) {
    let proxy = Proxy::to(server.port()).await;
    let through = server.open(proxy.port, "slow").await;
    proxy.set(Mode::Delay(Duration::from_millis(150)));
    let mut watch = ready(&*through, &Prefix::root()).await;
    let batch =
        Batch::new().put(key("a"), Condition::Absent, "1", None).put(key("b"), Condition::Absent, "1", None);
    let revision = through.commit(batch).await.unwrap();
    for at in ["a", "b"] {
        match next(&mut watch).await {
            Ok(WatchEvent::Put(item)) => assert_eq!((item.key, item.revision), (key(at), revision)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(through.list(&Prefix::root()).await.unwrap().len(), 2);
    through.close().await;
}

/// Nothing waits for ever for a server that says nothing; when it speaks again all is well.
async fn calls_end_in_time(server: Server) {
    let proxy = Proxy::to(server.port()).await;
    // A second is short for a machine with much to do: what has to succeed is tried again.
    server.open(server.port(), "dead").await.close().await;
    let url = server.url(proxy.port, "dead").replace("timeout=30s", "timeout=1s");
    let through = opened(&url).await;
    until_written(&*through, &key("a"), 1).await;
    proxy.set(Mode::Stall);
    let unavailable = |error: StorageError| match error {
        StorageError::Unavailable { source } => said(&*source),
        other => panic!("{other:?}"),
    };
    let bounded = tokio::time::timeout(PATIENCE, async {
        unavailable(through.get(&key("a")).await.unwrap_err());
        unavailable(through.range(&Prefix::root(), None, 9).await.unwrap_err());
        unavailable(through.watch(&Prefix::root()).await.unwrap_err());
        unavailable(through.put(&key("a"), number(2), None).await.unwrap_err());
    });
    bounded.await.expect("each call ends");
    proxy.set(Mode::Pass);
    proxy.cut();
    let revision = until_written(&*through, &key("b"), 3).await;
    through.close().await;
    let direct = server.open(server.port(), "dead").await;
    assert_eq!(direct.get(&key("b")).await.unwrap().unwrap().revision, revision);
    direct.close().await;
}

/// Single use: of a hundred attempts by two services exactly one succeeds, and counters lose nothing.
async fn i2_one_of_many_services_wins(server: Server) {
    let services = [server.open(server.port(), "many").await, server.open(server.port(), "many").await];
    for round in 0..5 {
        let winners = Arc::new(AtomicUsize::new(0));
        let scope = TaskScope::new();
        for attempt in 0..100_usize {
            let service = Arc::clone(&services[attempt % 2]);
            let winners = Arc::clone(&winners);
            scope.spawn(async move {
                match service.create(&key(&format!("token/{round}")), number(1), None).await {
                    Ok(_) => {
                        winners.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => assert!(error.is_conflict(), "{error:?}"),
                }
            });
        }
        tokio::time::timeout(PATIENCE, scope.join()).await.unwrap();
        assert_eq!(winners.load(Ordering::SeqCst), 1);
    }
    let counter = key("counter");
    services[0].put(&counter, number(0), None).await.unwrap();
    let scope = TaskScope::new();
    for writer in 0..8 {
        let (service, counter) = (Arc::clone(&services[writer % 2]), counter.clone());
        scope.spawn(async move {
            let mut left = 10;
            while left > 0 {
                let item = service.get(&counter).await.unwrap().unwrap();
                let value: u64 = std::str::from_utf8(&item.value).unwrap().parse().unwrap();
                match service.update(&counter, item.revision, number(value + 1), None).await {
                    Ok(_) => left -= 1,
                    Err(error) => assert!(error.is_conflict(), "{error:?}"),
                }
            }
        });
    }
    tokio::time::timeout(2 * PATIENCE, scope.join()).await.unwrap();
    assert_eq!(services[1].get(&counter).await.unwrap().unwrap().value, number(80));
    for service in services {
        service.close().await;
    }
}

/// Two services sweep one store, and the one that does it most goes away.
async fn expired_items_are_removed_once_by_all(server: Server) {
    let clock = Arc::new(SuiteClock::new());
    let shared = || Arc::clone(&clock) as Arc<dyn Clock>;
    let url = server.url(server.port(), "swept");
    let first = open_remote(&url, shared(), remote()).await.unwrap();
    let other = open_remote(&url, shared(), remote()).await.unwrap();
    let mut watch = ready(&*other, &Prefix::new("s").unwrap()).await;
    for round in 0..2 {
        let expires = clock.after(Duration::from_secs(60));
        for number in 0..40 {
            first_or(&*first, &*other, round)
                .put(&key(&format!("s/{round}.{number}")), Bytes::new(), Some(expires))
                .await
                .unwrap();
            next(&mut watch).await.unwrap();
        }
        clock.advance(Duration::from_secs(60));
        let mut gone = std::collections::BTreeSet::new();
        while gone.len() < 40 {
            match next(&mut watch).await {
                Ok(WatchEvent::Deleted { key, .. }) => assert!(gone.insert(key.clone()), "{key} twice"),
                unexpected => panic!("{unexpected:?}"),
            }
        }
        first.close().await;
    }
    let end = other.put(&key("s/end"), Bytes::new(), None).await.unwrap();
    assert!(
        matches!(next(&mut watch).await, Ok(WatchEvent::Put(item)) if item.revision == end),
        "nothing more"
    );
    other.close().await;
}

/// What has expired by the clock of who sweeps, which has just jumped, is there again when the clock is right again.
async fn g2_a_clock_that_jumps_ahead_and_back_removes_nothing(server: Server) {
    let clock = Arc::new(ManualClock::default());
    let shared = Arc::clone(&clock) as Arc<dyn Clock>;
    let backend = open_remote(&server.url(server.port(), "jumps"), shared, remote()).await.unwrap();
    let expires = |seconds| Some(clock.now().saturating_add(Duration::from_secs(seconds)));
    let mut watch = ready(&*backend, &Prefix::new("s").unwrap()).await;
    // This service is the one that sweeps.
    backend.put(&key("s/first"), Bytes::new(), expires(60)).await.unwrap();
    next(&mut watch).await.unwrap();
    clock.advance(Duration::from_secs(60));
    assert!(matches!(next(&mut watch).await, Ok(WatchEvent::Deleted { .. })));

    let right = clock.now();
    backend.put(&key("s/mark"), number(7), expires(3000)).await.unwrap();
    for hours in [1, 24 * 30] {
        clock.advance(Duration::from_secs(hours * 3600));
        assert!(backend.get(&key("s/mark")).await.unwrap().is_none(), "it has expired by this clock");
        // Long enough for several looks; a wrong one would have to come later to be missed.
        tokio::time::sleep(Duration::from_secs(2)).await;
        clock.set(right);
        assert!(backend.get(&key("s/mark")).await.unwrap().is_some(), "it is there again");
    }
    backend.close().await;
}

fn first_or<'a>(first: &'a dyn Backend, other: &'a dyn Backend, round: i32) -> &'a dyn Backend {
    if round == 0 { first } else { other }
}

/// What one cluster does is not seen by its neighbour, whatever the keys look like.
async fn i3_names_are_data_and_clusters_share_a_server(server: Server) {
    let one = server.open(server.port(), "one").await;
    let two = server.open(server.port(), "one_more").await;
    let mut watch = ready(&*two, &Prefix::root()).await;
    let names = ["a", "'; drop table items; --", "%", "_", "\\", "\"", "a/%_\\'", "$1", "one_more/a"]
        .map(|name| name.replace(' ', "~"));
    for name in &names {
        one.create(&key(name), Bytes::from_static(b"one"), None).await.unwrap();
    }
    assert!(two.list(&Prefix::root()).await.unwrap().is_empty());
    let seen = one.list(&Prefix::root()).await.unwrap();
    let mut sorted: Vec<_> = names.iter().map(|name| key(name)).collect();
    sorted.sort();
    assert_eq!(seen.into_iter().map(|item| item.key).collect::<Vec<_>>(), sorted, "in the order of bytes");
    two.create(&key("a"), Bytes::from_static(b"two"), None).await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(WatchEvent::Put(item)) if item.value == "two"));
    assert_eq!(one.delete_range(&Prefix::root()).await.unwrap(), names.len());
    assert_eq!(two.get(&key("a")).await.unwrap().unwrap().value, "two");
    one.close().await;
    two.close().await;
}

async fn bad_urls_and_servers_that_are_away(mut server: Server) {
    let port = server.port();
    let url = server.url(port, "away").replace("timeout=30s", "timeout=1s");
    for bad in [format!("{url}&tls=maybe"), format!("{url}&what=ever"), url.replace("127.0.0.1", "")] {
        assert!(matches!(open(&bad).await, Err(OpenError::Invalid { .. })), "{bad}");
    }
    server.kill();
    let error = open(&url).await.unwrap_err();
    assert!(said(&error).contains(&format!("127.0.0.1:{port}")), "{}", said(&error));
    let secret = url.replacen("://", "://user:s3cr3t@", 1).replacen("tester@", "", 1);
    let error = open(&secret).await.unwrap_err();
    assert!(!said(&error).contains("s3cr3t") && !format!("{error:?}").contains("s3cr3t"), "{error:?}");
}
