//! Users exchange their certificates for others: for other keys, or a shorter time. Never for more.

use std::time::Duration;

use super::context::OpContext;
use super::login::{issue, left};
use super::policy::Permit;
use crate::access::{AccessChecker, Denied, RoleSet, Subject};
use crate::api::{ApiError, ApiErrorKind, ApiResult, LoginResponse, ReissueRequest};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::{MIN_USER_TTL, Permits, Traits, UserGrant, UserIdentity};
use crate::clock::Timestamp;
use crate::resource::UserSpec;

/// Why nothing can be derived from a certificate. For the audit event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotDerivable {
    #[error("the user does not exist any more")]
    Deleted,
    #[error("the certificate ends too soon")]
    EndsSoon,
    /// A denial of the old role would be lost, and that of the new one not be known.
    #[error("roles were exchanged for others since")]
    Exchanged,
    #[error("the certificate is bound to a command, which cannot be carried over")]
    ForceCommand,
    #[error(transparent)]
    Roles(#[from] Denied),
    #[error("roles bind certificates to the address of the login, which the certificate does not say")]
    Unpinned,
}

/// What may be derived from `identity` now. Pure. In each respect at most what the identity has **and** at most what the
/// user would get by logging in now; every constraint stays.
pub(super) fn attenuate(
    identity: &UserIdentity,
    user: &UserSpec,
    existing: &RoleSet,
    asked: Option<Duration>,
    now: Timestamp,
) -> Result<UserGrant, NotDerivable> {
    if identity.force_command.is_some() {
        return Err(NotDerivable::ForceCommand);
    }
    // Whole seconds: certificates know no others, and rounding must not add one.
    let left = Duration::from_secs(identity.expires.saturating_since(now).as_secs());
    if left < MIN_USER_TTL {
        return Err(NotDerivable::EndsSoon);
    }
    let roles: Vec<_> = identity.roles.iter().filter(|role| user.roles.contains(role)).cloned().collect();
    let has_new = user.roles.iter().any(|role| !identity.roles.contains(role));
    if has_new && roles.len() < identity.roles.len() {
        return Err(NotDerivable::Exchanged);
    }
    // Current traits, and all current roles beside the remaining ones: a denial that came later, by whichever of them,
    // must not be lost because the certificate does not know of it.
    let subject = Subject {
        name: identity.user.as_str(),
        roles: &roles,
        taken: Subject::NONE_TAKEN,
        traits: &user.traits,
    };
    let access = AccessChecker::new(subject, existing);
    let today = AccessChecker::new(Subject { roles: &user.roles, ..subject }, existing);
    today.readable()?;
    let now_allowed = today.logins();
    let by_roles = access.max_session_ttl().unwrap_or(left).max(MIN_USER_TTL);
    let now_permitted = access.permits();
    let mut grant = UserGrant::new(
        identity.user.clone(),
        asked.unwrap_or(left).max(MIN_USER_TTL).min(left).min(by_roles),
    );
    grant.logins = access.logins();
    grant.logins.retain(|login| identity.logins.contains(login) && now_allowed.contains(login));
    grant.permits = Permits {
        agent_forwarding: identity.permits.agent_forwarding && now_permitted.agent_forwarding,
        port_forwarding: identity.permits.port_forwarding && now_permitted.port_forwarding,
        pty: identity.permits.pty && now_permitted.pty,
        x11_forwarding: identity.permits.x11_forwarding && now_permitted.x11_forwarding,
    };
    grant.login_ip = identity.login_ip;
    grant.mfa_device = identity.mfa_device;
    grant.source_addresses.clone_from(&identity.source_addresses);
    if grant.source_addresses.is_empty() && today.pin_source_ip() {
        // A role binds certificates since this one was issued.
        grant.source_addresses = vec![identity.login_ip.ok_or(NotDerivable::Unpinned)?.to_string()];
    }
    grant.extensions = today.cert_extensions();
    grant.extensions.retain(|extension| identity.extensions.contains(extension));
    grant.roles = roles;
    grant.traits = common(&identity.traits, &user.traits);
    Ok(grant)
}

/// What both have.
fn common(some: &Traits, others: &Traits) -> Traits {
    some.iter()
        .filter_map(|(name, values)| {
            let others = others.get(name)?;
            Some((name.clone(), values.iter().filter(|value| others.contains(value)).cloned().collect()))
        })
        .collect()
}

pub(super) async fn reissue(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: ReissueRequest,
) -> ApiResult<LoginResponse> {
    let identity = permit.user().ok_or_else(ApiError::denied)?;
    let Some(user) = call.auth.users.get(identity.user.as_str()).await? else {
        return Err(call.deny(permit.operation(), NotDerivable::Deleted.to_string()).await);
    };
    let roles = call.roles().await?;
    let asked = request.ttl.map(Duration::from_secs);
    let derived = match left(&user.record, call.now) {
        Some(left) if left < MIN_USER_TTL => Err(NotDerivable::EndsSoon),
        left => {
            let asked = asked.into_iter().chain(left).min();
            attenuate(identity, &user.record.spec, &roles, asked, call.now)
        }
    };
    let grant = match derived {
        Ok(grant) => grant,
        Err(reason @ NotDerivable::EndsSoon) => {
            let text = "the certificate ends within a minute; log in again";
            let denied = call.deny(permit.operation(), reason.to_string()).await;
            return Err(ApiError::new(ApiErrorKind::Denied, text).because(denied));
        }
        Err(reason @ NotDerivable::Exchanged) => {
            let text = "your roles were changed since the certificate was issued; log in again";
            let denied = call.deny(permit.operation(), reason.to_string()).await;
            return Err(ApiError::new(ApiErrorKind::Denied, text).because(denied));
        }
        Err(reason) => return Err(call.deny(permit.operation(), reason.to_string()).await),
    };
    let event = AuditEvent::new(EventKind::CertCreate).user(&identity.user).remote(call.caller.remote());
    let (response, issued) = issue(call, grant, &request.keys, event).await?;
    // The authority has a clock of its own.
    if response.certificates.valid_before > identity.expires {
        return Err(ApiError::internal("the authority issued for longer than it was granted"));
    }
    call.audit(vec![issued.field("derived_from", identity.serial)]).await?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;
    use crate::id::{ClusterName, DeviceId, OsLogin, RoleName, UserName};
    use crate::resource::{CertExtension, Role, RoleConditions, RoleOptions, RoleSpec};

    const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::sample::subsequence(NAMES.to_vec(), 0..=NAMES.len())
            .prop_map(|names| names.into_iter().map(str::to_owned).collect())
    }

    fn roles(names: &[String]) -> Vec<RoleName> {
        names.iter().map(|name| RoleName::new(name).unwrap()).collect()
    }

    prop_compose! {
        fn permitted()(agent in any::<bool>(), port in any::<bool>(), pty in any::<bool>(), x11 in any::<bool>()) -> Permits {
            Permits { agent_forwarding: agent, port_forwarding: port, pty, x11_forwarding: x11 }
        }
    }

    prop_compose! {
        fn parent()(
            role_names in names(),
            logins in names(),
            trait_logins in names(),
            permits in permitted(),
            left in 0_u64..200_000_000,
            bound in any::<bool>(),
            from in any::<Option<[u8; 4]>>(),
            device in any::<Option<[u8; 16]>>(),
            extensions in names(),
        ) -> UserIdentity {
            UserIdentity {
                user: UserName::new("alice").unwrap(),
                cluster: ClusterName::new("example.com").unwrap(),
                roles: roles(&role_names),
                logins: logins.iter().map(|login| OsLogin::new(login).unwrap()).collect(),
                traits: Traits::from([("logins".to_owned(), trait_logins)]),
                permits,
                force_command: None,
                source_addresses: if bound { vec!["192.0.2.0/24".to_owned()] } else { Vec::new() },
                extensions: extensions.into_iter().map(|name| (format!("{name}@example.com"), name)).collect(),
                login_ip: from.map(Into::into),
                mfa_device: device.map(|bytes| DeviceId::from_uuid(uuid::Uuid::from_bytes(bytes))),
                serial: 7,
                valid_after: NOW,
                expires: Timestamp::from_unix_millis(NOW.unix_millis() + left),
            }
        }
    }

    prop_compose! {
        fn existing()(
            logins in proptest::collection::vec(names(), NAMES.len()),
            template in any::<bool>(),
            ttl in 0_u64..200_000,
            forward_agent in any::<bool>(),
            port_forwarding in any::<bool>(),
            pin in any::<Option<bool>>(),
            there in proptest::collection::vec((any::<bool>(), any::<bool>()), NAMES.len()),
        ) -> RoleSet {
            let conditions = |logins| RoleConditions { logins, ..RoleConditions::default() };
            NAMES.iter().zip(logins).zip(there).filter(|(_, (there, _))| *there).map(|((name, mut logins), (_, denies))| {
                if template {
                    logins.push("{{internal.logins}}".to_owned());
                }
                let deny = if denies { vec!["{{internal.denied}}".to_owned()] } else { Vec::new() };
                let max_session_ttl = Duration::from_secs(ttl);
                let options = RoleOptions {
                    max_session_ttl,
                    forward_agent,
                    port_forwarding,
                    pin_source_ip: pin == Some(true),
                    cert_extensions: vec![CertExtension::new(format!("{name}@example.com"), *name)],
                    ..RoleOptions::default()
                };
                Role::new(*name, RoleSpec { allow: conditions(logins), deny: conditions(deny), options })
            }).collect()
        }
    }

    proptest! {
        /// Security row A9: whatever is derived is never wider than what it is derived from, and never wider than the user
        /// is now.
        #[test]
        fn a9_a_derived_certificate_is_never_wider(
            parent in parent(),
            existing in existing(),
            user_roles in names(),
            user_logins in names(),
            denied in names(),
            asked in proptest::option::of(0_u64..1_000_000),
        ) {
            let user = UserSpec {
                roles: roles(&user_roles),
                traits: Traits::from([("logins".to_owned(), user_logins), ("denied".to_owned(), denied)]),
            };
            let asked = asked.map(Duration::from_secs);
            let left = parent.expires.saturating_since(NOW);
            match attenuate(&parent, &user, &existing, asked, NOW) {
                Err(NotDerivable::Unpinned) => {
                    prop_assert!(parent.login_ip.is_none() && parent.source_addresses.is_empty());
                }
                Err(NotDerivable::Exchanged) => {
                    prop_assert!(parent.roles.iter().any(|role| !user.roles.contains(role)));
                    prop_assert!(user.roles.iter().any(|role| !parent.roles.contains(role)));
                }
                Err(reason) => prop_assert!(reason == NotDerivable::EndsSoon && left < MIN_USER_TTL),
                Ok(grant) => {
                    prop_assert_eq!(&grant.user, &parent.user);
                    prop_assert!(grant.ttl <= left && grant.ttl >= MIN_USER_TTL);
                    prop_assert!(NOW.saturating_add(grant.ttl) <= parent.expires);
                    prop_assert!(grant.roles.iter().all(|role| parent.roles.contains(role) && user.roles.contains(role)));
                    let lost = parent.roles.iter().any(|role| !user.roles.contains(role));
                    prop_assert!(!lost || user.roles.iter().all(|role| parent.roles.contains(role)), "exchanged");
                    prop_assert!(grant.logins.iter().all(|login| parent.logins.contains(login)));
                    let subject = Subject::new("alice", &user.roles, &user.traits);
                    let fresh = AccessChecker::new(subject, &existing);
                    prop_assert!(grant.logins.iter().all(|login| fresh.logins().contains(login)));
                    for (name, values) in &grant.traits {
                        let has = |traits: &Traits, value| traits.get(name).is_some_and(|values| values.contains(value));
                        prop_assert!(values.iter().all(|value| has(&parent.traits, value) && has(&user.traits, value)));
                    }
                    prop_assert!(parent.permits.agent_forwarding || !grant.permits.agent_forwarding);
                    prop_assert!(parent.permits.port_forwarding || !grant.permits.port_forwarding);
                    prop_assert!(parent.permits.pty || !grant.permits.pty);
                    prop_assert!(parent.permits.x11_forwarding || !grant.permits.x11_forwarding);
                    // A pin stays as it is; a role may add one, and nothing takes one away.
                    match parent.login_ip.filter(|_| parent.source_addresses.is_empty() && fresh.pin_source_ip()) {
                        Some(address) => prop_assert_eq!(&grant.source_addresses, &[address.to_string()]),
                        None => prop_assert_eq!(&grant.source_addresses, &parent.source_addresses),
                    }
                    let today = fresh.cert_extensions();
                    let both = |extension| parent.extensions.contains(extension) && today.contains(extension);
                    prop_assert!(grant.extensions.iter().all(both));
                    prop_assert_eq!(grant.login_ip, parent.login_ip);
                    prop_assert_eq!(grant.mfa_device, parent.mfa_device);
                    if let Some(asked) = asked {
                        prop_assert!(grant.ttl <= asked.max(MIN_USER_TTL));
                    }
                }
            }
        }
    }

    #[test]
    fn a9_a_bound_command_is_not_lost() {
        let mut identity = crate::testing::user_identity("alice", "example.com", &[], &[], Timestamp::MAX);
        identity.force_command = Some("uptime".to_owned());
        let derived = attenuate(&identity, &UserSpec::default(), &RoleSet::default(), None, NOW);
        assert_eq!(derived, Err(NotDerivable::ForceCommand));
    }
}
