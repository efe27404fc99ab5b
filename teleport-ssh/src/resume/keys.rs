//! Who may resume a connection: the two who agreed on its keys when it began.
//!
//! The wire may be read by others, and a client's bytes pass proxies. So both sides make a key for this connection alone (X25519), and
//! whoever resumes proves that it knows what came of it. Somebody *in between* can agree with both, as with every exchange of plain keys,
//! and gain what he had anyway: to pass the bytes on or not. What they say is the SSH connection's within, which ends with
//! the first one that was changed.

use ring::{hkdf, hmac};
use teleport_core::entropy::{Entropy, EntropyError, EntropyExt as _};
use x25519_dalek::{PublicKey, StaticSecret};

use super::wire::{Nonce, ResumeId};

/// Half of an agreement.
pub(super) struct Half {
    secret: StaticSecret,
    public: PublicKey,
}

impl Half {
    pub(super) fn new(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let secret = StaticSecret::from(entropy.bytes::<32>()?);
        Ok(Self { public: PublicKey::from(&secret), secret })
    }

    pub(super) fn public(&self) -> [u8; 32] {
        self.public.to_bytes()
    }

    /// The keys of the connection `id`; `None` if the other side's key is one with which everybody agrees on the same.
    fn agree(self, theirs: [u8; 32], client: [u8; 32], node: [u8; 32], id: ResumeId) -> Option<Keys> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(theirs));
        if !shared.was_contributory() {
            return None;
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"teleport-resume-v1");
        let secret = salt.extract(shared.as_bytes());
        let key = |side: &[u8]| {
            let info = [side, &client, &node, &id.0];
            Some(hmac::Key::from(secret.expand(&info, hmac::HMAC_SHA256).ok()?))
        };
        Some(Keys { id, client: key(b"client")?, node: key(b"node")? })
    }

    pub(super) fn of_client(self, node: [u8; 32], id: ResumeId) -> Option<Keys> {
        let own = self.public();
        self.agree(node, own, node, id)
    }

    pub(super) fn of_node(self, client: [u8; 32], id: ResumeId) -> Option<Keys> {
        let own = self.public();
        self.agree(client, client, own, id)
    }
}

/// Proves who may resume one connection. Each side has a key of its own, so that no proof of one can be sent back to it.
pub(super) struct Keys {
    id: ResumeId,
    client: hmac::Key,
    node: hmac::Key,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What both sides have said, over which the proofs are made. The nonces are new each time: no proof is good twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) client_nonce: Nonce,
    pub(super) node_nonce: Nonce,
    /// How much of the node's bytes the client has.
    pub(super) client_received: u64,
    /// How much of the client's bytes the node has.
    pub(super) node_received: u64,
}

/// The client has proved that it knows the keys of a connection.
#[derive(Debug)]
pub(super) struct Proved(());

impl Keys {
    pub(super) const fn id(&self) -> ResumeId {
        self.id
    }

    fn proof(key: &hmac::Key, said: &Said) -> [u8; 32] {
        let mut proof = [0; 32];
        let tag = hmac::sign(key, &said.to_bytes());
        for (to, from) in proof.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        proof
    }

    pub(super) fn prove_client(&self, said: &Said) -> [u8; 32] {
        Self::proof(&self.client, said)
    }

    pub(super) fn prove_node(&self, said: &Said) -> [u8; 32] {
        Self::proof(&self.node, said)
    }

    /// Whether that is the client's proof. In constant time.
    pub(super) fn check_client(&self, said: &Said, proof: &[u8; 32]) -> Option<Proved> {
        hmac::verify(&self.client, &said.to_bytes(), proof).ok().map(|()| Proved(()))
    }

    /// Whether that is the node's proof. In constant time.
    pub(super) fn check_node(&self, said: &Said, proof: &[u8; 32]) -> bool {
        hmac::verify(&self.node, &said.to_bytes(), proof).is_ok()
    }
}

impl Said {
    fn to_bytes(self) -> Vec<u8> {
        [
            &self.client_nonce[..],
            &self.node_nonce,
            &self.client_received.to_be_bytes(),
            &self.node_received.to_be_bytes(),
        ]
        .concat()
    }
}
