//! The proxy's part of what a daemon does.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Result, bail};
use teleport_ssh::mux::ProxyProtocol;

use super::addresses::{address, hosts};
use super::file::{OneOrMany, ProxySection, YesNo};
use super::{Https, proxy_protocol};

/// The proxy.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Where it listens for HTTPS.
    pub web_listen: SocketAddr,
    /// Where it listens for SSH, if not only there.
    pub ssh_listen: Option<SocketAddr>,
    /// Where it listens for tunnels of nodes, if not there.
    pub tunnel_listen: Option<SocketAddr>,
    /// Load balancers before its ports that say where clients are.
    pub protocol: ProxyProtocol,
    /// Where other proxies ask it for nodes, if the cluster's proxies do that.
    pub peer_listen: SocketAddr,
    /// What they reach that by, with or without a port, if it is not the address of this machine.
    pub peer_public: Option<String>,
    /// Names and addresses that clients reach it by, without ports.
    pub public_addresses: Vec<String>,
    /// The port that clients reach HTTPS by, if it is not the one that is listened on.
    pub public_port: Option<u16>,
    /// What browsers are shown.
    pub https: Https,
    /// Whether it connects to nodes at loopback, link-local and cloud metadata addresses, as to others of its own machine. To the node of
    /// this very process it does in any case.
    pub local_addresses: bool,
}

/// Those of [`Overrides`](super::Overrides) that are for the proxy.
pub(super) struct ProxyFlags {
    pub(super) public_addr: Vec<String>,
    pub(super) acme: bool,
    pub(super) acme_email: Option<String>,
    pub(super) one_port: bool,
}

impl ProxySettings {
    /// What the file and the flags say; where the file says nothing it listens at `ip`, or everywhere.
    pub(super) fn resolve(mut section: ProxySection, flags: ProxyFlags, ip: Option<IpAddr>) -> Result<Self> {
        let address = |text: Option<&str>, port, what: &'static str| address(text, port, ip, what);
        if flags.acme {
            section.acme.enabled = Some(YesNo(true));
        }
        if flags.acme_email.is_some() {
            if !section.acme.enabled.is_some_and(|YesNo(enabled)| enabled) {
                bail!("--acme-email is for --acme");
            }
            section.acme.email = flags.acme_email;
        }
        if !flags.public_addr.is_empty() {
            section.public_addr = Some(OneOrMany::Many(flags.public_addr));
        }
        let first = section.public_addr.clone().and_then(|list| list.into_vec().into_iter().next());
        let public_port = first.and_then(|text| {
            text.parse::<Ipv6Addr>().is_err().then(|| text.rsplit_once(':')?.1.parse().ok())?
        });
        let public_addresses = hosts(section.public_addr);
        let interval = section.https_keypairs_reload_interval.as_deref();
        let https = Https::resolve(section.https_keypairs, interval, section.acme, &public_addresses)?;
        // Where authorities and browsers look.
        let web_port = if matches!(https, Https::Acme { .. }) { 443 } else { 3080 };
        let web_listen =
            address(section.web_listen_addr.as_deref(), web_port, "proxy_service.web_listen_addr")?;
        // Of free ports each is another one.
        let shared = |at: SocketAddr| flags.one_port || (at == web_listen && at.port() != 0);
        let ssh = address(section.listen_addr.as_deref(), 3023, "proxy_service.listen_addr")?;
        let tunnels = section.tunnel_listen_addr.as_deref();
        let tunnels = tunnels.map(|text| address(Some(text), 3024, "proxy_service.tunnel_listen_addr"));
        let ssh_listen = (!shared(ssh)).then_some(ssh);
        let tunnel_listen = tunnels.transpose()?.filter(|at| !shared(*at));
        if tunnel_listen.is_some_and(|at| at.port() != 0 && ssh_listen == Some(at)) {
            bail!(
                "proxy_service.tunnel_listen_addr: SSH listens there (listen_addr); say the web port's or another one"
            );
        }
        Ok(Self {
            web_listen,
            ssh_listen,
            tunnel_listen,
            protocol: proxy_protocol::resolve(
                section.proxy_protocol,
                section.proxy_protocol_sources,
                "proxy_service",
            )?,
            peer_listen: address(
                section.peer_listen_addr.as_deref(),
                3021,
                "proxy_service.peer_listen_addr",
            )?,
            peer_public: section.peer_public_addr,
            public_addresses,
            public_port,
            https,
            local_addresses: section.local_addresses.is_some_and(|YesNo(yes)| yes),
        })
    }
}
