//! Who the client is: a certificate of the cluster is accepted, with any login; everything else is refused.

use std::sync::Arc;

use russh::server::Auth;
use ssh_key::Certificate;
use teleport_core::access::Unwelcome;
use teleport_core::audit::EventKind;
use teleport_core::cert::UserCheck;
use teleport_core::lock::Locked;

use super::Connection;
use super::Visitor;
use crate::authn;
use crate::listener::limits::{MAX_AUTH_FAILURES, MAX_AUTH_PROBES, Outcome};

/// Why a certificate does not let its holder in.
enum Refused {
    /// Its holder is told.
    Locked(Locked),
    /// For the log.
    Other(String),
}

impl Connection {
    /// Whether a client may go on to prove that it has a key. Nothing is remembered of an offer: who it is, is what a verified
    /// signature says.
    pub(super) fn offered(&mut self, claimed: &str) -> Auth {
        self.probes += 1;
        if self.probes > MAX_AUTH_PROBES {
            self.link.close();
            return self.fail(claimed, "too many keys were offered");
        }
        Auth::Accept
    }

    /// Decides about a certificate whose key was just proved. The one place where `user` is set.
    pub(super) fn log_in(&mut self, claimed: &str, certificate: &Certificate) -> Auth {
        match self.check(certificate) {
            Ok(visitor) => {
                let visitor = Arc::new(visitor);
                self.user = Some(Arc::clone(&visitor));
                // The library authenticates a connection once.
                let _ = self.visitor.set(visitor);
                self.outcome.send_replace(Outcome::Authenticated);
                Auth::Accept
            }
            Err(Refused::Locked(locked)) => {
                // There is no other way to tell a stock client why it is refused than to accept the proof and end the connection;
                // no way is opened without a user.
                let event = self.event(EventKind::AuthFailure).error(&locked).user(certificate.key_id());
                self.shared.journal.note(event.field("claimed_user", claimed));
                self.outcome.send_replace(Outcome::Unblamed);
                self.locked = Some(locked);
                Auth::Accept
            }
            Err(Refused::Other(reason)) => self.fail(claimed, &reason),
        }
    }

    fn check(&self, certificate: &Certificate) -> Result<Visitor, Refused> {
        let other = |error: &dyn std::fmt::Display| Refused::Other(error.to_string());
        let view = self.shared.access.usable().map_err(|error| other(&error))?;
        let now = self.shared.clock.now();
        // At the proxy there is no login: any principal will do, the node asks for the right one.
        let check = UserCheck { login: None, peer: Some(self.peer.ip()), now };
        let (identity, authority) =
            authn::user(certificate, &view.trust, check).map_err(|error| other(&error))?;
        view.admit(&identity, self.shared.access.freshness(now)).map_err(|why| match why {
            Unwelcome::Locked(locked) => Refused::Locked(locked),
            why => other(&why),
        })?;
        Ok(Visitor { identity, authority })
    }

    pub(super) fn fail(&mut self, claimed: &str, reason: &str) -> Auth {
        self.failures += 1;
        self.outcome.send_replace(Outcome::Failed);
        // Who somebody claims to be is a claim; it is recorded as one.
        let event = self.event(EventKind::AuthFailure).error(reason).field("claimed_user", claimed);
        self.shared.journal.note(event);
        if self.failures >= MAX_AUTH_FAILURES {
            self.link.close();
        }
        Auth::reject()
    }
}
