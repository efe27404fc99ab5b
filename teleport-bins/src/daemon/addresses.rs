//! Under which names and addresses a service is reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::{Settings, with_port, without_port};

/// The address of this machine on the way to others: what the routing table would use. Nothing is sent.
fn outgoing() -> Option<IpAddr> {
    // 192.0.2.1 is reserved for documentation: nobody is there.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

/// The one that is told to others: what the operator says, else where it listens, else the way out of this machine.
fn primary(settings: &Settings, listen: SocketAddr, public: &[String]) -> String {
    if let Some(host) = public.first().map(String::as_str).or(settings.advertise.as_deref()) {
        return without_port(host).to_owned();
    }
    if !listen.ip().is_unspecified() {
        return listen.ip().to_string();
    }
    outgoing().unwrap_or(Ipv4Addr::LOCALHOST.into()).to_string()
}

/// `host:port` as it is told to others.
pub(super) fn advertised(settings: &Settings, bound: SocketAddr, public: &[String]) -> String {
    with_port(&primary(settings, bound, public), bound.port())
}

/// All names and addresses, for the certificates.
pub(super) fn own(settings: &Settings, listen: SocketAddr, public: &[String]) -> Vec<String> {
    let mut own: Vec<String> = public.iter().map(|host| without_port(host).to_owned()).collect();
    own.push(primary(settings, listen, public));
    own.extend(settings.advertise.as_deref().map(|host| without_port(host).to_owned()));
    own.sort();
    own.dedup();
    own
}

/// From where a service on this machine may come: its own addresses, and both families' loopback.
pub(super) fn this_machine(own: &[String]) -> Vec<IpAddr> {
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    own.iter().filter_map(|host| host.parse().ok()).chain(loopback).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_both_families() {
        let own = ["node.example.com".to_owned(), "192.0.2.7".to_owned()];
        let known = this_machine(&own).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(known, ["192.0.2.7", "127.0.0.1", "::1"]);
    }
}
