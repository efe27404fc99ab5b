//! Addresses as people write them.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

pub(super) fn address(
    text: Option<&str>,
    port: u16,
    ip: Option<std::net::IpAddr>,
    key: &str,
) -> Result<SocketAddr> {
    let any = ip.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
    let Some(text) = text else { return Ok((any, port).into()) };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Ok((ip, port).into());
    }
    bail!("{key}: {text:?} is not an address to listen on; write it like 0.0.0.0:{port}")
}

/// Its port has no default that others would not have as well, so it is to be said.
pub(super) fn diag_addr(text: Option<&str>) -> Result<Option<SocketAddr>> {
    text.map(|text| {
        text.parse().ok().with_context(|| {
            format!("diag_addr: {text:?} is not an address to listen on; write it like 127.0.0.1:3000")
        })
    })
    .transpose()
}

/// Adds `port` to `host` or `host:port`; brackets a bare IPv6 address.
pub(crate) fn with_port(text: &str, port: u16) -> String {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{text}]:{port}");
    }
    let has_port = text.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port { text.to_owned() } else { format!("{text}:{port}") }
}

/// `host` of `host` or `host:port`.
pub(crate) fn without_port(text: &str) -> &str {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return text;
    }
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => text,
    }
}

pub(super) fn hosts(list: Option<super::file::OneOrMany>) -> Vec<String> {
    let list = list.map(super::file::OneOrMany::into_vec).unwrap_or_default();
    list.iter().map(|text| without_port(text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_added_and_removed() {
        assert_eq!(with_port("auth", 3025), "auth:3025");
        assert_eq!(with_port("auth:1", 3025), "auth:1");
        assert_eq!(with_port("::1", 3025), "[::1]:3025");
        assert_eq!(with_port("[::1]:5", 3025), "[::1]:5");
        assert_eq!(without_port("[::1]:5"), "::1");
        assert_eq!(without_port("proxy.example.com:443"), "proxy.example.com");
    }
}
