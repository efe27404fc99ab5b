//! A sealer whose key everybody knows.

use std::sync::atomic::{AtomicU64, Ordering};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::entropy::EntropyError;
use crate::secret::{OpenError, Sealer, SecretBytes};

/// A [`Sealer`] that keeps every promise but one: its key is in this source. **Never outside tests.**
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a unit")]
pub struct KnownKeySealer;

fn key() -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).ok().map(LessSafeKey::new)
}

impl Sealer for KnownKeySealer {
    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, EntropyError> {
        // Unique is enough for a key that everybody knows.
        static SEALED: AtomicU64 = AtomicU64::new(0);
        let mut nonce = [0; NONCE_LEN];
        if let Some(counter) = nonce.first_chunk_mut() {
            *counter = SEALED.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        }
        let mut sealed = plain.to_vec();
        key()
            .ok_or(EntropyError::new())?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut sealed)
            .map_err(|_| EntropyError::new())?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<SecretBytes, OpenError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::new())?;
        let mut sealed = sealed.to_vec();
        let plain = key()
            .ok_or(OpenError::new())?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut sealed)
            .map_err(|_| OpenError::new())?;
        Ok(SecretBytes::new(&*plain))
    }
}
