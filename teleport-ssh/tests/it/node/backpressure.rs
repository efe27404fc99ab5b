//! What a session does not take waits, and what waits is bounded; what it takes is not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use teleport_core::access::LoginGrant;
use teleport_core::task::TaskScope;
use teleport_ssh::session::{ExitStatus, SessionChannel, SessionService};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::hostile::client;
use super::support::{PATIENCE, TestNode, UserCert, me, private_key};

/// Takes nothing until it is told to.
#[derive(Debug)]
struct Deaf(watch::Sender<bool>);

#[async_trait]
impl SessionService for Deaf {
    async fn run(&self, _grant: LoginGrant, mut channel: SessionChannel) -> ExitStatus {
        self.0.subscribe().wait_for(|listens| *listens).await.unwrap();
        while channel.input.next().await.is_some() {}
        ExitStatus::Code(0)
    }
}

/// A way to `node` that counts what goes there.
async fn counted(node: SocketAddr, count: watch::Sender<usize>, scope: &TaskScope) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    scope.spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(node).await.unwrap();
        // What is on the way is not what the node has read.
        socket2::SockRef::from(&server).set_send_buffer_size(64 << 10).unwrap();
        let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), server.into_split());
        let there = async {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(len @ 1..) = from.read(&mut buffer).await {
                if to.write_all(&buffer[..len]).await.is_err() {
                    break;
                }
                count.send_modify(|count| *count += len);
            }
        };
        tokio::join!(there, async { _ = tokio::io::copy(&mut answers, &mut back).await });
    });
    address
}

/// The most that the node may have read: what may wait, and what the system holds for it (6 MiB by default).
const WAITING: usize = (2 + 6 + 2) << 20;
/// What shows that nothing is held back.
const MUCH: usize = 4 * WAITING;

async fn flood_is_held_back(data: bool) {
    let service = Arc::new(Deaf(watch::Sender::new(false)));
    let node = TestNode::serving(Arc::clone(&service) as _, |builder| builder).await;
    let scope = TaskScope::new();
    let count = watch::Sender::new(0);
    let way = counted(node.address, count.clone(), &scope).await;
    let mut session = client(way).await;
    let key = Arc::new(private_key(2));
    let good = UserCert::new().sign(&key, &node.user_ca);
    assert!(session.authenticate_openssh_cert(me().as_str(), key, good).await.unwrap().success());
    let channel = session.channel_open_session().await.unwrap();
    channel.exec(false, "listen").await.unwrap();
    node.auth.event("T2000I", |_| true).await;
    scope.spawn(async move {
        let long = "x".repeat(30_000);
        loop {
            let sent = match data {
                true => channel.data_bytes(long.clone()).await,
                false => channel.set_env(false, "LANG", long.as_str()).await,
            };
            if sent.is_err() {
                break;
            }
        }
    });
    // It has come to a stop when for a while nothing goes on.
    let mut counts = count.subscribe();
    let stopped = async {
        // A busy machine may make it wait before that.
        while *counts.borrow() < 1 << 20
            || tokio::time::timeout(Duration::from_secs(1), counts.changed()).await.is_ok()
        {
            counts.wait_for(|count| *count > 1 << 20).await.unwrap();
            assert!(*counts.borrow_and_update() < WAITING, "what nobody takes is kept");
        }
    };
    tokio::time::timeout(PATIENCE, stopped).await.expect("it stops, and not too early");
    // Whoever takes what comes may be sent any amount.
    service.0.send_replace(true);
    let mut flows = count.subscribe();
    tokio::time::timeout(PATIENCE, flows.wait_for(|count| *count > MUCH)).await.unwrap().unwrap();
    drop(session);
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_nobody_takes_stops_the_reading() {
    flood_is_held_back(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_nobody_takes_stop_the_reading() {
    flood_is_held_back(false).await;
}
