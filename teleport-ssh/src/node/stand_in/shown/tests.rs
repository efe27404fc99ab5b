#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::api::{ApiErrorKind, ApiResult, OpenSshLogin};
use teleport_core::cert::IssuedSshCertificate;
use teleport_core::label::Labels;
use teleport_core::resource::NodeKind;
use teleport_core::testing::{ManualClock, RepeatableEntropy};
use tokio::sync::Semaphore;

use super::*;

const LIFE: Duration = Duration::from_secs(3600);

/// Answers when it may, and counts.
#[derive(Debug)]
struct Auth {
    clock: Arc<ManualClock>,
    asked: AtomicUsize,
    may_answer: Semaphore,
    away: AtomicBool,
}

#[async_trait]
impl StandInApi for Auth {
    async fn stand_in(&self, _: StandIn) -> ApiResult<IssuedSshCertificate> {
        let serial = self.asked.fetch_add(1, Ordering::SeqCst) as u64;
        self.may_answer.acquire().await.unwrap().forget();
        if self.away.load(Ordering::SeqCst) {
            return Err(ApiError::new(ApiErrorKind::Unavailable, "away"));
        }
        let now = self.clock.now();
        Ok(IssuedSshCertificate {
            ssh: String::new(),
            serial,
            valid_after: now,
            valid_before: now.saturating_add(LIFE),
        })
    }

    async fn openssh_login(&self, _: OpenSshLogin) -> ApiResult<IssuedSshCertificate> {
        Err(ApiError::denied())
    }
}

struct World {
    auth: Arc<Auth>,
    shown: Shown,
    trust: TrustBundle,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let auth = Arc::new(Auth {
            clock: Arc::clone(&clock),
            asked: AtomicUsize::default(),
            may_answer: Semaphore::new(0),
            away: AtomicBool::default(),
        });
        let access = Arc::clone(&auth) as Arc<dyn StandInApi>;
        let shown = Shown::new(access, clock, Arc::new(RepeatableEntropy::new(1)));
        let trust = TrustBundle {
            cluster: "example.com".parse().unwrap(),
            user_ca: Vec::new(),
            openssh_ca: Vec::new(),
            host_ca: Vec::new(),
            host_tls_ca: Vec::new(),
            user_tls_ca: Vec::new(),
        };
        Self { auth, shown, trust }
    }

    fn asked(&self) -> usize {
        self.auth.asked.load(Ordering::SeqCst)
    }

    async fn of(&self, server: &NodeRecord) -> Result<HostIdentityHandle, NotShown> {
        self.shown.of(server, &self.trust).await
    }
}

fn server(id: u8) -> NodeRecord {
    NodeRecord {
        host_id: format!("00000000-0000-4000-8000-0000000000{id:02x}").parse().unwrap(),
        sub_kind: NodeKind::OpenSsh,
        name: "db".parse().unwrap(),
        address: "db.example.com:22".to_owned(),
        labels: Labels::default(),
        proxy_ids: Vec::new(),
        version: String::new(),
    }
}

/// Lets the auth service answer once, when everybody else waits for it.
async fn answer(world: &World) {
    // Whoever is not waiting yet would not be held up by the answer.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    world.auth.may_answer.add_permits(1);
}

#[tokio::test]
async fn many_clients_ask_once() {
    let (world, one, other) = (World::new(), server(1), server(2));
    let all = futures_util::future::join_all((0..20).map(|_| world.of(&one)));
    let (all, ()) = tokio::join!(all, answer(&world));
    assert_eq!((all.iter().filter(|identity| identity.is_ok()).count(), world.asked()), (20, 1));
    // Another server does not wait for this one.
    let (second, ()) = tokio::join!(world.of(&other), answer(&world));
    assert!(second.is_ok());
    assert_eq!(world.asked(), 2);
    world.of(&one).await.unwrap();
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn who_waited_in_vain_asks_no_more_and_who_comes_later_does() {
    let (world, server) = (World::new(), server(1));
    world.auth.away.store(true, Ordering::SeqCst);
    let all = futures_util::future::join_all((0..20).map(|_| world.of(&server)));
    let (all, ()) = tokio::join!(all, answer(&world));
    assert!(all.iter().all(Result::is_err));
    assert_eq!(world.asked(), 1);

    world.auth.away.store(false, Ordering::SeqCst);
    // Time is not exact to the last moment everywhere.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    let (later, ()) = tokio::join!(world.of(&server), answer(&world));
    assert!(later.is_ok());
    assert_eq!(world.asked(), 2);
}

/// Who comes while others are told of a failure that was before asks anew.
#[tokio::test(start_paused = true)]
async fn a_failure_does_not_go_on_from_one_to_the_next() {
    let (world, server) = (World::new(), server(1));
    world.auth.away.store(true, Ordering::SeqCst);
    let (mut first, mut second) = (Box::pin(world.of(&server)), Box::pin(world.of(&server)));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    world.auth.may_answer.add_permits(1);
    assert!(first.await.is_err());
    tokio::time::advance(Duration::from_secs(1)).await;
    world.auth.away.store(false, Ordering::SeqCst);
    let mut third = Box::pin(world.of(&server));
    assert!(futures_util::poll!(&mut third).is_pending());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(matches!(second.await, Err(NotShown::InVain)));
    world.auth.may_answer.add_permits(1);
    assert!(third.await.is_ok());
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn an_old_certificate_is_shown_while_the_auth_service_is_away_and_no_longer_than_it_lasts() {
    let (world, server) = (World::new(), server(1));
    let (first, ()) = tokio::join!(world.of(&server), answer(&world));
    let until = first.unwrap().current().valid_before;
    world.auth.clock.advance(LIFE / 3 * 2 + Duration::from_secs(1));
    world.auth.away.store(true, Ordering::SeqCst);
    let (all, ()) =
        tokio::join!(futures_util::future::join_all((0..5).map(|_| world.of(&server))), answer(&world));
    assert!(all.iter().all(|shown| shown.as_ref().unwrap().current().valid_before == until));
    assert_eq!(world.asked(), 2);
    world.auth.clock.advance(LIFE);
    let (ended, ()) = tokio::join!(world.of(&server), answer(&world));
    assert!(matches!(ended, Err(NotShown::Api(_))));
}

#[tokio::test]
async fn another_name_or_address_is_asked_for_anew() {
    let (world, mut server) = (World::new(), server(1));
    let (first, ()) = tokio::join!(world.of(&server), answer(&world));
    first.unwrap();
    for change in [
        |server: &mut NodeRecord| server.name = "db2".parse().unwrap(),
        |server: &mut NodeRecord| {
            server.address = "db2.example.com:22".to_owned();
        },
    ] {
        change(&mut server);
        let before = world.asked();
        let (shown, ()) = tokio::join!(world.of(&server), answer(&world));
        shown.unwrap();
        assert_eq!(world.asked(), before + 1);
    }
}
