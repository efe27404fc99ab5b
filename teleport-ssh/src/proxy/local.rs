//! Addresses that mean another machine to everybody: this very one, one of its link, or whoever hands out the secrets of cloud machines.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Services of clouds for the machine that asks, beside 169.254.169.254: of Azure, Alibaba and Oracle.
const METADATA: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];

/// Whether it is one of them, in whichever way it is written.
pub(super) fn is_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => v6(ip) || embedded(ip).is_some_and(v4),
    }
}

fn v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        // "This network": some systems connect to themselves.
        || ip.octets().first() == Some(&0)
        || METADATA.contains(&ip)
}

fn v6(ip: Ipv6Addr) -> bool {
    match ip.segments() {
        // What Amazon serves to its machines: fd00:ec2::254 and its neighbours.
        [0xfd00, 0x0ec2, ..] => true,
        // Google.
        [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => true,
        // Of one site, as it was once called, and of a translator that a network keeps for itself.
        [first, ..] if first & 0xffc0 == 0xfec0 => true,
        [0x0064, 0xff9b, 1, ..] => true,
        _ => ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local(),
    }
}

/// The IPv4 address in an IPv6 one that leads there by way of a translator or a tunnel.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match ip.segments() {
        // `::a.b.c.d`, which nobody uses and some systems connect to.
        [0, 0, 0, 0, 0, 0, high, low] => (high, low),
        // SIIT, NAT64.
        [0, 0, 0, 0, 0xffff, 0, high, low] | [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        // 6to4.
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn whatever_way_they_are_written_in() {
        for text in [
            "127.0.0.1",
            "127.1.2.3",
            "0.1.2.3",
            "169.254.169.254",
            "255.255.255.255",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "::1",
            "::",
            "fe80::1",
            "fec0::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::127.0.0.1",
            "64:ff9b::0.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
        ] {
            assert!(is_local(text.parse().unwrap()), "{text}");
        }
        for text in [
            "10.0.0.1",
            "192.168.1.1",
            "198.51.100.1",
            "100.64.0.1",
            "2001:db8::1",
            "fd00::1",
            "fd12:ec2::254",
            "64:ff9b::198.51.100.1",
            "2002:c633:6401::1",
            "::ffff:10.0.0.1",
            "::ffff:0:10.0.0.1",
        ] {
            assert!(!is_local(text.parse().unwrap()), "{text}");
        }
    }
}
