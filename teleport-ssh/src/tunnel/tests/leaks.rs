#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
//! What is left of many tunnels.

use std::sync::Arc;
use std::time::Duration;

use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_core::api::HostCredentials;
use teleport_core::cert::danger::unchecked_host_grant;
use teleport_core::cert::{CertIssuer as _, SubjectKeys};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{ClusterName, HostId, HostRole};
use teleport_core::task::{Shutdown, TaskScope};
use teleport_core::testing::KnownKeySealer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::identity::{HostIdentityHandle, HostMaterial, HostName};
use crate::proxy::Direct;
use crate::rpc::BoxedIo;
use crate::rpc::tls::TlsServer;
use crate::tunnel::{ALPN, Pool, Tunnels, serve};
use crate::view::AccessCache;

/// Set in a process that has this test alone: nobody else opens files and takes memory there.
const ALONE: &str = "TELEPORT_TEST_ALONE";
const ROUNDS: usize = 1_000;
/// After so many everything that is kept for later is there.
const WARM: usize = 200;
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn g18_a_thousand_tunnels_leave_nothing_behind() {
    if std::env::var_os(ALONE).is_none() {
        let name = std::thread::current().name().unwrap().to_owned();
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone
            .args(["--exact", "tunnel::tests::leaks::g18_a_thousand_tunnels_leave_nothing_behind"])
            .env(ALONE, "1");
        let output = alone.arg("--nocapture").output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && printed.contains("1 passed"), "{name}: {output:?}");
        return;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(a_thousand());
}

pub(super) async fn authority(clock: &Arc<dyn Clock>) -> CertificateAuthority {
    let backend = Arc::new(MemoryBackend::new(Arc::clone(clock)));
    let (sealer, entropy) = (Arc::new(KnownKeySealer), Arc::new(SystemEntropy::new()));
    let cluster = ClusterName::new("example.com").unwrap();
    let ca = CertificateAuthority::open_or_create(cluster, backend, sealer, Arc::clone(clock), entropy);
    ca.await.unwrap()
}

pub(super) async fn host(ca: &CertificateAuthority, role: HostRole) -> HostIdentityHandle {
    let host_id = HostId::random(&SystemEntropy::new()).unwrap();
    HostIdentityHandle::new(issued(ca, HostName { host_id, name: "h".parse().unwrap(), role }).await)
}

/// Keys and certificates of a host, which may have others already.
pub(super) async fn issued(ca: &CertificateAuthority, host: HostName) -> HostMaterial {
    let (ssh, tls) = HostMaterial::generate_keys(&SystemEntropy::new()).unwrap();
    let public = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
    let ttl = Duration::from_secs(3600);
    let grant = unchecked_host_grant(host.host_id, host.name.clone(), ca.cluster().clone(), host.role, ttl);
    let certificates = ca.issue_host(grant, &public).await.unwrap();
    let credentials = HostCredentials { certificates, trust: ca.trust_bundle() };
    HostMaterial::from_credentials(host, (ssh, tls), credentials).unwrap()
}

/// Tasks, open files, and kilobytes of memory.
fn held() -> (usize, usize, usize) {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (tasks, files, memory.trim().trim_end_matches(" kB").parse().unwrap())
}

/// Both ends in one process: each tunnel stands, leads one stream, and breaks.
async fn a_thousand() {
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
    let (scope, shutdown) = (TaskScope::new(), Shutdown::new());
    let streams = scope.clone();
    let accept = move |mut stream: BoxedIo, _| {
        drop(streams.spawn(async move {
            let _ = stream.write_all(b"x").await;
            let _ = stream.read_u8().await;
        }));
    };
    scope.spawn(serve(pool, shutdown.clone(), Arc::new(accept)));
    let tls = TlsServer::new(proxy, Arc::clone(&clock), |_| vec![ALPN.to_vec()]);
    let tunnels = Tunnels::new(Arc::new(Direct::new()));
    let id = node.current().host_id;
    let one = async || {
        let (stream, peer) = listener.accept().await.unwrap();
        let (stream, host) = tls.accept_host(stream, peer, HostRole::Node).await.unwrap();
        let used = async {
            while !tunnels.has(id) {
                tokio::task::yield_now().await;
            }
            let mut stream = tunnels.open_here(id).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
        };
        tokio::select! {
            ended = tunnels.serve(stream, (&host, peer), &*clock, &shutdown) => panic!("{ended:?}"),
            () = used => {}
        }
        assert!(tunnels.is_empty());
    };
    let mut before = (0, 0, 0);
    for round in 0..ROUNDS {
        if round == WARM {
            before = held();
        }
        tokio::time::timeout(DEADLINE, one()).await.unwrap();
    }
    let after = held();
    eprintln!("tasks, files, kB of memory after {WARM} tunnels: {before:?}; after {ROUNDS}: {after:?}");
    // The last ones may be ending.
    assert!(after.0 <= before.0 + 4 && after.1 <= before.1 + 4, "{before:?} {after:?}");
    assert!(after.2 <= before.2 + (8 << 10), "{before:?} {after:?}");
    shutdown.drain();
    tokio::time::timeout(DEADLINE, scope.join()).await.unwrap();
}
