//! Several auth services of a cluster: who runs, and the one place of recordings.

use std::time::Duration;

use teleport_core::api::AdminApi;
use teleport_core::auth::{AuthService, CannotTakePart, KeptAt, Participant};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostId, RunId};

use crate::cluster::{Cluster, at_once};

fn participant(name: &str, place: &str) -> Participant {
    Participant {
        host_id: HostId::random(&SystemEntropy::new()).unwrap(),
        name: name.parse().unwrap(),
        version: "1.0.0".to_owned(),
        address: format!("{name}.example.com:3025"),
        run: RunId::random(&SystemEntropy::new()).unwrap(),
        recordings: KeptAt { id: place.to_owned(), name: format!("/{place}") },
    }
}

async fn running(cluster: &Cluster) -> Vec<String> {
    let status = cluster.admin().status().await.unwrap();
    let mut names: Vec<_> = status.auth_servers.into_iter().map(|server| server.name.to_string()).collect();
    names.sort_unstable();
    names
}

fn refusal(taken: Result<(), CannotTakePart>) -> String {
    match taken.unwrap_err() {
        error @ CannotTakePart::Recordings { .. } => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn recordings_have_one_place_while_others_run() {
    let cluster = Cluster::new().await;
    let second = cluster.second();
    let (a, b) = (participant("auth-a", "x"), participant("auth-b", "y"));
    cluster.auth.take_part(&a).await.unwrap();
    let line = refusal(second.take_part(&b).await);
    for part in ["kept in /x", "auth-a, which is running", "in /y", "audit_sessions_uri"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(running(&cluster).await, ["auth-a"], "who is refused does not run");
    let shared = Participant { recordings: a.recordings.clone(), ..b.clone() };
    second.take_part(&shared).await.unwrap();
    assert_eq!(running(&cluster).await, ["auth-a", "auth-b"]);
    // Neither may move while the other one runs.
    let moved = Participant { recordings: b.recordings.clone(), ..a.clone() };
    assert!(refusal(cluster.auth.take_part(&moved).await).contains("auth-b"));
    // One that has ended, in good order or not, is in nobody's way.
    second.leave(&shared).await.unwrap();
    cluster.auth.take_part(&moved).await.unwrap();
    assert!(refusal(second.take_part(&shared).await).contains("auth-a"));
    cluster.clock.advance(Duration::from_secs(119));
    assert!(refusal(second.take_part(&shared).await).contains("auth-a"));
    cluster.clock.advance(Duration::from_secs(1));
    second.take_part(&shared).await.unwrap();
    assert_eq!(running(&cluster).await, ["auth-b"]);
    // An earlier run of the same service does not speak for the present one.
    let earlier = Participant { run: RunId::random(&SystemEntropy::new()).unwrap(), ..shared };
    second.leave(&earlier).await.unwrap();
    assert_eq!(running(&cluster).await, ["auth-b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_services_that_start_at_once_those_of_one_place_begin() {
    for _ in 0..20 {
        let cluster = Cluster::new().await;
        let attempts = (0..8).map(|number| {
            let place = if number % 2 == 0 { "even" } else { "odd" };
            let me = participant(&format!("auth-{number}"), place);
            let service: AuthService = cluster.second();
            async move { (number % 2, service.take_part(&me).await.is_ok()) }
        });
        let mut begun: Vec<_> =
            at_once(attempts).await.into_iter().filter(|(_, begun)| *begun).map(|(place, _)| place).collect();
        begun.sort_unstable();
        begun.dedup();
        assert!(begun.len() <= 1, "services of two places: {begun:?}");
        assert!(!begun.is_empty(), "the first one has nobody against it");
    }
}
