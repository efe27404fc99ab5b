//! Who the client is: a certificate of the cluster is accepted, with any login; everything else is refused.

use std::sync::Arc;

use russh::server::Auth;
use ssh_key::Certificate;
use teleport_core::audit::EventKind;
use teleport_core::cert::{UserCheck, UserIdentity};

use super::Connection;
use crate::authn;
use crate::listener::limits::{MAX_AUTH_FAILURES, MAX_AUTH_PROBES, Outcome};

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
            Ok(identity) => {
                self.user = Some(Arc::new(identity));
                self.outcome.send_replace(Outcome::Authenticated);
                Auth::Accept
            }
            Err(reason) => self.fail(claimed, &reason),
        }
    }

    fn check(&self, certificate: &Certificate) -> Result<UserIdentity, String> {
        let view = self.shared.access.usable().map_err(|error| error.to_string())?;
        // At the proxy there is no login: any principal will do, the node asks for the right one.
        let check = UserCheck { login: None, peer: Some(self.peer.ip()), now: self.shared.clock.now() };
        authn::user(certificate, &view.trust, check).map_err(|error| error.to_string())
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
