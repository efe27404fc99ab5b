//! The private keys of hosts and users: made where they are used, never sent.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey};
use teleport_core::cert::{PublicKey, TlsPublicKey};
use teleport_core::entropy::{Entropy, EntropyError, EntropyExt};
use teleport_core::secret::{SecretBytes, SecretString};
use zeroize::Zeroizing;

use crate::pem;

/// What precedes the uncompressed point in the DER SubjectPublicKeyInfo of a P-256 key (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a key pair was not made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text or bytes are not a private key of the expected algorithm without a passphrase.
    #[error("not an unencrypted private key of the expected algorithm")]
    Malformed,
    /// There is no randomness to make a key from.
    #[error("no key can be made")]
    Entropy {
        /// The reason.
        #[from]
        source: EntropyError,
    },
}

/// An Ed25519 key pair for SSH. Its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct SshKeyPair {
    private: PrivateKey,
    public: PublicKey,
}

impl SshKeyPair {
    /// A new pair from `entropy`.
    ///
    /// # Errors
    /// [`KeyError::Entropy`].
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, KeyError> {
        let seed = Zeroizing::new(entropy.bytes::<32>()?);
        Self::from_private(PrivateKey::from(Ed25519Keypair::from_seed(&seed)))
    }

    fn from_private(private: PrivateKey) -> Result<Self, KeyError> {
        if !matches!(private.key_data(), KeypairData::Ed25519(_)) {
            return Err(KeyError::Malformed);
        }
        let blob = private.public_key().to_bytes().map_err(|_| KeyError::Malformed)?;
        let public = PublicKey::from_wire(&blob).map_err(|_| KeyError::Malformed)?;
        Ok(Self { private, public })
    }

    /// Reads the format of `ssh-keygen` (`-----BEGIN OPENSSH PRIVATE KEY-----`), without a passphrase.
    ///
    /// # Errors
    /// [`KeyError::Malformed`], also for other algorithms.
    pub fn from_openssh(text: &str) -> Result<Self, KeyError> {
        let private = PrivateKey::from_openssh(text).map_err(|_| KeyError::Malformed)?;
        Self::from_private(private)
    }

    /// The format of `ssh-keygen`.
    pub fn to_openssh(&self) -> SecretString {
        // Encoding a key that was parsed or made here cannot fail; an empty text would be refused by every reader.
        let text = self.private.to_openssh(LineEnding::LF).unwrap_or_default();
        SecretString::new(text.as_str())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }

    /// Signs `message`, as it is: it must begin with what no other message begins with that is signed with this key. `None` for a key
    /// whose halves do not fit.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        let KeypairData::Ed25519(pair) = self.private.key_data() else { return None };
        let pair =
            Ed25519KeyPair::from_seed_and_public_key(pair.private.as_ref(), pair.public.as_ref()).ok()?;
        pair.sign(message).as_ref().try_into().ok()
    }

    /// For the SSH engine.
    pub(crate) fn private(&self) -> &PrivateKey {
        &self.private
    }
}

impl fmt::Debug for SshKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshKeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

/// An ECDSA P-256 key pair for TLS.
#[derive(Clone)]
pub struct TlsKeyPair {
    pkcs8: SecretBytes,
    public: TlsPublicKey,
}

impl TlsKeyPair {
    /// A new pair.
    ///
    /// The key comes from the operating system through `ring`, which takes no other source; `entropy` is asked first, so
    /// that a process that must not make keys makes none.
    ///
    /// # Errors
    /// [`KeyError::Entropy`].
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, KeyError> {
        let _healthy = entropy.bytes::<16>()?;
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| KeyError::Entropy { source: EntropyError::new() })?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Reads a PKCS#8 document in DER.
    ///
    /// # Errors
    /// [`KeyError::Malformed`], also for other algorithms.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new())
            .map_err(|_| KeyError::Malformed)?;
        let spki = [&P256_SPKI_PREFIX, pair.public_key().as_ref()].concat();
        let public = TlsPublicKey::from_spki(&spki).map_err(|_| KeyError::Malformed)?;
        Ok(Self { pkcs8: SecretBytes::new(der), public })
    }

    /// PKCS#8 in DER.
    pub fn to_pkcs8(&self) -> SecretBytes {
        self.pkcs8.clone()
    }

    /// PKCS#8 as PEM (`-----BEGIN PRIVATE KEY-----`).
    pub fn to_pem(&self) -> SecretString {
        SecretString::new(pem::encode("PRIVATE KEY", self.pkcs8.expose()).as_str())
    }

    /// The public half.
    pub fn public(&self) -> TlsPublicKey {
        self.public.clone()
    }

    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.expose().to_vec()))
    }
}

impl fmt::Debug for TlsKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsKeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use teleport_core::entropy::SystemEntropy;
    use teleport_core::testing::{NoEntropy, RepeatableEntropy};

    use super::*;

    #[test]
    fn an_ssh_key_survives_its_text_form() {
        let key = SshKeyPair::generate(&SystemEntropy::new()).unwrap();
        let text = key.to_openssh();
        assert!(text.expose().starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        assert_eq!(SshKeyPair::from_openssh(text.expose()).unwrap().public(), key.public());
        assert!(SshKeyPair::from_openssh("").is_err());
        assert!(SshKeyPair::from_openssh(&key.public().to_string()).is_err());
    }

    #[test]
    fn a_tls_key_survives_its_bytes() {
        let key = TlsKeyPair::generate(&SystemEntropy::new()).unwrap();
        let again = TlsKeyPair::from_pkcs8(key.to_pkcs8().expose()).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(TlsKeyPair::from_pkcs8(b"").is_err());
        assert_ne!(TlsKeyPair::generate(&SystemEntropy::new()).unwrap().public(), key.public());
    }

    #[test]
    fn no_randomness_makes_no_keys() {
        assert!(matches!(SshKeyPair::generate(&NoEntropy), Err(KeyError::Entropy { .. })));
        assert!(matches!(TlsKeyPair::generate(&NoEntropy), Err(KeyError::Entropy { .. })));
    }

    #[test]
    fn the_seed_decides_the_ssh_key() {
        let make = |seed| SshKeyPair::generate(&RepeatableEntropy::new(seed)).unwrap().public();
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }

    #[test]
    fn debug_shows_public_halves_only() {
        let ssh = SshKeyPair::generate(&RepeatableEntropy::new(3)).unwrap();
        let text = format!("{ssh:?}");
        assert!(text.contains("SHA256:") && !text.contains("private"), "{text}");
        let tls = TlsKeyPair::generate(&RepeatableEntropy::new(3)).unwrap();
        assert!(!format!("{tls:?}").contains("pkcs8"));
    }
}
