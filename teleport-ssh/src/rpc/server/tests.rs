#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use std::net::IpAddr;

use teleport_backend::memory::MemoryBackend;
use teleport_core::api::{PresenceApi, ProxyRecord};
use teleport_core::auth::{AuthConfig, Ports as AuthPorts};
use teleport_core::cert::Identity;
use teleport_core::clock::Timestamp;
use teleport_core::id::{ClusterName, HostRole};
use teleport_core::testing::{
    KnownKeySealer, ManualClock, MemoryAudit, MemoryRecordings, RepeatableEntropy, UnsignedIssuer,
    host_identity,
};

use std::time::Duration;

use super::*;

/// Where a proxy calls from is exempt; where it says to be, if it says so, is not.
#[tokio::test]
async fn the_addresses_of_known_proxies_are_exempt() {
    let cluster = ClusterName::new("example.com").unwrap();
    let clock = Arc::new(ManualClock::default());
    let entropy: Arc<dyn Entropy> = Arc::new(RepeatableEntropy::new(1));
    let service = AuthService::new(
        AuthPorts {
            backend: Arc::new(MemoryBackend::new(clock.clone())),
            issuer: Arc::new(UnsignedIssuer::new(cluster.clone(), clock.clone())),
            sealer: Arc::new(KnownKeySealer),
            recordings: Arc::new(MemoryRecordings::new()),
            audit: Arc::new(MemoryAudit::new()),
            clock,
            entropy: Arc::clone(&entropy),
        },
        AuthConfig::new(cluster),
    );
    let proxy = host_identity(
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        "proxy-1",
        "example.com",
        HostRole::Proxy,
        Timestamp::MAX,
    );
    let record = ProxyRecord {
        host_id: proxy.host_id,
        name: proxy.name.clone(),
        web_address: "192.0.2.2:3080".to_owned(),
        ssh_address: "192.0.2.2:3023".to_owned(),
        peer_address: None,
        tunnels: 0,
        version: String::new(),
    };
    let caller = Caller::Identity(Identity::Host(proxy), "192.0.2.1:4711".parse().ok());
    AuthService::acting_as(&service, caller).announce_proxy(record).await.unwrap();

    let limits = Limits { per_source: 1, penalties: false, ..default_limits() };
    let door = Door::new(limits, Arc::clone(&entropy));
    let _followers =
        exempt_proxies(AccessCache::new(Duration::MAX), &service, door.clone(), entropy, Shutdown::new());
    let admits_two = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        let places = (door.admit(address), door.admit(address));
        places.0.is_some() && places.1.is_some()
    };
    let exempted = async {
        while !admits_two("192.0.2.1") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), exempted).await.unwrap();
    assert!(!admits_two("192.0.2.2"), "anybody can be at an address that a proxy names");
    assert!(admits_two("127.0.0.1") && admits_two("::1"), "a proxy on this machine");
}
