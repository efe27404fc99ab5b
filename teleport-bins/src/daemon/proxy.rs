//! The proxy of this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use teleport_core::api::{AuditApi, PresenceApi, ProxyAccess, ProxyRecord, RecordingApi};
use teleport_core::id::HostRole;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::listener::Door;
use teleport_ssh::node::StandIns;
use teleport_ssh::proxy::{Direct, NodeView, ProxyServer};
use teleport_ssh::proxy_web::ProxyWeb;
use teleport_ssh::record::{Spool, SpoolLimits, Uploader};
use teleport_ssh::rpc::AuthClient;
use teleport_ssh::tunnel::{PeerPort, Peers, Tunnels};
use teleport_ssh::view::{AccessCache, DEFAULT_MAX_AGE};
use tokio::sync::watch;

use super::certificates::Certificates;
use super::data_dir::DataDir;
use super::diagnostics::{Diagnostics, Needs, Service};
use super::member::Member;
use super::membership::Services;
use super::peering::Peering;
use super::{Os, addresses};
use crate::config::{ProxySettings, Settings, with_port, without_port};

/// How often a proxy says that it is there.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(60);
/// How soon it tries again when nobody heard it.
const RETRY: Duration = Duration::from_secs(5);

/// Where a proxy listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// For HTTPS, and whatever has no port of its own.
    pub(super) web: SocketAddr,
    pub(super) ssh: SocketAddr,
    /// If it has one of its own.
    pub(super) tunnels: Option<SocketAddr>,
}

/// Starts its ports; returns where they are.
pub(super) async fn start(
    settings: &Settings,
    proxy: &ProxySettings,
    member: &Member,
    (data_dir, os): (&DataDir, &Os),
    (front, back): (&(Shutdown, TaskScope), &(Shutdown, TaskScope)),
    (services, diagnostics): (&Services, &Diagnostics),
) -> Result<Ports> {
    let access: Arc<dyn ProxyAccess> = Arc::<AuthClient>::clone(&member.api);
    let mut dialer = Direct::new().local_addresses(proxy.local_addresses);
    if settings.node.is_some() {
        dialer = dialer.own_node(super::member::store(data_dir, HostRole::Node)?.host_id(&*os.entropy)?);
    }
    let (view, nodes) = (AccessCache::new(DEFAULT_MAX_AGE), NodeView::new());
    let peers = Peers::new(
        member.identity.clone(),
        view.clone(),
        nodes.clone(),
        Arc::clone(&os.clock),
        Arc::clone(&os.entropy),
    );
    let tunnels = Tunnels::with_peers(Arc::new(dialer), peers);
    let mut ssh = ProxyServer::builder(
        member.identity.clone(),
        Arc::clone(&access),
        Arc::clone(&os.clock),
        Arc::clone(&os.entropy),
    )
    .listen_nowhere()
    .proxy_protocol(proxy.protocol.clone())
    .views(view.clone(), nodes)
    .dialer(Arc::new(tunnels.clone()))
    .stand_ins(stand_ins(member, data_dir, os, back)?);
    if let Some(address) = proxy.ssh_listen {
        ssh = ssh.listen(address);
    }
    let ssh = ssh.bind().await.context("proxy, SSH")?;
    let public = |bound| addresses::advertised(settings, bound, &proxy.public_addresses);
    let at_web = |port| with_port(without_port(&public(proxy.web_listen)), proxy.public_port.unwrap_or(port));
    let mut web = ProxyWeb::builder(access, member.identity.clone(), Arc::clone(&os.clock))
        .listen(proxy.web_listen)
        .pass_to(Arc::clone(&member.connector))
        .proxy_protocol(proxy.protocol.clone())
        .tunnels(tunnels.clone())
        .ssh(ssh.entrance());
    let own_port = ssh.local_addr().ok();
    web = web.ssh_address(own_port.map_or_else(|| at_web(0), public));
    if let Some(address) = proxy.tunnel_listen {
        web = web.tunnels_at(address, without_port(&public(address)));
    }
    let certificates = Certificates::open(&proxy.https, data_dir, os)?;
    web = web.certificates(certificates.shown());
    let web = web.bind().await.context("proxy, HTTPS")?;
    let web_address = web.local_addr()?;
    let web_public = at_web(web_address.port());
    let material = member.identity.current();
    let record = ProxyRecord {
        host_id: material.host_id,
        name: material.name.clone(),
        ssh_address: own_port.map_or_else(|| web_public.clone(), public),
        web_address: web_public,
        peer_address: None,
        tunnels: 0,
        version: crate::cli::VERSION.to_owned(),
    };
    let ports = Ports { web: web_address, ssh: own_port.unwrap_or(web_address), tunnels: web.tunnel_addr() };
    let peering = Peering {
        port: {
            let (tunnels, identity, view) = (tunnels.clone(), member.identity.clone(), view.clone());
            let (clock, entropy) = (Arc::clone(&os.clock), Arc::clone(&os.entropy));
            move || {
                let (clock, entropy) = (Arc::clone(&clock), Arc::clone(&entropy));
                PeerPort::new(tunnels.clone(), identity.clone(), view.clone(), clock, entropy)
            }
        },
        listen: proxy.peer_listen,
        advertised: {
            let (settings, public) = (settings.clone(), proxy.peer_public.clone());
            move |local: SocketAddr| match &public {
                Some(public) => with_port(public, local.port()),
                // Names of all proxies together would lead to any of them.
                None => addresses::advertised(&settings, local, &[]),
            }
        },
        view: view.clone(),
        tell: {
            let (diagnostics, port, host) = (diagnostics.clone(), port(member, &view), material.host_id);
            move |door: Option<Door>| match door {
                Some(door) => diagnostics.add(port("proxy-peer", door)),
                None => diagnostics.remove_port(host, "proxy-peer"),
            }
        },
    };
    let record = watch::Sender::new(record);
    let announced = record.subscribe();
    let (shutdown, clock) = (front.0.clone(), Arc::clone(&os.clock));
    let api: Arc<dyn PresenceApi> = Arc::<AuthClient>::clone(&member.api);
    services.started();
    let port = port(member, &view);
    let (shown, of_web) = (Some(certificates.shown()), Some(tunnels.clone()));
    diagnostics.add(Service { shown, tunnels: of_web, ..port("proxy-web", web.door()) });
    diagnostics.add(Service { nodes: Some(ssh.nodes()), ..port("proxy-ssh", ssh.door()) });
    let others = [("proxy-tunnel", web.tunnel_door()), ("proxy-auth", web.pass_door())];
    for (name, door) in others {
        door.into_iter().for_each(|door| diagnostics.add(port(name, door)));
    }
    let all = async move {
        tokio::join!(
            web.serve(shutdown.clone()),
            ssh.serve(shutdown.clone()),
            announce(api, announced, tunnels, shutdown.clone()),
            peering.run(record, shutdown.clone()),
            certificates.keep(clock, shutdown.clone()),
        );
    };
    let serving = services.clone().serve(HostRole::Proxy, view, all);
    let (diagnostics, host) = (diagnostics.clone(), material.host_id);
    front.1.spawn(async move {
        serving.await;
        diagnostics.remove(host);
    });
    Ok(ports)
}

/// Describes ports of the proxy for whoever watches it.
fn port(member: &Member, view: &AccessCache) -> impl Fn(&'static str, Door) -> Service + Clone + use<> {
    let (identity, view) = (member.identity.clone(), view.clone());
    move |name, door| Service {
        name,
        door,
        identity: identity.clone(),
        needs: Needs::View(view.clone()),
        sessions: None,
        nodes: None,
        auth: None,
        shown: None,
        tunnels: None,
    }
}

/// What the proxy needs to be in the place of registered SSH servers. It records their sessions as a node does its own.
fn stand_ins(member: &Member, data_dir: &DataDir, os: &Os, back: &(Shutdown, TaskScope)) -> Result<StandIns> {
    let spool = Spool::open(data_dir.join("proxy-spool"), SpoolLimits::default())?;
    let api = Arc::clone(&member.api) as Arc<dyn RecordingApi>;
    let uploader = Uploader::new(spool.clone(), api, Arc::clone(&os.clock), Arc::clone(&os.entropy))
        .audit(Arc::clone(&member.api) as Arc<dyn AuditApi>);
    back.1.spawn(uploader.run(back.0.clone()));
    let access: Arc<AuthClient> = Arc::clone(&member.api);
    Ok(StandIns::new(access, Arc::new(spool)))
}

async fn announce(
    api: Arc<dyn PresenceApi>,
    mut record: watch::Receiver<ProxyRecord>,
    tunnels: Tunnels,
    shutdown: Shutdown,
) {
    let saying = async {
        loop {
            let mut announced = record.borrow_and_update().clone();
            let counted = || u32::try_from(tunnels.len()).unwrap_or(u32::MAX);
            announced.tunnels = counted();
            let told = announced.tunnels;
            let pause = match api.announce_proxy(announced).await {
                Ok(()) => ANNOUNCE_EVERY,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the auth service does not hear of this proxy"
                    );
                    RETRY
                }
            };
            let other_tunnels = async {
                while counted() == told {
                    tokio::time::sleep(RETRY).await;
                }
                // Many come one after the other.
                tokio::time::sleep(RETRY).await;
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = other_tunnels => {}
                Ok(()) = record.changed() => {}
            }
        }
    };
    tokio::select! {
        () = saying => {}
        () = shutdown.draining() => {}
    }
}
