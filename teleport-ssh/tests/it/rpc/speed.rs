//! How many small requests a second, measured when asked: `cargo test --release --test it -- --ignored --nocapture speed`.

use std::time::Duration;

use teleport_core::api::{AdminApi as _, CreateUser, IdentityApi as _, PublicApi as _, ReissueRequest};
use teleport_core::auth::Caller;
use teleport_core::id::{OsLogin, RoleName, UserName};
use teleport_core::testing::subject_keys;
use tokio::time::Instant;

use super::world::World;

const PARALLEL: usize = 16;
const ENOUGH: Duration = Duration::from_secs(5);

async fn rate<F: Future>(call: impl Fn() -> F) -> f64 {
    let begin = Instant::now();
    let work = (0..PARALLEL).map(async |_| {
        let mut done = 0_u32;
        while begin.elapsed() < ENOUGH {
            call().await;
            done += 1;
        }
        done
    });
    let done: u32 = futures_util::future::join_all(work).await.into_iter().sum();
    f64::from(done) / begin.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn small_requests() {
    let world = World::start().await;
    let alice = CreateUser {
        name: UserName::new("alice").unwrap(),
        roles: vec![RoleName::new("access").unwrap()],
        logins: vec![OsLogin::new("root").unwrap()],
        ttl: None,
    };
    world.service.acting_as(Caller::LocalAdmin).create_user(alice).await.unwrap();
    let client = world.as_user("alice", &["access"]).await;
    client.ping().await.unwrap();
    let pings = rate(async || client.ping().await.unwrap()).await;
    println!("{PARALLEL} parallel over one connection: {pings:.0} pings/s");
    let reissues = rate(async || {
        client.reissue_user(ReissueRequest { keys: subject_keys(1), ttl: Some(600) }).await.unwrap()
    })
    .await;
    println!("{PARALLEL} parallel over one connection: {reissues:.0} reissued certificates/s");
    // An unoptimised build says nothing about the goal.
    if !cfg!(debug_assertions) {
        assert!(pings > 4000.0 && reissues > 4000.0);
    }
}
