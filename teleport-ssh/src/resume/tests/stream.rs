//! Streams over wires that break.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::client::Notice;
use super::super::wire::{Again, Hello, MAGIC, ResumeId, YES};
use super::super::{MARK, WINDOW, identification};
use super::wires::{Dice, World};

const MINUTES: Duration = Duration::from_secs(600);

fn whole(_: usize) -> (usize, bool) {
    (usize::MAX, false)
}

/// The byte at a position of a stream that looks like no other part of it.
fn byte(side: u64, at: u64) -> u8 {
    ((at.wrapping_add(side << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Says the bytes of a side in pieces of any length until told to stop, and ends when all was heard; how many it were.
async fn say(
    mut to: impl AsyncWrite + Unpin,
    side: u64,
    mut dice: Dice,
    enough: impl Fn() -> bool,
    heard: &watch::Sender<u64>,
) -> u64 {
    let mut at = 0;
    while !enough() {
        let longest = [1, 50, 5_000, 300_000][dice.below(4)];
        let piece: Vec<u8> = (0..=dice.below(longest) as u64).map(|next| byte(side, at + next)).collect();
        to.write_all(&piece).await.unwrap();
        at += piece.len() as u64;
        tokio::task::yield_now().await;
    }
    // One more, which comes over the wire that holds: whoever has said its last does not look for another.
    to.write_all(&[byte(side, at)]).await.unwrap();
    at += 1;
    heard.subscribe().wait_for(|heard| *heard == at).await.unwrap();
    to.shutdown().await.unwrap();
    at
}

/// Hears the bytes of a side to their end; how many it were.
async fn hear(mut from: impl AsyncRead + Unpin, side: u64, progress: &watch::Sender<u64>) -> u64 {
    let (mut at, mut bytes) = (0, BytesMut::with_capacity(64 << 10));
    while from.read_buf(&mut bytes).await.unwrap() > 0 {
        for heard in &bytes {
            assert_eq!(*heard, byte(side, at), "position {at} of side {side}");
            at += 1;
        }
        bytes.clear();
        progress.send_replace(at);
    }
    at
}

/// Both sides say what they have to say while their wires break, until it is enough.
async fn talk(seed: u64, cuts: usize, silent: bool, longest: usize) {
    let mut dice = Dice::new(seed);
    let (world, mut connections) = World::new(MINUTES, move |cut| match cut < cuts {
        // The first lasts long enough for the client to be let in.
        true => (200 + dice.below(longest), silent && dice.below(4) == 0),
        false => whole(cut),
    });
    let (lane, near) = world.client().await;
    let served = world.let_in(connections.recv().await.unwrap());
    lane.keep();
    let cut = Arc::clone(&world.0.cuts);
    let enough = || cut.load(Ordering::SeqCst) >= cuts;
    let (from_node, to_node) = tokio::io::split(near);
    let (from_client, to_client) = tokio::io::split(served.stream);
    let (up, down) = (watch::Sender::new(0), watch::Sender::new(0));
    let all = async {
        tokio::join!(
            say(to_node, 1, Dice::new(seed + 1), enough, &up),
            hear(from_client, 1, &up),
            say(to_client, 2, Dice::new(seed + 2), enough, &down),
            hear(from_node, 2, &down),
        )
    };
    let all = tokio::time::timeout(Duration::from_secs(86_400), all).await;
    let (client_said, node_heard, node_said, client_heard) = all.unwrap();
    assert_eq!((client_said, node_said), (node_heard, client_heard), "seed {seed}");
    assert!(enough(), "seed {seed}");
    let refused = world.refused();
    assert!(refused.iter().all(|why| why.contains("broke again")), "seed {seed}: {refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_cuts_at_any_moment_change_no_byte() {
    talk(1, 1000, false, 20_000).await;
}

#[tokio::test(start_paused = true)]
async fn cuts_within_every_agreement_change_no_byte() {
    talk(2, 300, false, 60).await;
}

#[tokio::test(start_paused = true)]
async fn wires_that_say_nothing_any_more_are_left() {
    talk(3, 200, true, 200_000).await;
}

/// A client that was let in, and the other end.
macro_rules! let_in {
    ($world:ident, $near:ident, $served:ident, $lane:ident, $keeps:expr, $fate:expr) => {
        let ($world, mut connections) = World::new($keeps, $fate);
        let ($lane, mut $near) = $world.client().await;
        let mut $served = $world.let_in(connections.recv().await.unwrap());
        $lane.keep();
        $near.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        $served.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
    };
}

async fn read_error(mut from: impl AsyncRead + Unpin) -> String {
    from.read(&mut [0; 1]).await.unwrap_err().to_string()
}

/// The first wire breaks after some bytes, the next ones hold.
fn one_cut(after: usize) -> impl FnMut(usize) -> (usize, bool) + Send + 'static {
    move |cut| if cut == 0 { (after, false) } else { whole(cut) }
}

#[tokio::test(start_paused = true)]
async fn a_wire_that_lasts_is_never_asked_twice() {
    let_in!(world, near, served, lane, MINUTES, whole);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    near.write_all(b"again").await.unwrap();
    let mut heard = [0; 5];
    served.stream.read_exact(&mut heard).await.unwrap();
    served.stream.shutdown().await.unwrap();
    assert_eq!(near.read(&mut [0; 1]).await.unwrap(), 0, "the end is passed on");
    drop(near);
    lane.finish(MINUTES).await;
    assert_eq!((lane.failure(), world.0.cuts.load(Ordering::SeqCst)), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn the_user_hears_of_long_losses_once_and_of_their_end() {
    let_in!(world, near, served, lane, MINUTES, one_cut(250));
    world.0.unreachable.store(true, Ordering::SeqCst);
    served.stream.write_all(&[7; 1000]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let lost = Notice::Lost { node: "web".to_owned(), why: "nobody is reached".to_owned() };
    assert_eq!(*world.0.notices.lock().unwrap(), std::slice::from_ref(&lost));
    // What is typed meanwhile waits.
    near.write_all(b"typed").await.unwrap();
    world.0.unreachable.store(false, Ordering::SeqCst);
    let mut heard = [0; 5];
    served.stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"typed");
    let mut all = vec![0; 1000];
    near.read_exact(&mut all).await.unwrap();
    assert_eq!(*world.0.notices.lock().unwrap(), [lost, Notice::Resumed { node: "web".to_owned() }]);
    drop(lane);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_come_back_in_time_is_given_up_by_both() {
    let_in!(world, near, served, lane, Duration::from_secs(30), one_cut(250));
    world.0.unreachable.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    served.stream.write_all(&[7; 1000]).await.unwrap();
    assert!(read_error(&mut served.stream).await.contains("not resumed in time"));
    assert!(begun.elapsed() >= Duration::from_secs(30) && begun.elapsed() < Duration::from_secs(60));
    let mut before = Vec::new();
    let why = near.read_to_end(&mut before).await.unwrap_err().to_string();
    assert_eq!(why, "nobody is reached (for 30 s)");
    assert_eq!(lane.failure().as_deref(), Some(&*why));
    drop(served.kept);
}

#[tokio::test(start_paused = true)]
async fn one_that_the_node_does_not_have_any_more_is_told_at_once() {
    let_in!(world, near, served, lane, MINUTES, one_cut(250));
    // As after a new start.
    served.kept = None;
    served.stream.write_all(&[7; 1000]).await.unwrap();
    let why = near.read_to_end(&mut Vec::new()).await.unwrap_err().to_string();
    assert_eq!(why, "the node does not have this connection any more");
    assert_eq!(world.refused(), ["there is no such connection"]);
    drop(lane);
}

#[tokio::test(start_paused = true)]
async fn whom_the_node_does_not_permit_is_told_and_gets_nothing() {
    let_in!(world, near, served, lane, MINUTES, one_cut(250));
    world.0.permits.store(false, Ordering::SeqCst);
    served.stream.write_all(&[7; 1000]).await.unwrap();
    let mut before = Vec::new();
    let why = near.read_to_end(&mut before).await.unwrap_err().to_string();
    assert_eq!(why, "the node does not have this connection any more", "nobody learns why");
    assert!(before.len() < 250);
    assert_eq!(world.refused(), ["not permitted"]);
    drop(lane);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_not_let_in_ends_with_its_wire() {
    let (world, mut connections) = World::new(MINUTES, one_cut(250));
    let (lane, mut near) = world.client().await;
    let (mut stream, _claim) = connections.recv().await.unwrap();
    stream.write_all(&[7; 1000]).await.unwrap();
    near.read_to_end(&mut Vec::new()).await.unwrap_err();
    // Whatever its client wants.
    assert_ne!(read_error(&mut stream).await, "");
    drop(lane);
    assert_eq!(world.refused(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn too_many_that_were_lost_are_not_kept() {
    let (world, mut connections) = World::new(MINUTES, |_| (250, false));
    let mut kept = Vec::new();
    for _ in 0..3 {
        let (lane, near) = world.client().await;
        let mut served = world.let_in(connections.recv().await.unwrap());
        served.stream.write_all(&[7; 1000]).await.unwrap();
        kept.push((lane, near, served));
    }
    let (_, _, last) = &mut kept[2];
    assert!(read_error(&mut last.stream).await.contains("too many"));
    for (_, _, served) in &mut kept[..2] {
        let read = tokio::time::timeout(Duration::from_secs(60), served.stream.read(&mut [0; 1])).await;
        assert!(read.is_err(), "these wait");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_keeps_nobody() {
    let_in!(world, near, served, lane, MINUTES, one_cut(250));
    world.0.unreachable.store(true, Ordering::SeqCst);
    served.stream.write_all(&[7; 1000]).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_secs(60), served.stream.read(&mut [0; 1])).await;
    assert!(waits.is_err());
    world.0.leaving.drain();
    assert_eq!(read_error(&mut served.stream).await, "the node goes away");
    drop((near, lane));
}

#[tokio::test(start_paused = true)]
async fn either_side_can_end_it_while_there_is_no_wire() {
    let_in!(world, near, served, lane, MINUTES, one_cut(250));
    world.0.unreachable.store(true, Ordering::SeqCst);
    served.stream.write_all(&[7; 1000]).await.unwrap();
    near.read_exact(&mut [0; 50]).await.unwrap();
    let begun = Instant::now();
    drop(near);
    lane.finish(MINUTES).await;
    served.stream.shutdown().await.unwrap();
    served.stream.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

/// Somebody who takes nothing does not look dead, and is not said more than there is room for.
#[tokio::test(start_paused = true)]
async fn whoever_takes_nothing_is_waited_for() {
    let_in!(world, near, served, lane, MINUTES, whole);
    let (mut from_client, mut to_client) = tokio::io::split(served.stream);
    let wrote = async {
        let mut wrote = 0;
        while let Ok(written) =
            tokio::time::timeout(Duration::from_secs(600), to_client.write(&[7; 100_000])).await
        {
            wrote += written.unwrap();
        }
        wrote
    };
    assert_eq!(wrote.await, WINDOW);
    near.write_all(b"alive").await.unwrap();
    let mut heard = [0; 5];
    from_client.read_exact(&mut heard).await.unwrap();
    let mut all = vec![0; WINDOW];
    near.read_exact(&mut all).await.unwrap();
    to_client.write_all(b"more").await.unwrap();
    near.read_exact(&mut heard[..4]).await.unwrap();
    assert_eq!(world.0.cuts.load(Ordering::SeqCst), 0);
    drop(lane);
}

/// The answer to a client that says `again` in the name of another one.
async fn claim(world: &World, again: Again, proof: [u8; 32]) -> Vec<u8> {
    let mut wire = world.wire();
    let (_, end) = identification(&mut wire).await.unwrap();
    assert!(end.is_some());
    wire.write_all(&Hello::Again(again).to_bytes()).await.unwrap();
    let mut answer = [0; 57];
    if wire.read_exact(&mut answer[..1]).await.is_ok() && answer[0] == YES {
        wire.read_exact(&mut answer[1..]).await.unwrap();
        wire.write_all(&proof).await.unwrap();
    }
    let mut last = Vec::new();
    let _ = wire.read_to_end(&mut last).await;
    if answer[0] == YES { last } else { vec![answer[0]] }
}

#[tokio::test(start_paused = true)]
async fn nobody_else_gets_a_connection() {
    let_in!(world, near, served, lane, MINUTES, whole);
    let id = world.0.table.ids()[0];
    let again = |id, received| Again { id, nonce: [1; 16], received };
    // Whoever knows its id, but not its keys.
    assert_eq!(claim(&world, again(id, 0), [0; 32]).await, [0]);
    assert_eq!(claim(&world, again(ResumeId([9; 16]), 0), [0; 32]).await, [0]);
    assert_eq!(claim(&world, again(id, 1 << 20), [0; 32]).await, [0]);
    assert_eq!(
        world.refused(),
        [
            "the proof is wrong",
            "there is no such connection",
            "the client's position is not within what is kept"
        ]
    );
    // Its owner has noticed nothing.
    near.write_all(b"still").await.unwrap();
    let mut heard = [0; 5];
    served.stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(world.0.cuts.load(Ordering::SeqCst), 0);
    drop(lane);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_first_messages_leaves_nothing() {
    let (world, mut connections) = World::new(MINUTES, whole);
    for round in 0..200_u8 {
        let mut wire = world.wire();
        identification(&mut wire).await.unwrap();
        wire.write_all(&Hello::New { key: [round.max(2); 32] }.to_bytes()).await.unwrap();
        connections.recv().await.unwrap();
    }
    assert!(world.0.table.ids().is_empty());
    // A key with which everybody would agree on the same.
    let mut wire = world.wire();
    identification(&mut wire).await.unwrap();
    wire.write_all(&Hello::New { key: [0; 32] }.to_bytes()).await.unwrap();
    assert_eq!(wire.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(world.refused(), ["no key"]);
}

#[tokio::test]
async fn identifications_of_all_kinds() {
    let ours = format!("SSH-2.0-Teleport_1 {MARK}\r\n");
    for (said, end) in [
        (ours.clone(), Some(ours.len())),
        (format!("Welcome\r\n{ours}rest"), Some(9 + ours.len())),
        (format!("SSH-2.0-Teleport_1 other {MARK} word\n"), Some(23 + 6 + MARK.len() + 2)),
        ("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_owned(), None),
        (format!("SSH-2.0-{MARK}\r\n"), None),
        (format!("SSH-2.0-x {MARK}s\r\n"), None),
        (format!("SSH-2.0-x {MARK}"), None),
        (String::new(), None),
        ("x".repeat(100_000), None),
    ] {
        let (read, found) = identification(&mut said.as_bytes()).await.unwrap();
        assert_eq!(found, end, "{said:.50}");
        assert!(said.as_bytes().starts_with(&read) && read.len() < 20_000);
    }
    assert!(MAGIC.starts_with(b"SSH-"), "proxies pass nothing else on");
}
