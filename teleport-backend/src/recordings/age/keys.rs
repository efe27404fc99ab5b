//! Keys as `age-keygen` writes them.

use std::fmt;

use bech32::{Bech32, Hrp};
use ring::digest::{SHA256, digest};
use teleport_core::secret::SecretString;
use x25519_dalek::{PublicKey, StaticSecret};

/// What public keys begin with.
const PUBLIC: Hrp = Hrp::parse_unchecked("age");
/// What private keys begin with.
const PRIVATE: Hrp = Hrp::parse_unchecked("age-secret-key-");

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgeKeyError {
    /// Not the public key of an X25519 pair.
    #[error("not an age recipient: write what `age-keygen` prints as the public key, age1…")]
    Recipient,
    /// A line of a file of identities is none. The line is not repeated.
    #[error("line {line} is not an age identity: write what `age-keygen` wrote, AGE-SECRET-KEY-1…")]
    Identity {
        /// Which.
        line: usize,
    },
    /// A file of identities has none.
    #[error("there is no age identity in it")]
    NoIdentity,
}

/// A public key: who may read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AgeRecipient(pub(super) [u8; 32]);

impl std::str::FromStr for AgeRecipient {
    type Err = AgeKeyError;

    fn from_str(text: &str) -> Result<Self, AgeKeyError> {
        let key = decode(text, PUBLIC).ok_or(AgeKeyError::Recipient)?;
        // With a point of low order everybody has the key of what is encrypted for it; any secret shows that.
        let shared = StaticSecret::from([1; 32]).diffie_hellman(&PublicKey::from(key));
        if shared.was_contributory() { Ok(Self(key)) } else { Err(AgeKeyError::Recipient) }
    }
}

impl fmt::Display for AgeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<Bech32, _>(f, PUBLIC, &self.0).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for AgeRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key: it reads. Zeroised when dropped.
pub struct AgeIdentity(pub(super) StaticSecret);

impl AgeIdentity {
    /// Reads a file of `age-keygen`: a key on each line; empty lines and those that begin with `#` count for nothing.
    ///
    /// # Errors
    /// [`AgeKeyError`].
    pub fn parse_file(text: &SecretString) -> Result<Vec<Self>, AgeKeyError> {
        let lines = (1..).zip(text.expose().lines().map(str::trim));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<Self> = keys
            .map(|(line, key)| {
                let bytes = decode(key, PRIVATE).ok_or(AgeKeyError::Identity { line })?;
                Ok(Self(StaticSecret::from(bytes)))
            })
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(AgeKeyError::NoIdentity) } else { Ok(keys) }
    }

    /// Its public key.
    pub fn recipient(&self) -> AgeRecipient {
        AgeRecipient(PublicKey::from(&self.0).to_bytes())
    }
}

impl fmt::Debug for AgeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgeIdentity(of {})", self.recipient())
    }
}

fn decode(text: &str, prefix: Hrp) -> Option<[u8; 32]> {
    // Bech32 in one case; the newer checksum of bech32m is not age's.
    let parsed = bech32::primitives::decode::CheckedHrpstring::new::<Bech32>(text).ok()?;
    if parsed.hrp() != prefix {
        return None;
    }
    let mut bytes = parsed.byte_iter();
    let mut key = [0; 32];
    for byte in &mut key {
        *byte = bytes.next()?;
    }
    bytes.next().is_none().then_some(key)
}

/// A name for a set of recipients: tells whether it was another one, and nothing about who they are to those who do not know.
pub(super) fn set_id(recipients: &[AgeRecipient]) -> String {
    let mut keys: Vec<[u8; 32]> = recipients.iter().map(|recipient| recipient.0).collect();
    keys.sort_unstable();
    let hash = digest(&SHA256, &keys.concat());
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    // By `age-keygen` 1.1.1.
    const KEYS: &str = "# created: 2026-11-21T13:00:00Z\n\
        # public key: age154dqw4shzca7sw7tcreymkm032qzmaxcuezchmz6c54aeh820gjqh7394s\n\n\
        AGE-SECRET-KEY-1NEPRZP7GYWZDMF22QLXELL96F6V3QKW39CHHCGLGRGRCYASXDVMSF940SZ\n";

    #[test]
    fn reads_what_age_writes() {
        let keys = AgeIdentity::parse_file(&SecretString::new(KEYS)).unwrap();
        let public = keys.first().unwrap().recipient();
        assert_eq!(public.to_string(), "age154dqw4shzca7sw7tcreymkm032qzmaxcuezchmz6c54aeh820gjqh7394s");
        assert_eq!(public.to_string().parse::<AgeRecipient>().unwrap(), public);
        assert!(!format!("{keys:?}").to_uppercase().contains("NEPRZP7G"), "the private key is not shown");
    }

    /// What is encrypted for one of these everybody can read.
    #[test]
    fn points_of_low_order_are_no_recipients() {
        let hex = |text: &str| {
            let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
            <[u8; 32]>::try_from(bytes).unwrap()
        };
        let mut one = [0; 32];
        one[0] = 1;
        for point in [
            [0; 32],
            one,
            // Of order 8, then -1, 0 and 1 written as p - 1, p and p + 1.
            hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
            hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
            hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        ] {
            let text = AgeRecipient(point).to_string();
            assert_eq!(text.parse::<AgeRecipient>(), Err(AgeKeyError::Recipient), "{text}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        let public = "age154dqw4shzca7sw7tcreymkm032qzmaxcuezchmz6c54aeh820gjqh7394s";
        for text in [
            "",
            "age1",
            "ssh-ed25519 AAAA",
            &public[1..],
            &public.replace(&public[50..51], if &public[50..51] == "q" { "p" } else { "q" }),
            &format!("{public}q"),
        ] {
            let parsed = text.parse::<AgeRecipient>();
            assert_eq!(parsed.is_ok(), text == public, "{text}");
        }
        assert!(KEYS.lines().last().unwrap().parse::<AgeRecipient>().is_err(), "a private key is none");
        let file = |text: &str| AgeIdentity::parse_file(&SecretString::new(text)).unwrap_err();
        assert_eq!(file("# nothing\n"), AgeKeyError::NoIdentity);
        let wrong = KEYS.replace("40SZ", "40SQ");
        assert_eq!(file(&wrong), AgeKeyError::Identity { line: 4 });
        assert!(!file(&wrong).to_string().contains("NEPRZP7G"));
        assert_eq!(file(public), AgeKeyError::Identity { line: 1 });
    }
}
