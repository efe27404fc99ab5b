#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const SOON: Duration = Duration::from_millis(10);

fn soft() -> usize {
    usize::try_from(SOFT_LIMIT).unwrap()
}

#[tokio::test(start_paused = true)]
async fn reading_stops_while_too_much_waits() {
    let (mut peer, stream) = tokio::io::duplex(64);
    let link = Link::new();
    let account = link.account();
    let mut transport = Transport::new(stream, link.clone());
    peer.write_all(b"ab").await.unwrap();
    assert_eq!(transport.read_u8().await.unwrap(), b'a');

    account.arrived(soft() + 1);
    assert!(tokio::time::timeout(SOON, transport.read_u8()).await.is_err(), "stopped");
    {
        let _waits = link.output_waits();
        let read = tokio::time::timeout(SOON, transport.read_u8()).await;
        assert_eq!(read.unwrap().unwrap(), b'b', "output waits, and what frees it may be in the input");
    }
    peer.write_all(b"c").await.unwrap();
    let mut reading = std::pin::pin!(transport.read_u8());
    assert!(tokio::time::timeout(SOON, &mut reading).await.is_err());
    account.taken(soft() + 1);
    assert_eq!(tokio::time::timeout(SOON, reading).await.unwrap().unwrap(), b'c', "somebody took it");
}

#[tokio::test(start_paused = true)]
async fn the_hard_limit_holds_in_any_case_and_a_closed_channel_frees_it() {
    let (mut peer, stream) = tokio::io::duplex(64);
    let link = Link::new();
    let (account, other) = (link.account(), link.account());
    let mut transport = Transport::new(stream, link.clone());
    peer.write_all(b"x").await.unwrap();
    let _waits = link.output_waits();
    other.arrived(100);
    account.arrived(usize::try_from(HARD_LIMIT).unwrap());
    let mut reading = std::pin::pin!(transport.read_u8());
    assert!(tokio::time::timeout(SOON, &mut reading).await.is_err());
    account.close();
    assert_eq!(reading.await.unwrap(), b'x');
    assert_eq!(account.arrived(1 << 30), 0, "thrown away, so not counted");
    assert_eq!(link.0.waiting.load(Ordering::SeqCst), cost(100));
    // Nor is it given back when somebody empties the queue: it would be credit for all other channels.
    account.taken(1 << 30);
    assert_eq!(link.0.waiting.load(Ordering::SeqCst), cost(100));
}

#[tokio::test]
async fn taking_before_the_arrival_is_counted_evens_out() {
    let link = Link::new();
    let account = link.account();
    account.taken(1000);
    account.arrived(1000);
    assert_eq!(link.0.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn silence_is_death_but_not_while_nobody_listens() {
    let (_peer, stream) = tokio::io::duplex(64);
    let started = Instant::now();
    let mut transport = Transport::new(stream, Link::new());
    assert_eq!(transport.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(started.elapsed().as_secs(), DEAD_AFTER.as_secs());

    let (mut peer, stream) = tokio::io::duplex(64);
    let link = Link::new();
    let account = link.account();
    let mut transport = Transport::new(stream, link);
    account.arrived(soft() + 1);
    let mut reading = std::pin::pin!(transport.read_u8());
    assert!(
        tokio::time::timeout(DEAD_AFTER * 10, &mut reading).await.is_err(),
        "a slow session is no dead peer"
    );
    account.close();
    peer.write_u8(7).await.unwrap();
    assert_eq!(reading.await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_given_up_and_one_that_takes_a_little_is_not() {
    let (mut peer, stream) = tokio::io::duplex(4);
    let mut transport = Transport::new(stream, Link::new());
    let writing = async move { transport.write_all(b"0123456789abcdef").await };
    let mut writing = std::pin::pin!(writing);
    for _ in 0..2 {
        assert!(tokio::time::timeout(DEAD_AFTER - SOON, &mut writing).await.is_err());
        peer.read_exact(&mut [0; 4]).await.unwrap();
    }
    assert_eq!(writing.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_cut_connection_fails_at_once() {
    let (_peer, stream) = tokio::io::duplex(64);
    let link = Link::new();
    let mut transport = Transport::new(stream, link.clone());
    let mut reading = std::pin::pin!(transport.read_u8());
    assert!(tokio::time::timeout(SOON, &mut reading).await.is_err());
    link.close();
    assert_eq!(reading.await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    assert!(transport.write_all(b"x").await.is_err());
}

#[test]
fn a_message_weighs_what_its_sender_chose() {
    let text = || "x".repeat(1000);
    for message in [
        ChannelMsg::Data { data: text().into() },
        ChannelMsg::ExtendedData { data: text().into(), ext: 1 },
        ChannelMsg::Exec { want_reply: false, command: text().into() },
        ChannelMsg::RequestPty {
            want_reply: false,
            term: text(),
            col_width: 80,
            row_height: 25,
            pix_width: 0,
            pix_height: 0,
            terminal_modes: Vec::new(),
        },
        ChannelMsg::RequestSubsystem { want_reply: false, name: text() },
        ChannelMsg::SetEnv { want_reply: false, variable_name: String::new(), variable_value: text() },
        ChannelMsg::Signal { signal: Sig::Custom(text()) },
    ] {
        assert_eq!(payload(&message), 1000, "{message:?}");
    }
    for message in [ChannelMsg::Eof, ChannelMsg::Close, ChannelMsg::WindowAdjusted { new_size: 5 }] {
        assert_eq!(payload(&message), 0, "{message:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_on_a_channel_or_goes_out_is_a_sign_of_somebody() {
    let link = Link::new();
    let account = link.account();
    let minute = Duration::from_secs(60);
    tokio::time::advance(minute).await;
    assert_eq!(link.idle(), minute, "since the beginning");
    account.arrived(1);
    assert_eq!(link.idle(), Duration::ZERO);
    tokio::time::advance(minute).await;
    account.taken(1);
    assert_eq!(link.idle(), minute, "that something was taken is our own doing");
    account.close();
    account.arrived(1);
    assert_eq!(link.idle(), Duration::ZERO, "also where it is thrown away");
    tokio::time::advance(minute).await;
    link.moves();
    assert_eq!(link.idle(), Duration::ZERO);
}
