//! The proxy of this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use teleport_core::api::{PresenceApi, ProxyAccess, ProxyRecord};
use teleport_core::id::HostRole;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::proxy::ProxyServer;
use teleport_ssh::proxy_web::{ProxyWeb, WebCertificate};

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
    os: &Os,
    front: &(Shutdown, TaskScope),
    services: &Services,
) -> Result<(SocketAddr, SocketAddr)> {
    let access: Arc<dyn ProxyAccess> = Arc::<teleport_ssh::rpc::AuthClient>::clone(&member.api);
    let ssh = ProxyServer::builder(
        member.identity.clone(),
        Arc::clone(&access),
        Arc::clone(&os.clock),
        Arc::clone(&os.entropy),
    )
    .listen(proxy.ssh_listen)
    .bind()
    .await
    .context("proxy, SSH")?;
    let ssh_address = ssh.local_addr();
    let ssh_public = addresses::advertised(settings, ssh_address, &proxy.public_addresses);
    let mut web = ProxyWeb::builder(access, member.identity.clone(), Arc::clone(&os.clock))
        .listen(proxy.web_listen)
        .pass_to(Arc::clone(&member.connector))
        .ssh_address(ssh_public.clone());
    if let Some((key, chain)) = &proxy.https {
        let read = |path: &std::path::Path| {
            std::fs::read(path)
                .with_context(|| format!("proxy_service.https_keypairs: cannot read {}", path.display()))
        };
        let key = zeroize::Zeroizing::new(read(key)?);
        web = web.certificate(
            WebCertificate::from_pem(&read(chain)?, &key).context("proxy_service.https_keypairs")?,
        );
    }
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
    let (view, shutdown) = (ssh.view(), front.0.clone());
    let api: Arc<dyn PresenceApi> = Arc::<teleport_ssh::rpc::AuthClient>::clone(&member.api);
    let all = async move {
        tokio::join!(
            web.serve(shutdown.clone()),
            ssh.serve(shutdown.clone()),
            announce(api, record, shutdown.clone()),
        );
    };
    services.started();
    front.1.spawn(services.clone().serve(HostRole::Proxy, view, all));
    Ok((web_address, ssh_address))
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
