//! Whom a cluster trusts, and how a joining host recognises it.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;

use super::PublicKey;
use crate::id::ClusterName;

/// An X.509 authority as its certificate, DER.
#[derive(Clone, PartialEq, Eq)]
pub struct X509Authority(Box<[u8]>);

impl X509Authority {
    /// From a DER certificate. It is parsed when it is used.
    pub fn from_der(der: impl Into<Box<[u8]>>) -> Self {
        Self(der.into())
    }

    /// The DER certificate.
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }

    /// The DER SubjectPublicKeyInfo of the certificate; `None` if it is no certificate.
    pub fn spki(&self) -> Option<&[u8]> {
        spki(&self.0)
    }
}

/// A DER element.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// With tag and length.
    whole: &'a [u8],
    /// What follows it.
    after: &'a [u8],
}

/// The first element. Definite lengths of up to four bytes.
fn element(input: &[u8]) -> Option<Element<'_>> {
    let (tag, rest) = input.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, body) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (len, body) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (
                len.iter()
                    .try_fold(0_usize, |len, byte| len.checked_mul(256)?.checked_add(usize::from(*byte)))?,
                body,
            )
        }
        _ => return None,
    };
    let (content, after) = body.split_at_checked(len)?;
    let whole = input.get(..input.len() - after.len())?;
    Some(Element { tag: *tag, content, whole, after })
}

/// The SubjectPublicKeyInfo of an X.509 certificate (RFC 5280 section 4.1): the seventh element of its to-be-signed part,
/// the sixth if there is no version.
fn spki(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let Element { tag: SEQUENCE, content, after: [], .. } = element(certificate)? else { return None };
    let Element { tag: SEQUENCE, content: mut rest, .. } = element(content)? else { return None };
    if let Element { tag: VERSION, after, .. } = element(rest)? {
        rest = after;
    }
    // Serial number, signature algorithm, issuer, validity, subject.
    for _ in 0..5 {
        rest = element(rest)?.after;
    }
    let Element { tag: SEQUENCE, whole, .. } = element(rest)? else { return None };
    Some(whole)
}

impl fmt::Debug for X509Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X509Authority({} bytes)", self.0.len())
    }
}

impl Serialize for X509Authority {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for X509Authority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self::from_der).map_err(serde::de::Error::custom)
    }
}

/// The public half of a cluster's authorities. During a rotation each list holds the old and the new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "authorities build it; a new one must make verifiers think")]
pub struct TrustBundle {
    /// The cluster.
    pub cluster: ClusterName,
    /// Keys that sign users' SSH certificates.
    pub user_ca: Vec<PublicKey>,
    /// Keys that sign hosts' SSH certificates.
    pub host_ca: Vec<PublicKey>,
    /// Keys that sign what proxies show to the SSH servers of others that are registered as nodes, in the name of a user. Those servers
    /// trust them and nothing else; nothing of ours does.
    pub openssh_ca: Vec<PublicKey>,
    /// Authorities of users' X.509 identities.
    pub user_tls_ca: Vec<X509Authority>,
    /// Authorities of hosts' X.509 identities.
    pub host_tls_ca: Vec<X509Authority>,
}

impl TrustBundle {
    /// The pins by which joining hosts recognise the cluster: of each authority of hosts' X.509 identities.
    pub fn ca_pins(&self) -> Vec<CaPin> {
        self.host_tls_ca.iter().filter_map(|authority| authority.spki().map(CaPin::of_spki)).collect()
    }
}

/// The text is not a CA pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a CA pin is `sha256:` and 64 lower-case hexadecimal digits, as `tctl status` prints it")]
#[non_exhaustive]
pub struct InvalidCaPin;

/// The SHA-256 of an authority's DER SubjectPublicKeyInfo: `sha256:` and hex. Compared in constant time.
#[derive(Clone, Copy, Debug, Eq)]
pub struct CaPin([u8; 32]);

impl CaPin {
    /// The pin of a SubjectPublicKeyInfo in DER.
    pub fn of_spki(der: &[u8]) -> Self {
        let mut pin = [0; 32];
        pin.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, der).as_ref());
        Self(pin)
    }
}

impl PartialEq for CaPin {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", HEXLOWER.encode(&self.0))
    }
}

impl FromStr for CaPin {
    type Err = InvalidCaPin;

    fn from_str(text: &str) -> Result<Self, InvalidCaPin> {
        let hex = text.strip_prefix("sha256:").ok_or(InvalidCaPin)?;
        let bytes = HEXLOWER.decode(hex.as_bytes()).map_err(|_| InvalidCaPin)?;
        bytes.try_into().map(Self).map_err(|_| InvalidCaPin)
    }
}

impl Serialize for CaPin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CaPin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_pin_has_one_spelling() {
        let pin = CaPin::of_spki(b"spki");
        let text = pin.to_string();
        assert_eq!(text.parse::<CaPin>().unwrap(), pin);
        for bad in ["", "sha256:", &text[7..], &text.to_uppercase(), &text[..70], "sha1:00"] {
            assert!(bad.parse::<CaPin>().is_err(), "{bad}");
        }
        assert_ne!(CaPin::of_spki(b"other"), pin);
    }

    #[test]
    fn finds_the_key_in_a_certificate() {
        // version [0], serial, algorithm, issuer, validity, subject, key, extensions
        let tbs = |version: &[u8], tail: &[u8]| {
            let mut tbs = [version, b"\x02\x01\x07", b"\x30\x00\x30\x00\x30\x00\x30\x00"].concat();
            tbs.extend_from_slice(tail);
            let certificate =
                [&[0x30, u8::try_from(tbs.len()).unwrap()][..], &tbs, b"\x30\x00\x03\x01\x00"].concat();
            X509Authority::from_der(
                [&[0x30, u8::try_from(certificate.len()).unwrap()][..], &certificate].concat(),
            )
        };
        let key = b"\x30\x03key";
        assert_eq!(tbs(b"\xa0\x03\x02\x01\x02", b"\x30\x03key\xa3\x00").spki(), Some(&key[..]));
        assert_eq!(tbs(b"", b"\x30\x03key").spki(), Some(&key[..]));
        assert_eq!(tbs(b"", b"\x04\x03key").spki(), None);
        assert_eq!(tbs(b"", b"").spki(), None);
        for bad in [&b""[..], b"\x30", b"\x30\x80\x00\x00", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x30\x00x"]
        {
            assert_eq!(X509Authority::from_der(bad).spki(), None);
        }
    }
}
