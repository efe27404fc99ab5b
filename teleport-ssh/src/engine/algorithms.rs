//! The algorithms: exactly these, nothing that the library or a peer might add.

use std::borrow::Cow;

use russh::{Preferred, cipher, compression, kex, mac};
use ssh_key::{Algorithm, EcdsaCurve};

/// Post-quantum first. No finite-field groups: a stranger could make the server compute for half a second with each packet.
const KEX_SERVER: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];
const KEX_CLIENT: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

/// For a server the client's order counts; this is the order of our client. AES-GCM is the fastest where the processor helps.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_256_GCM, cipher::AES_128_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR];

/// One of the ciphers that are spoken, by its name in SSH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cipher(usize);

/// No cipher that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such cipher is spoken here; there are aes256-gcm@openssh.com, aes128-gcm@openssh.com, \
     chacha20-poly1305@openssh.com and aes256-ctr"
)]
#[non_exhaustive]
pub struct UnknownCipher;

impl std::str::FromStr for Cipher {
    type Err = UnknownCipher;

    fn from_str(name: &str) -> Result<Self, UnknownCipher> {
        CIPHERS.iter().position(|known| known.as_ref() == name).map(Self).ok_or(UnknownCipher)
    }
}

/// For AES-CTR, the only cipher that needs one.
const MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM];

/// Our hosts' keys, and what `server-sig-algs` offers to users' keys. No RSA, so no SHA-1.
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
];

const COMPRESSIONS: &[compression::Name] = &[compression::NONE];

/// For servers.
pub(crate) fn server_preferred() -> Preferred {
    Preferred {
        kex: Cow::Borrowed(KEX_SERVER),
        key: Cow::Borrowed(KEYS),
        // A server offers the certificates it has.
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Borrowed(CIPHERS),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(COMPRESSIONS),
    }
}

/// For clients: host certificates only; only this cipher if one is said.
pub(crate) fn client_preferred(cipher: Option<Cipher>) -> Preferred {
    let only = cipher.and_then(|Cipher(index)| CIPHERS.get(index..=index));
    Preferred {
        kex: Cow::Borrowed(KEX_CLIENT),
        key: Cow::Borrowed(KEYS),
        host_key_certificates: Cow::Borrowed(KEYS),
        cipher: Cow::Borrowed(only.unwrap_or(CIPHERS)),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(COMPRESSIONS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<T: AsRef<str>>(list: &[T]) -> Vec<&str> {
        list.iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn nothing_slow_broken_or_compressed_is_offered() {
        for preferred in [server_preferred(), client_preferred(None)] {
            for name in names(&preferred.kex) {
                assert!(!name.contains("diffie-hellman") && !name.contains("nistp"), "{name}");
            }
            assert!(names(&preferred.kex).iter().any(|name| name.starts_with("kex-strict-")));
            assert_eq!(names(&preferred.compression), ["none"]);
            assert!(names(&preferred.mac).iter().all(|name| name.contains("sha2") && name.contains("etm")));
            assert!(names(&preferred.cipher).iter().all(|name| !name.contains("cbc") && *name != "none"));
            assert!(!preferred.key.iter().any(|key| matches!(key, Algorithm::Rsa { .. } | Algorithm::Dsa)));
        }
    }

    #[test]
    fn a_cipher_is_one_of_those_that_are_spoken() {
        for name in CIPHERS {
            let cipher = name.as_ref().parse().ok();
            assert!(cipher.is_some());
            assert_eq!(names(&client_preferred(cipher).cipher), [name.as_ref()]);
        }
        for name in ["", "none", "aes256-cbc", "3des-cbc", "clear", "AES256-CTR", "aes256-ctr,aes128-ctr"] {
            assert_eq!(name.parse::<Cipher>(), Err(UnknownCipher), "{name}");
            assert!(UnknownCipher.to_string().contains("aes256-ctr"));
        }
        for name in CIPHERS {
            assert!(UnknownCipher.to_string().contains(name.as_ref()), "{}", name.as_ref());
        }
    }
}
