//! Hosts become members, and stay members.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::context::{OpContext, contended};
use super::eviction;
use super::login::chain;
use super::policy::Permit;
use super::{locks, names};
use crate::api::{ApiError, ApiResult, HostCredentials, JoinRequest, RenewRequest};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::{HostGrant, IssuedCertificates, SubjectKeys};
use crate::clock::Timestamp;
use crate::id::{HostId, HostRole, NodeName};
use crate::label::Labels;
use crate::resource::NodeKind;
use crate::storage::{Action, Batch, Condition, Record, Stored};
use crate::token::{
    Admission, ForJoin, JoinClaim, JoinDenied, MAX_ADDRESSES, TokenHash, TokenRecord, admit, is_address,
};

/// How often a join is tried again when other hosts use the same token at the same moment.
const ATTEMPTS: usize = 128;

/// How much longer than its newest certificate a host is remembered. The authority reads its clock later than the decision
/// does, and verifiers have clocks of their own: a certificate that anybody still accepts must have a record, which says whose
/// the id is and which labels the host must carry.
const MEMORY: Duration = Duration::from_secs(600);

/// So many joins without a good token are written down in full, a minute. Whoever tries more is counted: the audit log is not to be
/// filled by somebody who has nothing.
const TOLD_A_MINUTE: u32 = 30;

/// Which joins without a good token the audit log was told of.
#[derive(Debug, Default)]
pub(super) struct Guesses(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    began: Timestamp,
    told: u32,
    more: u64,
}

impl Guesses {
    /// Whether one more is to be written down: how many were not, since the last one that was; `None` if this is such a one.
    fn tell(&self, now: Timestamp) -> Option<u64> {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back begins a minute as well.
        if now < minute.began || now >= minute.began.saturating_add(Duration::from_secs(60)) {
            (minute.began, minute.told) = (now, 0);
        }
        if minute.told >= TOLD_A_MINUTE {
            minute.more = minute.more.saturating_add(1);
            return None;
        }
        minute.told = minute.told.saturating_add(1);
        Some(std::mem::take(&mut minute.more))
    }
}

/// A member of the cluster: to whom a host id belongs. Kept until shortly after the newest certificate of the host has ended;
/// until then nobody else can join by this id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HostRecord {
    /// The host.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// The service that it may speak for.
    pub role: HostRole,
    /// Its keys. Only the host has the private halves; they are what it is recognised by.
    pub keys: SubjectKeys,
    /// Labels from the token that it joined by. Its announcements cannot change them.
    pub labels: Labels,
    /// What serves SSH there, as it announced it last.
    #[serde(default)]
    pub sub_kind: NodeKind,
    /// The token that it joined by: it may ask again by that, if the answer was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_by: Option<TokenHash<ForJoin>>,
    /// When it is forgotten: shortly after its newest certificate has ended.
    pub expires: Timestamp,
}

impl Record for HostRecord {
    const COLLECTION: &'static str = "hosts";

    fn key(&self) -> String {
        self.host_id.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires)
    }
}

#[tracing::instrument(skip_all, fields(host_id = %request.host_id, role = %request.role))]
pub(super) async fn join(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    request: JoinRequest,
) -> ApiResult<HostCredentials> {
    let event = |kind| {
        AuditEvent::new(kind)
            .user(format!("{}.{}", request.host_id, call.auth.config.cluster))
            .remote(call.client(request.client_ip))
            .field("host_id", request.host_id.to_string())
            .field("node_name", request.name.as_str())
            .field("role", request.role.as_str())
    };
    let (token_id, taken) = take_use(call, &request).await?;
    let event = |kind| match &token_id {
        Some(id) => event(kind).field("token_id", id.as_str()),
        // Nothing of what was presented: it may be a secret of something else, and by its hash it could be guessed.
        None => event(kind),
    };
    match taken {
        Err(denied) => {
            tracing::info!(host_id = %request.host_id, name = %request.name, role = %request.role, reason = %denied, "a host may not join");
            let failure = event(EventKind::InstanceJoinFailure).error(&denied);
            // Who has a token is always written down.
            let told = if token_id.is_some() { Some(0) } else { call.auth.join_guesses.tell(call.now) };
            match told {
                Some(0) => call.audit(vec![failure]).await?,
                Some(more) => call.audit(vec![failure.field("more_before", more)]).await?,
                None => {}
            }
            // Whoever has a good token may know what becomes of its own id, and must do something else about it.
            let answer = match &denied {
                JoinDenied::Evicted => ApiError::evicted(),
                JoinDenied::Locked { locked } => ApiError::locked(locked),
                _ => ApiError::denied(),
            };
            Err(answer.because(denied))
        }
        Ok(admission) => {
            let grant = admission.into_grant(call.auth.config.host_ttl);
            let certificates = match call.auth.ports.issuer.issue_host(grant, &request.keys).await {
                Ok(certificates) => certificates,
                Err(error) => {
                    let error = ApiError::from(error);
                    call.audit(vec![event(EventKind::InstanceJoinFailure).error(chain(&error))]).await?;
                    return Err(error);
                }
            };
            let joined = event(EventKind::InstanceJoin);
            let issued = certificate_event(call, request.host_id, &request.name, request.role, &certificates);
            call.audit(vec![joined, issued]).await?;
            Ok(HostCredentials { certificates, trust: call.trust().await? })
        }
    }
}

/// Decides, and spends a use of the token and binds the host id in one write, before anything is signed. Returns the id of the
/// token, too, if there is such a token.
async fn take_use(
    call: &OpContext<'_>,
    request: &JoinRequest,
) -> ApiResult<(Option<String>, Result<Admission, JoinDenied>)> {
    let hash = TokenHash::<ForJoin>::of(&request.token);
    let claim = JoinClaim {
        host_id: request.host_id,
        name: &request.name,
        role: request.role,
        addresses: &request.addresses,
        cluster: &call.auth.config.cluster,
        again: false,
    };
    for _ in 0..ATTEMPTS {
        let Some((token, stored)) = find(call, hash).await? else {
            return Ok((None, Err(JoinDenied::Unknown)));
        };
        let named = |outcome| (Some(token.id.clone()), outcome);
        let known = call.auth.hosts.get(&request.host_id.to_string()).await?;
        // Another service may have died before it answered. The keys say that it is the same host, and the write below that this is
        // still so.
        let again = known.as_ref().is_some_and(|known| {
            is_same_host(&known.record, request) && known.record.joined_by == Some(hash)
        });
        let admission = match admit(&token, &JoinClaim { again, ..claim }, call.now) {
            Ok(admission) => admission,
            Err(denied) => return Ok(named(Err(denied))),
        };
        if eviction::is_evicted(call.auth, request.host_id).await? {
            return Ok(named(Err(JoinDenied::Evicted)));
        }
        if let Err(locked) = locks::check_host(call, request.host_id, &request.name).await? {
            return Ok(named(Err(JoinDenied::Locked { locked })));
        }
        let names = claim.addresses.iter().map(String::as_str).chain([claim.name.as_str()]);
        let client = call.caller.client_ip(request.client_ip);
        if let Some(name) = names::taken(call, claim.role, client, names).await? {
            return Ok(named(Err(JoinDenied::Taken { name: name.to_owned() })));
        }
        if known.as_ref().is_some_and(|known| !is_same_host(&known.record, request)) {
            return Ok(named(Err(JoinDenied::Bound)));
        }
        let host = HostRecord {
            host_id: request.host_id,
            name: request.name.clone(),
            role: request.role,
            keys: request.keys.clone(),
            labels: admission.labels.clone(),
            sub_kind: known.as_ref().map(|known| known.record.sub_kind).unwrap_or_default(),
            joined_by: Some(hash),
            expires: bound_until(call),
        };
        let batch = eviction::unless_evicted(call.auth, Batch::new(), host.host_id)?;
        let mut batch = call.auth.hosts.write_in(batch, &host, unchanged(known.as_ref()))?;
        if let Some(stored) = stored {
            batch = match &admission.token_after {
                Some(after) => call.auth.tokens.write_in(batch, after, Condition::Is(stored.revision))?,
                None => {
                    let key = call.auth.tokens.key(&token.key())?;
                    batch.with(key, Condition::Is(stored.revision), Action::Keep)
                }
            };
        }
        match call.auth.ports.backend.commit(batch).await {
            Ok(_) => return Ok(named(Ok(admission))),
            // Another host was faster: what is true of the token and the id is to be asked again.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(contended())
}

async fn find(
    call: &OpContext<'_>,
    hash: TokenHash<ForJoin>,
) -> ApiResult<Option<(TokenRecord, Option<Stored<TokenRecord>>)>> {
    let configured = call.auth.config.static_tokens.iter().find(|token| token.record().hash == hash);
    if let Some(token) = configured {
        return Ok(Some((token.record().clone(), None)));
    }
    let stored = call.auth.tokens.get(&hash.to_hex()).await?;
    Ok(stored.map(|stored| (stored.record.clone(), Some(stored))))
}

/// Public keys are no secret: only if **both** are the ones that the id is bound to, what is issued is of no use to
/// anybody but the host itself. Another role would be another host.
fn is_same_host(known: &HostRecord, request: &JoinRequest) -> bool {
    known.keys == request.keys && known.role == request.role
}

/// Until when a host must be remembered to which certificates are issued now.
pub(super) fn bound_until(call: &OpContext<'_>) -> Timestamp {
    call.now.saturating_add(call.auth.config.host_ttl).saturating_add(MEMORY)
}

fn unchanged(known: Option<&Stored<HostRecord>>) -> Condition {
    known.map_or(Condition::Absent, |known| Condition::Is(known.revision))
}

fn certificate_event(
    call: &OpContext<'_>,
    host_id: HostId,
    name: &NodeName,
    role: HostRole,
    certificates: &IssuedCertificates,
) -> AuditEvent {
    AuditEvent::new(EventKind::CertCreate)
        .user(format!("{host_id}.{}", call.auth.config.cluster))
        .remote(call.caller.remote())
        .field("cert_type", "host")
        .field("host_id", host_id.to_string())
        .field("node_name", name.as_str())
        .field("role", role.as_str())
        .field("serial", certificates.serial)
        .field("valid_before", certificates.valid_before.to_string())
}

pub(super) async fn renew(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: RenewRequest,
) -> ApiResult<HostCredentials> {
    let caller = permit.host().ok_or_else(ApiError::denied)?;
    let cluster = &call.auth.config.cluster;
    if request.addresses.len() > MAX_ADDRESSES
        || !request.addresses.iter().all(|address| is_address(address, caller.host_id, cluster))
    {
        return Err(ApiError::invalid("one of the addresses cannot be a name or address of the host"));
    }
    // Not the name, which it had before: a proxy that comes later must not end the life of an older host.
    let addresses = request.addresses.iter().map(String::as_str);
    if let Some(name) = names::taken(call, caller.role, call.caller.client_ip(None), addresses).await? {
        return Err(names::refuse(call, permit, name).await);
    }
    let mut bound = false;
    for _ in 0..ATTEMPTS {
        // Again, because it may have happened since the call was permitted.
        if eviction::is_evicted(call.auth, caller.host_id).await? {
            return Err(call.deny_evicted(permit.operation()).await);
        }
        let known = call.auth.hosts.get(&caller.host_id.to_string()).await?;
        if known.as_ref().is_some_and(|known| known.record.role != caller.role) {
            return Err(call.deny(permit.operation(), JoinDenied::Bound.to_string()).await);
        }
        // The caller has proved that it holds a valid certificate of this id: it may change its keys.
        let host = HostRecord {
            host_id: caller.host_id,
            name: caller.name.clone(),
            role: caller.role,
            keys: request.keys.clone(),
            labels: known.as_ref().map(|known| known.record.labels.clone()).unwrap_or_default(),
            sub_kind: known.as_ref().map(|known| known.record.sub_kind).unwrap_or_default(),
            joined_by: known.as_ref().and_then(|known| known.record.joined_by),
            expires: bound_until(call),
        };
        let batch = eviction::unless_evicted(call.auth, Batch::new(), host.host_id)?;
        let batch = call.auth.hosts.write_in(batch, &host, unchanged(known.as_ref()))?;
        match call.auth.ports.backend.commit(batch).await {
            Ok(_) => {
                bound = true;
                break;
            }
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !bound {
        return Err(contended());
    }
    let mut grant = HostGrant::new(
        caller.host_id,
        caller.name.clone(),
        cluster.clone(),
        caller.role,
        call.auth.config.host_ttl,
    );
    grant.addresses = request.addresses;
    let certificates = call.auth.ports.issuer.issue_host(grant, &request.keys).await?;
    let event = certificate_event(call, caller.host_id, &caller.name, caller.role, &certificates);
    call.audit(vec![event]).await?;
    Ok(HostCredentials { certificates, trust: call.trust().await? })
}
