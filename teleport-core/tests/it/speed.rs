//! A floor under the speed of what is called most.

use teleport_core::api::{IdentityApi, ReissueRequest};
use teleport_core::audit::EventKind;
use teleport_core::testing::subject_keys;
use tokio::time::Instant;

use crate::cluster::{Cluster, at_once};

/// The cost of the service itself, with ports that cost nothing. The goal over the network is 4,000 a second on two cores;
/// this takes only a small part of that, even unoptimised (6,000 and more a second); the floor is one that a busy machine reaches, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanging_certificates_costs_the_service_little() {
    const EACH: usize = 500;
    let cluster = Cluster::new().await;
    cluster.sign_up("alice").await;
    let alice = cluster.user("alice", &["access"], &["root"]);
    let start = Instant::now();
    let workers = (0..16_u64).map(|worker| {
        let api = cluster.as_user(&alice);
        async move {
            for _ in 0..EACH {
                api.reissue_user(ReissueRequest { keys: subject_keys(worker), ttl: None }).await.unwrap();
            }
        }
    });
    at_once(workers).await;
    let count = 16 * EACH;
    let rate = f64::from(u32::try_from(count).unwrap()) / start.elapsed().as_secs_f64();
    println!("{rate:.0} exchanges a second");
    assert_eq!(cluster.audit.count(EventKind::CertCreate), count);
    assert!(rate > 200.0, "{rate:.0} exchanges a second");
}
