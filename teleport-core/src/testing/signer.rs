//! A key for checkpoints that everybody knows.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::audit::AuditError;
use crate::audit::chain::{CheckpointKey, CheckpointSigner};

/// A [`CheckpointSigner`] whose key follows from a number.
#[derive(Debug)]
pub struct KnownKeySigner {
    pair: Ed25519KeyPair,
    broken: AtomicBool,
}

impl KnownKeySigner {
    /// The key of this number.
    ///
    /// # Panics
    /// Never: every seed is a key.
    #[expect(clippy::expect_used, reason = "every 32 bytes are a seed")]
    pub fn new(number: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("32 bytes are a seed");
        Self { pair, broken: AtomicBool::new(false) }
    }

    /// From now on signing fails, or works again.
    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }
}

#[async_trait]
impl CheckpointSigner for KnownKeySigner {
    fn key(&self) -> CheckpointKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        CheckpointKey::new(key)
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AuditError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(AuditError::new("the key was told to fail"));
        }
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}
