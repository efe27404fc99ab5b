//! Secrets at rest: authenticated encryption under one master key.

use std::fmt;
use std::sync::Arc;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use teleport_core::entropy::{Entropy, EntropyError, EntropyExt};
use teleport_core::secret::{self, OpenError, SecretBytes};
use zeroize::Zeroizing;

/// The length of a master key, in bytes.
pub const MASTER_KEY_LEN: usize = 32;

/// The first byte of everything sealed: ChaCha20-Poly1305 under the derived key, random nonce, context as associated data.
const FORMAT: u8 = 1;

/// Names the derived key of [`FORMAT`], so that a later format never shares a key with it.
const DERIVATION: &[u8] = b"teleport-ca/seal/1";

/// The master key does not have [`MASTER_KEY_LEN`] bytes, or all of them are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a master key has {MASTER_KEY_LEN} random bytes")]
#[non_exhaustive]
pub struct InvalidMasterKey;

/// Seals secrets for storage: [`secret::Sealer`] with ChaCha20-Poly1305.
///
/// Sealed data is `format byte ‖ nonce (12) ‖ ciphertext ‖ tag (16)`. The context is authenticated, so data that was moved
/// to another record does not open. Nonces are random: one master key is good for 2³² sealings with a negligible risk of
/// a repeated one, far beyond what an authority and the seeds of its users need.
///
/// # Limits
/// Whoever can write the storage may put back an older sealed value of the same record. What must not go back (a counter, a
/// used-up step) has to be kept from doing so by other means.
pub struct Sealer {
    key: LessSafeKey,
    entropy: Arc<dyn Entropy>,
}

impl Sealer {
    /// With a master key that was made at random and is kept outside of the storage.
    ///
    /// # Errors
    /// [`InvalidMasterKey`] for a key of another length, and for one of equal bytes, which is a file that was never filled.
    pub fn new(master_key: &SecretBytes, entropy: Arc<dyn Entropy>) -> Result<Self, InvalidMasterKey> {
        let bytes = master_key.expose();
        if bytes.len() != MASTER_KEY_LEN || bytes.windows(2).all(|pair| pair.first() == pair.last()) {
            return Err(InvalidMasterKey);
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        let key = salt
            .extract(bytes)
            .expand(&[DERIVATION], &CHACHA20_POLY1305)
            .map(UnboundKey::from)
            .map_err(|_| InvalidMasterKey)?;
        Ok(Self { key: LessSafeKey::new(key), entropy })
    }

    /// Encrypts `plain` for `context`, the key of the record that will hold it.
    ///
    /// # Errors
    /// [`EntropyError`] without randomness.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, EntropyError> {
        let nonce: [u8; NONCE_LEN] = self.entropy.bytes()?;
        let mut buffer = Zeroizing::new(plain.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut buffer)
            // Only for plaintexts of 256 GiB and more; refusing is all that can be done.
            .map_err(|_| EntropyError::new())?;
        Ok([&[FORMAT][..], &nonce, &buffer, tag.as_ref()].concat())
    }

    /// Decrypts what was sealed for `context`.
    ///
    /// # Errors
    /// [`OpenError`] for another key, another context, another format or damaged data; it does not say which.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<SecretBytes, OpenError> {
        let (format, rest) = sealed.split_first().ok_or(OpenError::new())?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::new())?;
        if *format != FORMAT {
            return Err(OpenError::new());
        }
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let plain = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut buffer)
            .map_err(|_| OpenError::new())?;
        Ok(SecretBytes::new(&*plain))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl secret::Sealer for Sealer {
    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, EntropyError> {
        self.seal(context, plain)
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<SecretBytes, OpenError> {
        self.open(context, sealed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use teleport_core::entropy::SystemEntropy;

    use super::*;

    #[derive(Debug)]
    struct NoEntropy;

    impl Entropy for NoEntropy {
        fn fill(&self, _: &mut [u8]) -> Result<(), EntropyError> {
            Err(EntropyError::new())
        }
    }

    fn sealer(seed: u8) -> Sealer {
        let master: Vec<u8> = (0..32).map(|byte| byte ^ seed).collect();
        Sealer::new(&SecretBytes::new(master), Arc::new(SystemEntropy::new())).unwrap()
    }

    #[test]
    fn opens_what_it_sealed_and_never_seals_the_same_twice() {
        let sealer = sealer(0);
        for plain in [&b""[..], b"seed", &[7; 4096]] {
            let sealed = sealer.seal("a/b", plain).unwrap();
            assert_eq!(sealer.open("a/b", &sealed).unwrap().expose(), plain);
            assert_ne!(sealer.seal("a/b", plain).unwrap(), sealed);
        }
    }

    #[test]
    fn refuses_another_context_key_or_bit() {
        let sealed = sealer(0).seal("keys/a", b"seed").unwrap();
        assert!(sealer(0).open("keys/b", &sealed).is_err());
        assert!(sealer(1).open("keys/a", &sealed).is_err());
        for index in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[index] ^= 1;
            assert!(sealer(0).open("keys/a", &damaged).is_err(), "byte {index}");
            assert!(sealer(0).open("keys/a", &sealed[..index]).is_err(), "cut at {index}");
        }
    }

    /// The format is stored in databases: it may only change together with its first byte. Sealed here by an independent
    /// implementation of HKDF and ChaCha20-Poly1305.
    #[test]
    fn opens_what_the_first_release_sealed() {
        let golden = "016e6f6e6365206f6e6c792021a6ebd33baeeba5ad323512da7ab3a39400";
        let golden = data_encoding::HEXLOWER.decode(golden.as_bytes()).unwrap();
        assert_eq!(sealer(0).open("ca/keys/a", &golden).unwrap().expose(), b"a");
    }

    #[test]
    fn fails_closed() {
        for master in [&[][..], &[0; 32], &[9; 32], &[1; 31]] {
            assert!(Sealer::new(&SecretBytes::new(master), Arc::new(NoEntropy)).is_err());
        }
        let master: Vec<u8> = (0..32).collect();
        let sealer = Sealer::new(&SecretBytes::new(master), Arc::new(NoEntropy)).unwrap();
        assert!(sealer.seal("a", b"b").is_err());
    }
}
