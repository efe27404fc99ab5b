//! Which statements are believed: once each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::{Audience, MAX_STATEMENT_AGE, Malformed, Nonce, Statement};
use crate::cert::{
    CertFields, CertRejected, HostCheck, HostIdentity, TrustBundle, proxy_principal, verify_host,
};
use crate::clock::Timestamp;
use crate::id::{HostId, HostRole};

/// How long a statement that was believed is remembered. Longer than it is good for: the clock may be set back a little.
const REMEMBERED: Duration = Duration::from_secs(2 * MAX_STATEMENT_AGE.as_secs());
/// The most that are remembered of one proxy: five hundred connections a second, without end. Whoever has stolen the key of one,
/// takes nothing from the others.
const MAX_REMEMBERED: usize = 1 << 16;

/// Where a client is, and the proxy that says so. Made by [`Seen::accept`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// The client's address.
    pub client: SocketAddr,
    /// The proxy that carries the connection. Whether it is locked or was removed is for the view to say, now and later.
    pub proxy: HostIdentity,
}

/// What a verifier knows when a statement comes.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "verifiers build it; a new fact must make them think")]
pub struct OriginCheck<'a> {
    /// Whom the verifier trusts.
    pub trust: &'a TrustBundle,
    /// Who the verifier is.
    pub audience: Audience,
    /// The time.
    pub now: Timestamp,
}

/// Why a statement is not believed. For the log and the audit event; the peer is cut off without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OriginRejected {
    /// It is for somebody else.
    #[error("the statement of a client's address is meant for another host")]
    Audience,
    /// The certificate is none of a proxy of this cluster.
    #[error("the statement of a client's address is not of a proxy of this cluster")]
    Certificate(#[from] CertRejected),
    /// More came of one proxy than can be remembered.
    #[error("the proxy made too many statements of clients' addresses within {} s", REMEMBERED.as_secs())]
    Full,
    /// There is none, on a way where a proxy always makes one.
    #[error("the proxy does not say where the client is")]
    Missing,
    /// It is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It was used before.
    #[error("the statement of a client's address was used before")]
    Replayed,
    /// The proxy has not signed it.
    #[error("the signature of the statement of a client's address is wrong")]
    Signature,
    /// It is too old, or from the future.
    #[error(
        "the statement of a client's address is {} s {} (at most {} s): do the clocks of proxy and host agree?",
        by.as_secs(),
        if *future { "ahead" } else { "old" },
        MAX_STATEMENT_AGE.as_secs()
    )]
    Time {
        /// By how much the clocks differ.
        by: Duration,
        /// Whether it is from the future.
        future: bool,
    },
    /// Whom to trust is not known.
    #[error("a statement of a client's address cannot be judged: whom to trust is not known")]
    Trust,
}

/// The statements that were believed lately: none is believed twice. Of one verifier, for as long as it runs.
#[derive(Debug, Default)]
pub struct Seen(pub(super) BTreeMap<HostId, BTreeSet<(Timestamp, Nonce)>>);

impl Seen {
    /// Believes a statement, once.
    ///
    /// `fields` come from a certificate whose signature was verified with `fields.authority`, and the signature of the statement was
    /// verified with `fields.subject`.
    ///
    /// # Errors
    /// [`OriginRejected`].
    pub fn accept(
        &mut self,
        fields: &CertFields,
        statement: &Statement,
        check: OriginCheck<'_>,
    ) -> Result<Origin, OriginRejected> {
        let OriginCheck { trust, audience, now } = check;
        let name = proxy_principal(&trust.cluster);
        let proxy = verify_host(fields, trust, HostCheck { name: &name, role: HostRole::Proxy, now })?;
        if statement.audience != audience {
            return Err(OriginRejected::Audience);
        }
        for (by, future) in
            [(now.saturating_since(statement.issued), false), (statement.issued.saturating_since(now), true)]
        {
            if by > MAX_STATEMENT_AGE {
                return Err(OriginRejected::Time { by, future });
            }
        }
        self.forget(now);
        let used = (statement.issued, statement.nonce);
        let of_proxy = self.0.entry(proxy.host_id).or_default();
        if of_proxy.contains(&used) {
            return Err(OriginRejected::Replayed);
        }
        if of_proxy.len() >= MAX_REMEMBERED {
            return Err(OriginRejected::Full);
        }
        of_proxy.insert(used);
        Ok(Origin { client: statement.client, proxy })
    }

    /// Forgets what nobody would believe any more. What is far ahead was seen by a clock that was wrong.
    fn forget(&mut self, now: Timestamp) {
        let (oldest, newest) = (now.saturating_sub(REMEMBERED), now.saturating_add(REMEMBERED));
        self.0.retain(|_, of_proxy| {
            while of_proxy.first().is_some_and(|(issued, _)| *issued < oldest) {
                of_proxy.pop_first();
            }
            while of_proxy.last().is_some_and(|(issued, _)| *issued > newest) {
                of_proxy.pop_last();
            }
            !of_proxy.is_empty()
        });
    }
}
