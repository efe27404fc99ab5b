//! What a node or an auth service believes of it.

use std::sync::{Arc, Mutex, PoisonError};

use teleport_core::cert::TrustBundle;
use teleport_core::clock::Clock;
use teleport_core::origin::{Audience, Origin, OriginCheck, OriginRejected, Seen};

use crate::authn;

/// Judges the statements that come to one host; each is believed once.
#[derive(Debug)]
pub(crate) struct OriginVerifier {
    audience: Audience,
    clock: Arc<dyn Clock>,
    seen: Mutex<Seen>,
}

impl OriginVerifier {
    pub(crate) fn new(audience: Audience, clock: Arc<dyn Clock>) -> Self {
        Self { audience, clock, seen: Mutex::default() }
    }

    /// Who says what, in a whole statement.
    ///
    /// # Errors
    /// [`OriginRejected`]: the connection is to be cut before anything else is made of it.
    pub(crate) fn verify(&self, header: &[u8], trust: &TrustBundle) -> Result<Origin, OriginRejected> {
        let check = OriginCheck { trust, audience: self.audience, now: self.clock.now() };
        let (fields, statement) = authn::statement_from_bytes(header)?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).accept(&fields, &statement, check)
    }
}
