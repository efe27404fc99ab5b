//! Proxies stand in for registered SSH servers: they show their users the server's names, decide as a node decides, and log in to the
//! server in the user's name.
//!
//! A proxy is believed in what it says of such servers, as a node is in what it says of itself, and in nothing that it says of other
//! nodes. Who may log in it does not decide alone: for each login the user's own certificate is looked at here once more.

use std::time::Duration;

use super::context::OpContext;
use super::policy::Permit;
use super::{Inner, names, trust};
use crate::access::{Freshness, LoginGrant};
use crate::api::{ApiError, ApiResult, OpenSshLogin, StandIn};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::{
    CertRejected, HostGrant, HostIdentity, IssuedSshCertificate, MAX_OPENSSH_LOGIN_TTL, OpenSshGrant,
    Permits, UserCheck, verify_user,
};
use crate::id::{HostId, HostRole, NodeName};
use crate::resource::{NodeKind, NodeRecord};

/// How long a proxy may show the names of a server before it asks again.
const STAND_IN_TTL: Duration = Duration::from_secs(3600);

/// Whether a host is believed in what it says of a node: it is the node, or a proxy and the node a registered SSH server. That a server
/// was removed does not matter: what happened before is still to be told.
/// Returns the node's name.
pub(super) async fn speaks_for(
    call: &OpContext<'_>,
    host: &HostIdentity,
    node: HostId,
) -> ApiResult<Option<NodeName>> {
    if host.host_id == node {
        return Ok(Some(host.name.clone()));
    }
    if host.role != HostRole::Proxy {
        return Ok(None);
    }
    registered(call.auth, node).await
}

/// The name of a registered SSH server, also of one that was removed. It is one for as long as its certificates last, and for as
/// long as it is listed, which is longer.
pub(super) async fn registered(auth: &Inner, node: HostId) -> ApiResult<Option<NodeName>> {
    let id = node.to_string();
    let (kind, name) = match auth.hosts.get(&id).await?.map(|stored| stored.record) {
        Some(member) => (member.sub_kind, member.name),
        None => match auth.nodes.get(&id).await?.map(|stored| stored.record) {
            Some(listed) => (listed.sub_kind, listed.name),
            None => return Ok(None),
        },
    };
    Ok((kind == NodeKind::OpenSsh).then_some(name))
}

/// The registered server that a proxy wants to stand in for.
async fn server(call: &OpContext<'_>, permit: Permit<'_>, node: HostId) -> ApiResult<NodeRecord> {
    let proxy = permit.host().ok_or_else(ApiError::denied)?;
    let registered = call.auth.nodes.get(&node.to_string()).await?.map(|stored| stored.record);
    match registered {
        None => Err(ApiError::not_found(format_args!("SSH server {node}"))),
        Some(record)
            if record.sub_kind == NodeKind::OpenSsh
                && speaks_for(call, proxy, record.host_id).await?.is_some() =>
        {
            Ok(record)
        }
        _ => Err(call.deny(permit.operation(), format!("{node} is no registered SSH server")).await),
    }
}

pub(super) async fn stand_in(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: StandIn,
) -> ApiResult<IssuedSshCertificate> {
    let node = server(call, permit, request.node).await?;
    let cluster = call.auth.config.cluster.clone();
    let ttl = STAND_IN_TTL.min(call.auth.config.host_ttl);
    let (name, address) = names::of_server_alone(call, &node).await?;
    // Its id is its own in any case.
    let name = match name {
        Some(name) => name,
        None => NodeName::new(&node.host_id.to_string()).map_err(ApiError::internal)?,
    };
    let mut grant = HostGrant::new(node.host_id, name, cluster, HostRole::Node, ttl);
    grant.addresses = address.into_iter().collect();
    let certificate = call.auth.ports.issuer.issue_stand_in(grant, &request.key).await?;
    let event = AuditEvent::new(EventKind::CertCreate)
        .field("cert_type", "stand_in")
        .field("host_id", node.host_id.to_string())
        .field("node_name", node.name.as_str());
    call.audit(vec![told(call, event, &certificate)]).await?;
    Ok(certificate)
}

/// Why nobody is logged in to a server. For the audit event.
#[derive(Debug, thiserror::Error)]
enum NoLogin {
    #[error(transparent)]
    Access(#[from] crate::access::Unwelcome),
    #[error(transparent)]
    Certificate(#[from] CertRejected),
}

pub(super) async fn openssh_login(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: OpenSshLogin,
) -> ApiResult<IssuedSshCertificate> {
    let node = server(call, permit, request.node).await?;
    let grant = match check(call, &request, &node).await? {
        Ok(grant) => grant,
        Err(why) => {
            let reason = format!("{} on {}: {why}", request.login, node.host_id);
            return Err(call.deny(permit.operation(), reason).await.because(why));
        }
    };
    let identity = &grant.identity;
    let permits = Permits {
        pty: identity.permits.pty,
        port_forwarding: grant.local_forwarding().is_ok(),
        ..Permits::default()
    };
    let left = identity.expires.saturating_since(call.now);
    let ttl = MAX_OPENSSH_LOGIN_TTL.min(left);
    let issue = OpenSshGrant::new(identity.user.clone(), grant.login.clone(), permits, ttl);
    let certificate = call.auth.ports.issuer.issue_openssh_login(issue, &request.key).await?;
    let event = AuditEvent::new(EventKind::CertCreate)
        .user(&identity.user)
        .login(&grant.login)
        .field("cert_type", "openssh")
        .field("host_id", node.host_id.to_string())
        .field("node_name", node.name.as_str())
        .field("user_serial", identity.serial);
    call.audit(vec![told(call, event, &certificate)]).await?;
    Ok(certificate)
}

fn told(call: &OpContext<'_>, event: AuditEvent, certificate: &IssuedSshCertificate) -> AuditEvent {
    event
        .remote(call.caller.remote())
        .field("issued_by", call.caller.to_string())
        .field("serial", certificate.serial)
        .field("valid_before", certificate.valid_before.to_string())
}

/// Decides as a node would: the certificate, locks, roles.
async fn check(
    call: &OpContext<'_>,
    request: &OpenSshLogin,
    node: &NodeRecord,
) -> ApiResult<Result<LoginGrant, NoLogin>> {
    let view = trust::current(call.auth).await?;
    let decide = || {
        let fields = call.auth.ports.issuer.read(&request.certificate)?;
        let check = UserCheck {
            login: Some(&request.login),
            peer: call.caller.client_ip(request.client_ip),
            now: call.now,
        };
        let identity = verify_user(&fields, &view.trust, check)?;
        let fresh = Freshness { now: call.now, age: Duration::ZERO };
        Ok(view.admit_login(&identity, node, &request.login, fresh)?)
    };
    Ok(decide())
}
