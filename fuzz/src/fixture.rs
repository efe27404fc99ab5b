//! The two authorities that the certificates of the corpus are from, and the moment at which they are looked at.

use ring::signature::{Ed25519KeyPair, KeyPair};
use teleport_core::cert::{PublicKey, TrustBundle};
use teleport_core::clock::Timestamp;
use teleport_core::id::ClusterName;

/// The cluster of the corpus.
pub const CLUSTER: &str = "example.com";
/// Seconds since the epoch.
pub const NOW: u64 = 1_800_000_000;

/// A moment within the life of every certificate in the corpus.
pub fn now() -> Timestamp {
    Timestamp::from_unix_secs(NOW)
}

/// The Ed25519 key that belongs to a number. 1 is the user authority, 2 the host authority.
pub fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any seed is a key")
}

/// The wire form of the public half of [`key`].
pub fn public_wire(seed: u8) -> Vec<u8> {
    let mut wire = Vec::new();
    string(&mut wire, b"ssh-ed25519");
    string(&mut wire, key(seed).public_key().as_ref());
    wire
}

/// Appends `bytes` as SSH writes a string.
pub fn string(wire: &mut Vec<u8>, bytes: &[u8]) {
    wire.extend(u32::try_from(bytes.len()).expect("short").to_be_bytes());
    wire.extend_from_slice(bytes);
}

/// Trusts key 1 for users and key 2 for hosts.
pub fn trust() -> TrustBundle {
    let public = |seed| PublicKey::from_wire(&public_wire(seed)).expect("an Ed25519 key");
    TrustBundle {
        cluster: ClusterName::new(CLUSTER).expect("a name"),
        user_ca: vec![public(1)],
        openssh_ca: Vec::new(),
        host_ca: vec![public(2)],
        user_tls_ca: Vec::new(),
        host_tls_ca: Vec::new(),
    }
}
