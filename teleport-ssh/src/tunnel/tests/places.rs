#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
//! A node whose next tunnel has no place at the proxy.

use std::sync::Arc;
use std::time::Duration;

use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::HostRole;
use teleport_core::task::{Shutdown, TaskScope};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::DEADLINE;
use super::leaks::{authority, host, issued};
use crate::identity::HostName;
use crate::proxy::Direct;
use crate::rpc::BoxedIo;
use crate::rpc::tls::TlsServer;
use crate::tunnel::{ALPN, Pool, Tunnels, serve};
use crate::view::AccessCache;

#[tokio::test]
async fn a_tunnel_that_the_proxy_refuses_takes_the_place_of_no_other() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ca = authority(&clock).await;
    let (node, proxy) = (host(&ca, HostRole::Node).await, host(&ca, HostRole::Proxy).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = Pool {
        addresses: vec![listener.local_addr().unwrap().to_string()],
        identity: node.clone(),
        view: AccessCache::new(Duration::from_secs(3600)),
        clock: Arc::clone(&clock),
        entropy: Arc::new(SystemEntropy::new()),
        pause: (Duration::from_millis(1), Duration::from_millis(1)),
        announce: Box::new(drop),
        silent: Arc::new(drop),
    };
    let (tasks, shutdown) = (TaskScope::new(), Shutdown::new());
    let streams = tasks.clone();
    let accept = move |mut stream: BoxedIo, _| {
        drop(streams.spawn(async move {
            let _ = stream.write_all(b"x").await;
            let _ = stream.read_u8().await;
        }));
    };
    tasks.spawn(serve(pool, shutdown.clone(), Arc::new(accept)));
    let tls = TlsServer::new(proxy, Arc::clone(&clock), |_| vec![ALPN.to_vec()]);
    let tunnels = Tunnels::new(Arc::new(Direct::new()));
    // A tunnel whose TLS stands, and that has no place yet.
    let comes = async || {
        let coming = async {
            let (stream, peer) = listener.accept().await.unwrap();
            (tls.accept_host(stream, peer, HostRole::Node).await.unwrap(), peer)
        };
        tokio::time::timeout(DEADLINE, coming).await.unwrap()
    };
    // It gets one. What is returned says when it has ended.
    let stands = async || {
        let ((stream, host), peer) = comes().await;
        let (hub, clock, over, before) =
            (tunnels.clone(), Arc::clone(&clock), CancellationToken::new(), tunnels.entered());
        let ended = over.clone().drop_guard();
        tasks.spawn(async move {
            let _ended = ended;
            let _ = hub.serve(stream, (&host, peer), &*clock, &Shutdown::new()).await;
        });
        let entering = async {
            while tunnels.entered() == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, entering).await.unwrap();
        over
    };
    let id = node.current().host_id;
    let leads = async || {
        let opening = async { tunnels.open_here(id).await.unwrap().read_u8().await.unwrap() };
        assert_eq!(tokio::time::timeout(DEADLINE, opening).await.unwrap(), b'x');
    };
    let old = stands().await;
    leads().await;
    // It shows a new certificate from now on, in another tunnel.
    let was = node.current();
    let name = HostName { host_id: id, name: was.name.clone(), role: was.role };
    node.replace(issued(&ca, name).await);
    for _ in 0..3 {
        drop(comes().await);
        leads().await;
    }
    assert!(!old.is_cancelled());
    let new = stands().await;
    tokio::time::timeout(DEADLINE, old.cancelled()).await.unwrap();
    leads().await;
    assert!(!new.is_cancelled());
    shutdown.drain();
    tokio::time::timeout(DEADLINE, new.cancelled()).await.unwrap();
}
