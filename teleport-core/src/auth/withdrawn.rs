//! What was withdrawn from users: what their certificates say of it is not good any more, here and, by the view, everywhere.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Inner;
use super::context::OpContext;
use crate::api::ApiResult;
use crate::cert::{CLOCK_SKEW, MAX_USER_TTL, UserIdentity};
use crate::clock::Timestamp;
use crate::id::{RoleName, UserName};
use crate::resource::User;
use crate::storage::{Action, Batch, Condition, Record, Stored};

/// What was withdrawn from a user. Kept for as long as a certificate may say otherwise, and roles for as long as the user exists: a
/// connection may be older than any certificate. A new user of the same name has nothing of it.
///
/// A role that was taken has no time: no certificate of the user is good for it, whenever it was issued, until the role is given
/// back. So a login that began before the change and ended after it gets nothing by that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Withdrawn {
    user: UserName,
    /// Certificates that were issued until then are void: the user was deleted, or had expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    void_until: Option<Timestamp>,
    /// When the user expires, if certificates may outlast that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<Timestamp>,
    /// Roles that the user had and has no more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    roles: BTreeSet<RoleName>,
    /// `None` while there are roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

impl Record for Withdrawn {
    const COLLECTION: &'static str = "withdrawn";

    fn key(&self) -> String {
        self.user.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires
    }
}

impl Withdrawn {
    fn void_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.void_until.max(self.ends.filter(|ends| *ends <= now))
    }

    /// What is to be remembered once the user is no more as it was `before` but as it is `after`. Pure.
    fn next(
        previous: Option<&Self>,
        user: &UserName,
        before: Option<&User>,
        after: Option<&User>,
        now: Timestamp,
    ) -> Option<Self> {
        // Verifiers have clocks of their own.
        let longest = now.saturating_add(MAX_USER_TTL).saturating_add(CLOCK_SKEW * 2);
        let before_until = previous.and_then(|previous| previous.void_until(now));
        let void_until = if after.is_none() { Some(now) } else { before_until };
        // Whoever is new has no certificates, and those that are issued from now on end with the user.
        let ends =
            after.and_then(|user| user.metadata.expires).filter(|at| before.is_some() && *at < longest);
        let mut roles = previous.map(|previous| previous.roles.clone()).unwrap_or_default();
        roles.extend(before.into_iter().flat_map(|user| user.spec.roles.iter().cloned()));
        match after {
            Some(after) => roles.retain(|role| !after.spec.roles.contains(role)),
            None => roles.clear(),
        }
        if void_until.is_none() && ends.is_none() && roles.is_empty() {
            return None;
        }
        let same = previous.filter(|it| it.void_until == void_until && it.ends == ends && it.roles == roles);
        let expires = same.map_or_else(|| roles.is_empty().then_some(longest), |same| same.expires);
        Some(Self { user: user.clone(), void_until, ends, roles, expires })
    }
}

/// Adds to the batch that writes or deletes a user what follows for certificates. The batch must depend on the revision of `before`.
pub(super) async fn remember_in(
    call: &OpContext<'_>,
    batch: Batch,
    user: &UserName,
    before: Option<&User>,
    after: Option<&User>,
) -> ApiResult<Batch> {
    let repo = &call.auth.withdrawn;
    let previous = repo.get(user.as_str()).await?;
    let known = previous.as_ref().map(|stored| &stored.record);
    let next = Withdrawn::next(known, user, before, after, call.now);
    let condition = previous.as_ref().map_or(Condition::Absent, |stored| Condition::Is(stored.revision));
    Ok(match (&next, known) {
        (next, known) if next.as_ref() == known => batch,
        (Some(next), _) => repo.write_in(batch, next, condition)?,
        (None, _) => batch.with(repo.key(user.as_str())?, condition, Action::Delete),
    })
}

async fn of(auth: &Inner, user: &UserName) -> ApiResult<Option<Stored<Withdrawn>>> {
    Ok(auth.withdrawn.get(user.as_str()).await?)
}

/// Whether the user of a certificate was deleted after it was issued.
pub(super) async fn is_void(auth: &Inner, identity: &UserIdentity, now: Timestamp) -> ApiResult<bool> {
    let void_until = of(auth, &identity.user).await?.and_then(|stored| stored.record.void_until(now));
    Ok(void_until.is_some_and(|until| identity.is_issued_until(until)))
}

/// The roles that were taken from the user.
pub(super) async fn taken_roles(auth: &Inner, user: &UserName) -> ApiResult<BTreeSet<RoleName>> {
    Ok(of(auth, user).await?.map(|stored| stored.record.roles).unwrap_or_default())
}

/// All of it, for views.
#[derive(Debug, Default)]
pub(super) struct All {
    pub(super) deleted: BTreeMap<UserName, Timestamp>,
    pub(super) taken: BTreeMap<UserName, BTreeSet<RoleName>>,
    /// When the next user expires whose certificates may outlast that.
    pub(super) changes: Option<Timestamp>,
}

pub(super) async fn all(auth: &Inner, now: Timestamp) -> ApiResult<All> {
    let mut all = All::default();
    for Stored { record, .. } in auth.withdrawn.list().await? {
        let next = record.ends.filter(|ends| now < *ends);
        all.changes = all.changes.into_iter().chain(next).min();
        all.deleted.extend(record.void_until(now).map(|until| (record.user.clone(), until)));
        if !record.roles.is_empty() {
            all.taken.insert(record.user, record.roles);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use super::*;
    use crate::resource::UserSpec;

    const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn with(roles: &[&str], expires: Option<Timestamp>) -> User {
        let roles = roles.iter().map(|role| role.parse().unwrap()).collect();
        let mut user = User::new("alice", UserSpec { roles, ..UserSpec::default() });
        user.metadata.expires = expires;
        user
    }

    fn next(
        previous: Option<&Withdrawn>,
        before: Option<&User>,
        after: Option<&User>,
        now: Timestamp,
    ) -> Option<Withdrawn> {
        Withdrawn::next(previous, &"alice".parse().unwrap(), before, after, now)
    }

    fn roles(of: &Withdrawn) -> Vec<&str> {
        of.roles.iter().map(RoleName::as_str).collect()
    }

    #[test]
    fn c8_what_is_taken_is_withdrawn_until_it_is_given_back() {
        let (both, one, other) = (with(&["a", "b"], None), with(&["a"], None), with(&["c"], None));
        assert_eq!(next(None, None, Some(&both), NOW), None, "who is new");
        assert_eq!(next(None, Some(&one), Some(&both), NOW), None, "what is given");
        let taken = next(None, Some(&both), Some(&one), NOW).unwrap();
        assert_eq!((roles(&taken), taken.void_until, taken.ends), (vec!["b"], None, None));
        // A connection may outlast the certificate that it began with.
        assert_eq!(taken.expires, None);
        // What has nothing to do with it changes nothing.
        let later = NOW.saturating_add(HOUR);
        assert_eq!(next(Some(&taken), Some(&one), Some(&one), later).as_ref(), Some(&taken));
        let more = next(Some(&taken), Some(&one), Some(&other), later).unwrap();
        assert_eq!(roles(&more), ["a", "b"]);
        let back = next(Some(&more), Some(&other), Some(&one), later).unwrap();
        assert_eq!(roles(&back), ["b", "c"]);
        assert_eq!(next(Some(&taken), Some(&one), Some(&both), later), None, "all was given back");
    }

    #[test]
    fn c8_whoever_is_new_has_nothing_of_a_former_user() {
        let user = with(&["a"], None);
        let deleted = next(None, Some(&user), None, NOW).unwrap();
        assert_eq!((roles(&deleted), deleted.void_until), (vec![], Some(NOW)));
        assert!(deleted.expires.is_some_and(|at| NOW.saturating_add(MAX_USER_TTL) < at));
        let (both, one) = (with(&["a", "b"], None), with(&["a"], None));
        let taken = next(None, Some(&both), Some(&one), NOW).unwrap();
        assert!(
            next(Some(&taken), Some(&one), None, NOW).unwrap().expires.is_some(),
            "who is gone is forgotten"
        );
        let later = NOW.saturating_add(HOUR);
        assert_eq!(next(Some(&deleted), None, Some(&user), later).as_ref(), Some(&deleted));
        assert_eq!(next(Some(&deleted), Some(&user), None, later).unwrap().void_until, Some(later));
    }

    #[test]
    fn c8_who_expires_earlier_takes_the_certificates_along() {
        let (ever, ends) = (with(&["a"], None), NOW.saturating_add(HOUR));
        let short = with(&["a"], Some(ends));
        let marked = next(None, Some(&ever), Some(&short), NOW).unwrap();
        let before = ends.saturating_sub(Duration::from_secs(1));
        assert_eq!((marked.void_until(before), marked.void_until(ends)), (None, Some(ends)));
        assert_eq!(next(Some(&marked), Some(&short), Some(&ever), NOW), None, "it does not expire after all");
        let new = next(Some(&marked), None, Some(&ever), ends.saturating_add(HOUR)).unwrap();
        assert_eq!((new.void_until, new.ends), (Some(ends), None), "a new user of the same name");
        // Who expires later than every certificate, or is new, needs no mark.
        assert_eq!(
            next(None, Some(&ever), Some(&with(&["a"], Some(NOW.saturating_add(MAX_USER_TTL * 2)))), NOW),
            None
        );
        assert_eq!(next(None, None, Some(&short), NOW), None);
    }
}
