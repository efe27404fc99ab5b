//! X.509: the authorities' own certificates and the identities that they sign.
//!
//! `rcgen` writes the DER. It is given a key that only notes what it shall sign; the signature comes from the
//! [`KeyStore`](crate::key::KeyStore), so that no private key is ever handed to `rcgen`.

mod der;
mod issuer;
mod leaf;

pub(crate) use self::issuer::TlsIssuer;
pub(crate) use self::leaf::{Leaf, alternative_names};
