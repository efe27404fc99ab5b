//! Two services write to one store over networks that fail, and what they saw must be possible. Goals G-1 and G-2.
//!
//! `TELEPORT_HISTORY=20000` says how many operations; `TELEPORT_SEED` repeats the faults of a run that failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use teleport_core::task::TaskScope;

use crate::registers::{Dice, Done, Operation, World, check, from_environment, seed};
use crate::remote::Server;
use crate::servers::PATIENCE;
use crate::servers::proxy::{Mode, Proxy};

const WORKERS: u64 = 8;

/// Breaks the networks in turn, until it is told to leave them whole.
async fn disturb(networks: Arc<[Proxy; 2]>, over: Arc<AtomicBool>, mut dice: Dice) {
    while !over.load(Ordering::SeqCst) {
        let network = &networks[usize::try_from(dice.below(2)).unwrap()];
        let mode = match dice.below(5) {
            0 => Mode::Delay(Duration::from_millis(5)),
            1 => Mode::Refuse,
            2 => Mode::Stall,
            3 => Mode::StallAnswers,
            _ => Mode::Pass,
        };
        network.set(mode);
        if dice.below(2) == 0 {
            network.cut();
        }
        tokio::time::sleep(Duration::from_millis(1 + dice.below(60))).await;
        network.set(Mode::Pass);
        tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
    }
}

pub(crate) async fn g2_two_services_over_bad_networks_are_linearizable(server: Server) {
    let operations = from_environment("TELEPORT_HISTORY", || 600);
    let seed = seed();
    let direct = server.open(server.port(), "history").await;
    let networks = Arc::new([Proxy::to(server.port()).await, Proxy::to(server.port()).await]);
    let services =
        [server.open(networks[0].port, "history").await, server.open(networks[1].port, "history").await];
    let world = World::begin(&*direct, operations).await;
    let over = Arc::new(AtomicBool::new(false));
    let (workers, faults) = (TaskScope::new(), TaskScope::new());
    faults.spawn(disturb(Arc::clone(&networks), Arc::clone(&over), Dice::salted(seed, 100)));
    for worker in 0..WORKERS {
        let service = Arc::clone(&services[usize::try_from(worker % 2).unwrap()]);
        workers.spawn(Arc::clone(&world).work(service, Dice::salted(seed, worker)));
    }
    let limit = PATIENCE * (4 + u32::try_from(operations / 500).unwrap());
    tokio::time::timeout(limit, workers.join()).await.unwrap();
    over.store(true, Ordering::SeqCst);
    faults.join().await;
    let counts = world.judge(&*direct).await;
    assert!(counts.writes > 10 && counts.refused > 0, "something happened, and at the same time");
    for service in services {
        service.close().await;
    }
    direct.close().await;
}

/// The checker finds what it is there to find.
#[test]
fn histories_that_cannot_be_are_told() {
    let first = (10, 0);
    let of = |began, ended, done| Operation { key: 0, began, ended, done };
    let put = |over, value, revision| Done::Put { over, value, revision };
    let good = vec![
        of(1, 2, put(10, 1, 11)),
        of(1, 3, Done::Refused { over: 10 }),
        of(4, 9, Done::Unknown { over: 11, value: 2 }),
        of(5, 6, Done::Read(11, 1)),
        of(7, 8, Done::Read(12, 2)),
        of(10, 11, Done::Unknown { over: 12, value: 3 }),
    ];
    assert_eq!(check(&good, first, (12, 2)), Ok(2));
    let with = |more: Operation| {
        let mut history = good.clone();
        history.push(more);
        history
    };
    for (history, last, what) in [
        (with(of(1, 3, put(10, 9, 13))), (12, 2), "two winners"),
        (with(of(12, 13, put(12, 9, 14))), (12, 2), "lead from"),
        (with(of(9, 10, Done::Read(11, 1))), (12, 2), "answered before"),
        (with(of(1, 2, Done::Read(12, 2))), (12, 2), "asked for later"),
        (with(of(9, 10, Done::Read(12, 7))), (12, 2), "and"),
        (with(of(9, 10, Done::Read(15, 7))), (12, 2), "nobody wrote it"),
        (with(of(12, 13, Done::Refused { over: 12 })), (12, 2), "nobody has replaced it"),
        (with(of(12, 13, put(12, 9, 5))), (12, 2), "went back"),
        (good.clone(), (11, 1), "lead from"),
    ] {
        let flaw = check(&history, first, last).unwrap_err();
        assert!(flaw.contains(what), "{what}: {flaw}");
    }
}
