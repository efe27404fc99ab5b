//! What is signed, apart from who signs it.

use std::cell::RefCell;

use rcgen::{
    CertificateParams, Issuer, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey,
};

/// `AlgorithmIdentifier` of ecdsa-with-SHA256 (RFC 5758).
const ECDSA_WITH_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A P-256 public key for `rcgen`: its uncompressed point.
pub(super) struct Point<'a>(pub(super) &'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// "Signs" by noting the message.
struct Notes<'a> {
    key: Point<'a>,
    message: RefCell<Vec<u8>>,
}

impl PublicKeyData for Notes<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.key.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl SigningKey for Notes<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.message.replace(message.to_vec());
        Ok(Vec::new())
    }
}

/// The `TBSCertificate` of `params` for `subject`, to be signed by the key at `issuer_point`.
pub(super) fn to_be_signed(
    params: &CertificateParams,
    subject: &Point<'_>,
    issuer: &CertificateParams,
    issuer_point: &[u8],
) -> Result<Vec<u8>, rcgen::Error> {
    let notes = Notes { key: Point(issuer_point), message: RefCell::default() };
    params.signed_by(subject, &Issuer::from_params(issuer, &notes))?;
    Ok(notes.message.into_inner())
}

/// The certificate: what was signed, the algorithm, the signature.
pub(super) fn assemble(to_be_signed: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut bits = Vec::with_capacity(signature.len() + 8);
    header(&mut bits, 0x03, signature.len() + 1);
    bits.push(0);
    bits.extend_from_slice(signature);
    let len = to_be_signed.len() + ECDSA_WITH_SHA256.len() + bits.len();
    let mut out = Vec::with_capacity(len + 8);
    header(&mut out, 0x30, len);
    out.extend_from_slice(to_be_signed);
    out.extend_from_slice(&ECDSA_WITH_SHA256);
    out.extend_from_slice(&bits);
    out
}

/// A DER tag and length.
fn header(out: &mut Vec<u8>, tag: u8, len: usize) {
    out.push(tag);
    match u8::try_from(len) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = len.to_be_bytes();
            let used = bytes.len() - bytes.iter().take_while(|byte| **byte == 0).count();
            // At most 8 bytes follow.
            out.push(0x80 | u8::try_from(used).unwrap_or(8));
            out.extend(bytes.iter().skip(bytes.len() - used));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_shortest_length() {
        for (len, expected) in [
            (0, &[0x30, 0][..]),
            (127, &[0x30, 127]),
            (128, &[0x30, 0x81, 128]),
            (255, &[0x30, 0x81, 255]),
            (256, &[0x30, 0x82, 1, 0]),
            (65536, &[0x30, 0x83, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            header(&mut out, 0x30, len);
            assert_eq!(out, expected, "{len}");
        }
    }
}
