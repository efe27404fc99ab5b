//! Certificates that administrators have made for others: for users who are programs, and for SSH servers that are no members.

use std::net::IpAddr;
use std::time::Duration;

use super::context::OpContext;
use super::login::{chain, grant, issue};
use super::names;
use super::policy::Permit;
use crate::api::{ApiError, ApiErrorKind, ApiResult, LoginResponse, SignHost, SignUser, SignedHost};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::{CLOCK_SKEW, MAX_HOST_TTL, MAX_PRINCIPALS, MIN_USER_TTL, SshServerGrant};
use crate::id::{HostId, NodeName};

pub(super) async fn sign_user(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    request: SignUser,
) -> ApiResult<LoginResponse> {
    let SignUser { user: name, keys, ttl } = request;
    let Some(user) = call.auth.users.get(name.as_str()).await? else {
        return Err(ApiError::not_found(format_args!("user {name}")));
    };
    // As a login, from nowhere: a program may be anywhere.
    let grant = grant(call, name.clone(), &user.record, ttl.map(Duration::from_secs), None).await;
    // It is the user who is refused, not the one who asks; and who may ask this may know why.
    let grant = grant.map_err(|error| match error.kind() {
        ApiErrorKind::Denied => {
            ApiError::invalid(format!("user {name} gets no certificates now: {}", chain(&error)))
        }
        _ => error,
    })?;
    let event = AuditEvent::new(EventKind::CertCreate)
        .user(&name)
        .remote(call.caller.remote())
        .field("issued_by", call.caller.to_string());
    let (response, issued) = issue(call, grant, &keys, event).await?;
    call.audit(vec![issued]).await?;
    Ok(response)
}

pub(super) async fn sign_host(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: SignHost,
) -> ApiResult<SignedHost> {
    let SignHost { names, key, ttl } = request;
    let ttl = ttl.map_or(MAX_HOST_TTL, Duration::from_secs);
    let grant = check_names(call, permit, names, ttl).await?;
    let names = grant.names.clone();
    // Before there is a certificate: else a crash would leave one that nobody knows of.
    let life = grant.ttl.clamp(MIN_USER_TTL, MAX_HOST_TTL);
    let until = call.now.saturating_add(life).saturating_add(CLOCK_SKEW * 2);
    names::reserve(call, &names, until).await?;
    let certificate = call.auth.ports.issuer.issue_ssh_server(grant, &key).await?;
    let event = call
        .by_caller(AuditEvent::new(EventKind::CertCreate))
        .field("cert_type", "host")
        .field("names", names)
        .field("issued_by", call.caller.to_string())
        .field("serial", certificate.serial)
        .field("valid_before", certificate.valid_before.to_string());
    call.audit(vec![event]).await?;
    Ok(SignedHost { certificate, trust: call.trust().await? })
}

/// Clients of stock OpenSSH believe whoever has a certificate of the host authority for a name: so none is made for a name by which a
/// member is found, whoever asks for it.
async fn check_names(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    names: Vec<String>,
    ttl: Duration,
) -> ApiResult<SshServerGrant> {
    if names.is_empty() || names.len() > MAX_PRINCIPALS {
        return Err(ApiError::invalid(format!("a host has between 1 and {MAX_PRINCIPALS} names")));
    }
    let mut parsed: Vec<String> = Vec::with_capacity(names.len());
    for name in &names {
        let name = principal(name).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            ApiError::invalid(format!("{shown:?} is neither a host name nor an address of one host"))
        })?;
        if !parsed.contains(&name) {
            parsed.push(name);
        }
    }
    let by_proxy = names::of_proxies(call, None, parsed.iter().map(String::as_str)).await?;
    let taken = match by_proxy {
        Some(name) => Some(("a proxy or the cluster", name)),
        None => names::of_nodes(call, parsed.iter().map(String::as_str)).await?.map(|name| ("a node", name)),
    };
    if let Some((whom, name)) = taken {
        return Err(ApiError::invalid(format!("{name:?} is a name or address by which {whom} is found")));
    }
    Ok(SshServerGrant::new(parsed, call.auth.config.cluster.clone(), ttl))
}

/// The one spelling of a name or address of a single host.
fn principal(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let single = !address.is_unspecified() && !address.is_multicast();
        return single.then(|| address.to_canonical().to_string());
    }
    let name = NodeName::new(text).ok()?;
    let lower = name.as_str().to_ascii_lowercase();
    // Hosts of the cluster are known by their ids.
    let first = lower.split('.').next().unwrap_or_default();
    first.parse::<HostId>().is_err().then_some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling_and_are_of_one_host() {
        for (text, expected) in [
            ("web-1", "web-1"),
            ("Web-1.Example.COM", "web-1.example.com"),
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:0::7", "2001:db8::7"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(principal(text).as_deref(), Some(expected));
        }
        for bad in [
            "",
            "*",
            "*.example.com",
            "web?",
            "!web",
            "a b",
            "a,b",
            "web\n",
            "-o",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "0f8fad5b-d9cb-469f-a165-70867728950e",
            "0F8FAD5B-d9cb-469f-a165-70867728950e.example.com",
        ] {
            assert_eq!(principal(bad), None, "{bad:?}");
        }
    }
}
