//! The proxy of this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use teleport_core::api::{AuditApi, PresenceApi, ProxyAccess, ProxyRecord, RecordingApi};
use teleport_core::id::HostRole;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::node::StandIns;
use teleport_ssh::proxy::{Direct, ProxyServer};
use teleport_ssh::proxy_web::ProxyWeb;
use teleport_ssh::record::{Spool, SpoolLimits, Uploader};
use teleport_ssh::rpc::AuthClient;
use teleport_ssh::tunnel::Tunnels;

use super::certificates::Certificates;
use super::data_dir::DataDir;
use super::diagnostics::{Diagnostics, Needs, Service};
use super::member::Member;
use super::membership::Services;
use super::{Os, addresses};
use crate::config::{ProxySettings, Settings, with_port, without_port};

/// How often a proxy says that it is there.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(60);
/// How soon it tries again when nobody heard it.
const RETRY: Duration = Duration::from_secs(5);

/// Starts both ports; returns where they are: HTTPS and SSH.
pub(super) async fn start(
    settings: &Settings,
    proxy: &ProxySettings,
    member: &Member,
    (data_dir, os): (&DataDir, &Os),
    (front, back): (&(Shutdown, TaskScope), &(Shutdown, TaskScope)),
    (services, diagnostics): (&Services, &Diagnostics),
) -> Result<(SocketAddr, SocketAddr)> {
    let access: Arc<dyn ProxyAccess> = Arc::<AuthClient>::clone(&member.api);
    let mut dialer = Direct::new().local_addresses(proxy.local_addresses);
    if settings.node.is_some() {
        dialer = dialer.own_node(super::member::store(data_dir, HostRole::Node)?.host_id(&*os.entropy)?);
    }
    let tunnels = Tunnels::new(Arc::new(dialer));
    let ssh = ProxyServer::builder(
        member.identity.clone(),
        Arc::clone(&access),
        Arc::clone(&os.clock),
        Arc::clone(&os.entropy),
    )
    .listen(proxy.ssh_listen)
    .dialer(Arc::new(tunnels.clone()))
    .stand_ins(stand_ins(member, data_dir, os, back)?)
    .bind()
    .await
    .context("proxy, SSH")?;
    let ssh_address = ssh.local_addr();
    let ssh_public = addresses::advertised(settings, ssh_address, &proxy.public_addresses);
    let mut web = ProxyWeb::builder(access, member.identity.clone(), Arc::clone(&os.clock))
        .listen(proxy.web_listen)
        .pass_to(Arc::clone(&member.connector))
        .tunnels(tunnels.clone())
        .ssh_address(ssh_public.clone());
    let certificates = Certificates::open(&proxy.https, data_dir, os)?;
    web = web.certificates(certificates.shown());
    let web = web.bind().await.context("proxy, HTTPS")?;
    let web_address = web.local_addr()?;
    let web_public = addresses::advertised(settings, web_address, &proxy.public_addresses);
    let web_public = match proxy.public_port {
        Some(port) => with_port(without_port(&web_public), port),
        None => web_public,
    };
    let material = member.identity.current();
    let record = ProxyRecord {
        host_id: material.host_id,
        name: material.name.clone(),
        web_address: web_public,
        ssh_address: ssh_public,
        version: crate::cli::VERSION.to_owned(),
    };
    let (view, shutdown, clock) = (ssh.view(), front.0.clone(), Arc::clone(&os.clock));
    let api: Arc<dyn PresenceApi> = Arc::<AuthClient>::clone(&member.api);
    services.started();
    for (name, door, nodes) in [("proxy-web", web.door(), None), ("proxy-ssh", ssh.door(), Some(ssh.nodes()))]
    {
        diagnostics.add(Service {
            name,
            door,
            identity: member.identity.clone(),
            needs: Needs::View(view.clone()),
            sessions: None,
            nodes,
            auth: None,
            shown: (name == "proxy-web").then(|| certificates.shown()),
            tunnels: (name == "proxy-web").then(|| tunnels.clone()),
        });
    }
    let all = async move {
        tokio::join!(
            web.serve(shutdown.clone()),
            ssh.serve(shutdown.clone()),
            certificates.keep(clock, shutdown.clone()),
            announce(api, record, shutdown.clone()),
        );
    };
    let serving = services.clone().serve(HostRole::Proxy, view, all);
    let (diagnostics, host) = (diagnostics.clone(), material.host_id);
    front.1.spawn(async move {
        serving.await;
        diagnostics.remove(host);
    });
    Ok((web_address, ssh_address))
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

async fn announce(api: Arc<dyn PresenceApi>, record: ProxyRecord, shutdown: Shutdown) {
    let saying = async {
        loop {
            let pause = match api.announce_proxy(record.clone()).await {
                Ok(()) => ANNOUNCE_EVERY,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the auth service does not hear of this proxy"
                    );
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = saying => {}
        () = shutdown.draining() => {}
    }
}
