//! Who the client is: certificates are accepted or refused, and whatever is no certificate is refused.

use std::sync::Arc;

use russh::Disconnect;
use russh::server::{Auth, PublicKeyOffer, Session};
use ssh_key::Certificate;
use teleport_core::audit::EventKind;

use super::{Connection, ConnectionError};
use crate::listener::limits::{MAX_AUTH_FAILURES, MAX_AUTH_PROBES};
use crate::node::authorize::{self, Pass, Refusal, chain};
use crate::node::places::NoPlace;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) enum Progress {
    /// Nothing was tried.
    Connected,
    /// An authentication was tried and refused.
    Refused,
    /// A certificate of this cluster was refused, for instance because its holder may not log in here.
    Denied,
    /// The client is known and may log in.
    Authenticated,
}

impl Connection {
    /// Whether a client may go on to prove that it has the key. The offer does not say whether the key came in a certificate.
    /// Nothing is remembered of it: who the client is, only a verified proof says.
    pub(super) fn offered(&mut self, offer: &PublicKeyOffer<'_>) -> Result<Auth, ConnectionError> {
        self.probes = self.probes.saturating_add(1);
        if self.probes > MAX_AUTH_PROBES {
            return Err(ConnectionError::TooManyAttempts);
        }
        let known =
            matches!(offer.algorithm.as_str(), "ssh-ed25519" | "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384");
        if known && !offer.public_key.key_data().is_certificate() {
            Ok(Auth::Accept)
        } else {
            Ok(Auth::reject())
        }
    }

    /// Decides about a certificate whose key was just proved. The one place where `entry` is set.
    pub(super) async fn log_in(
        &mut self,
        login: &str,
        certificate: &Certificate,
    ) -> Result<Auth, ConnectionError> {
        self.entry = None;
        let node = Arc::clone(&self.node);
        let now = node.clock.now();
        let record = node.record.borrow().clone();
        let granted = async {
            let entry = authorize::login(certificate, login, &self.whence, now, &node.view, &record)?;
            if let Pass::Login(grant) = &entry.pass {
                node.service.prepare(grant, now).await?;
            }
            Ok::<_, Refusal>(entry)
        };
        match granted.await {
            Ok(entry) => {
                if let (Some(presented), Ok(certificate)) = (&node.presented, certificate.to_openssh()) {
                    presented.set(certificate);
                }
                tracing::info!(peer = %self.peer(), user = %entry.pass.identity().user, login, "login");
                self.entry = Some(entry);
                Ok(Auth::Accept)
            }
            Err(why) => self.refuse(login, certificate, &why),
        }
    }

    /// The client is known. Lets it in, if the user has no more connections than the roles allow.
    /// Whoever is locked hears of the lock and nothing else.
    pub(super) async fn let_in(&mut self, session: &mut Session) -> Result<(), ConnectionError> {
        if let Some(locked) = &self.locked {
            return Ok(session.disconnect(Disconnect::ByApplication, &locked.public(), "")?);
        }
        let Some(entry) = &self.entry else { return Ok(()) };
        let place = match entry.pass.policy().max_connections {
            None => None,
            Some(most) => match self.node.places.take(&entry.pass.identity().user, most).await {
                Ok(place) => Some(place),
                Err(why) => return self.turn_away(most, why, session),
            },
        };
        self.tether.let_in(entry.clone(), place);
        self.progress.send_replace(Progress::Authenticated);
        Ok(())
    }

    /// Ends a connection for which there is no place, and says why to the user, who is known.
    fn turn_away(&mut self, most: u64, why: NoPlace, session: &mut Session) -> Result<(), ConnectionError> {
        tracing::info!(peer = %self.peer(), reason = %why, "login refused");
        let event = self.event(EventKind::SessionRejected).error(why);
        self.node.audit.note(event.field("reason", "max_connections").field("max", most));
        // Nothing is opened for it from now on, whatever it has sent already.
        self.entry = None;
        self.told = true;
        self.progress.send_replace(Progress::Denied);
        Ok(session.disconnect(Disconnect::TooManyConnections, &why.to_string(), "")?)
    }

    /// Refuses a certificate, and tells the audit log why.
    fn refuse(
        &mut self,
        login: &str,
        certificate: &Certificate,
        why: &Refusal,
    ) -> Result<Auth, ConnectionError> {
        let reason = chain(why);
        tracing::info!(peer = %self.peer(), login, %reason, "login refused");
        let event = self
            .event(EventKind::AuthFailure)
            .error(reason)
            .user(certificate.key_id())
            .field("login_requested", login)
            .field("serial", certificate.serial().to_string());
        self.node.audit.note(event);
        self.told = true;
        if why.is_of_ours() {
            self.progress.send_replace(Progress::Denied);
        }
        if let Some(locked) = why.lock() {
            // Who the client is was proved. There is no other way to tell a stock client why it is refused than to accept the proof
            // and end the connection; nothing is opened without an entry.
            self.locked = Some(locked.clone());
            return Ok(Auth::Accept);
        }
        self.failed()
    }

    /// How every client asks which methods there are: no attempt, nobody to blame.
    pub(super) fn asked_for_methods(&mut self, login: &str) -> Auth {
        self.pending.get_or_insert_with(|| (login.to_owned(), "none"));
        Auth::reject()
    }

    /// Refuses what is no certificate. The audit log hears of it if nothing better follows.
    pub(super) fn refuse_method(
        &mut self,
        login: &str,
        method: &'static str,
    ) -> Result<Auth, ConnectionError> {
        tracing::debug!(peer = %self.peer(), login, method, "only certificates are accepted");
        self.pending = Some((login.to_owned(), method));
        self.failed()
    }

    fn failed(&mut self) -> Result<Auth, ConnectionError> {
        self.failures = self.failures.saturating_add(1);
        // Whoever is known stays known.
        self.progress.send_if_modified(|progress| {
            let stranger = *progress == Progress::Connected;
            if stranger {
                *progress = Progress::Refused;
            }
            stranger
        });
        if self.failures > MAX_AUTH_FAILURES {
            return Err(ConnectionError::TooManyAttempts);
        }
        Ok(Auth::reject())
    }

    /// At the end of a connection, tells the audit log of an attempt of which nothing came and that was not told yet.
    pub(super) fn tell_pending(&mut self) {
        let Some((login, method)) = self.pending.take() else { return };
        if self.entry.is_some() || self.told {
            return;
        }
        // The SSH library refuses expired certificates and wrong proofs without asking us.
        let event = self
            .event(EventKind::AuthFailure)
            .error("no valid certificate was shown (expired ones, and those without the proof of their key, are none)")
            .field("login_requested", login)
            .field("method", method);
        self.node.audit.note(event);
    }
}
