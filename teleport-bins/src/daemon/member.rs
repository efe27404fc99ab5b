//! The services of this process as members of the cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use teleport_core::api::{AuditApi, AuthApi, IdentityApi, NodeAccess, RecordingApi};
use teleport_core::id::HostRole;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial, HostName, IdentityStore, Renewal, renew};
use teleport_ssh::join::{JoinOptions, join_with_keys};
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::node::NodeServer;
use teleport_ssh::record::{Spool, Uploader};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, Connector, PipeConnector, ProxyConnector};
use teleport_ssh::session::OsSessions;

use crate::cli::teleport::{OPEN_SOCKET, PAM_SESSION, SFTP_SERVER};

use super::addresses;
use super::auth::LocalAuth;
use super::data_dir::DataDir;
use super::diagnostics::{Diagnostics, Needs, Service};
use super::membership::{Services, is_removal};
use super::{IDENTITY_DIR, Os};
use crate::config::{NodeSettings, Settings};

/// How often it is looked whether the certificates of a service beside the auth service are valid.
const LOOK: Duration = Duration::from_secs(3);
/// The same after failures.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// The identities of a service, in a directory of its own: each service has an id, keys and certificates of its own.
pub(super) fn store(data_dir: &DataDir, role: HostRole) -> Result<IdentityStore> {
    Ok(IdentityStore::open(data_dir.join(IDENTITY_DIR).join(role.as_str()))?)
}

pub(super) fn host(store: &IdentityStore, settings: &Settings, role: HostRole, os: &Os) -> Result<HostName> {
    Ok(HostName { host_id: store.host_id(&*os.entropy)?, name: settings.nodename.clone(), role })
}

/// Renews the certificates of a service from now on.
pub(super) fn keep_fresh(
    identity: HostIdentityHandle,
    store: IdentityStore,
    api: Arc<dyn IdentityApi>,
    addresses: Vec<String>,
    os: &Os,
    back: &(Shutdown, TaskScope),
) {
    let renewal = Renewal {
        identity,
        store: Some(store),
        api,
        addresses,
        clock: Arc::clone(&os.clock),
        entropy: Arc::clone(&os.entropy),
    };
    back.1.spawn(renew(renewal, back.0.clone()));
}

/// Gives a service in the process of the auth service new certificates when those that it has are not valid now: the clock has jumped, or the machine has slept
/// for longer than they last. Nobody would talk to it, so it could not renew them; here the authority is at hand, as it is at the start.
pub(super) fn revive(
    local: &LocalAuth,
    identity: HostIdentityHandle,
    store: IdentityStore,
    addresses: Vec<String>,
    os: &Os,
    back: &(Shutdown, TaskScope),
) {
    let (local, os, shutdown) = (local.clone(), os.clone(), back.0.clone());
    back.1.spawn(async move {
        let mut wait = LOOK;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.draining() => return,
            }
            let current = identity.current();
            let Err(reason) = current.check_valid_at(os.clock.now()) else {
                wait = LOOK;
                continue;
            };
            let role = current.role;
            match local.admit(&store, current.host(), addresses.clone(), &os).await {
                Ok(material) => {
                    tracing::warn!(%role, %reason, "the service has new certificates");
                    identity.replace(material);
                    wait = LOOK;
                }
                // It ends, and does not become a member again when nobody remembers any more that it was removed.
                Err(error) if is_removal(&error) => return,
                Err(error) => {
                    wait = wait.saturating_mul(2).min(LONGEST_LOOK);
                    let error: &dyn std::error::Error = error.as_ref();
                    tracing::error!(%role, %reason, error, "the service has no valid certificates and cannot be given new ones");
                }
            }
        }
    });
}

/// What the services of this process need to become members.
pub(super) struct Members<'a> {
    pub(super) settings: &'a Settings,
    pub(super) data_dir: &'a DataDir,
    pub(super) os: &'a Os,
    pub(super) local: Option<&'a (LocalAuth, PipeConnector)>,
    pub(super) back: &'a (Shutdown, TaskScope),
}

/// A service that is a member.
pub(super) struct Member {
    pub(super) identity: HostIdentityHandle,
    pub(super) api: Arc<AuthClient>,
    /// The way to the auth service, for those that a proxy passes on.
    pub(super) connector: Arc<dyn Connector>,
}

impl Members<'_> {
    /// Makes a service a member, or finds that it is one, and keeps its certificates fresh from now on.
    pub(super) async fn admit(
        &self,
        role: HostRole,
        listen: SocketAddr,
        public: &[String],
    ) -> Result<Member> {
        let Self { settings, os, .. } = self;
        let store = store(self.data_dir, role)?;
        let host = host(&store, settings, role, os)?;
        let addresses = addresses::own(settings, listen, public);
        let material = match self.local {
            Some((local, _)) => local.admit(&store, host, addresses.clone(), os).await?,
            None => self.join_or_load(&store, host, addresses.clone()).await?,
        };
        let identity = HostIdentityHandle::new(material);
        let connector = self.connector(&identity);
        let client = ClientIdentity::Host(identity.clone());
        let api = AuthClient::builder(Arc::clone(&connector), client, Arc::clone(&os.clock)).build();
        let api = Arc::new(api);
        if let Some((local, _)) = self.local {
            revive(local, identity.clone(), store.clone(), addresses.clone(), os, self.back);
        }
        keep_fresh(
            identity.clone(),
            store,
            Arc::clone(&api) as Arc<dyn IdentityApi>,
            addresses,
            os,
            self.back,
        );
        Ok(Member { identity, api, connector })
    }

    fn connector(&self, identity: &HostIdentityHandle) -> Arc<dyn Connector> {
        if let Some((_, pipe)) = self.local {
            return Arc::new(pipe.clone());
        }
        // It asks for the auth service of the cluster by its protocol name, which a proxy passes on and the auth service
        // itself takes as well: nobody has to know which of the two an address is.
        let servers = self.settings.auth_servers.iter().cloned();
        let current = identity.current();
        // Hosts with the same list do not all begin with the same one.
        let number = current.host_id.uuid().as_u128() % servers.len().max(1) as u128;
        let number = usize::try_from(number).unwrap_or_default();
        Arc::new(ProxyConnector::new(servers, current.cluster.clone()).beginning_at(number))
    }

    async fn join_or_load(
        &self,
        store: &IdentityStore,
        host: HostName,
        addresses: Vec<String>,
    ) -> Result<HostMaterial> {
        let Self { settings, os, .. } = self;
        let known = store.load(host.role)?;
        if let Some(known) = &known
            && os.clock.now() < known.valid_before
        {
            return Ok(known.clone());
        }
        let role = host.role;
        let Some(token) = settings.token.clone() else {
            let why =
                if known.is_some() { "its certificates have expired" } else { "it is not a member yet" };
            bail!(
                "the {role} service cannot start: {why}, and there is no --token. \
                 Run `tctl tokens add --type={role}` on the auth server and start with what it prints"
            );
        };
        let options = JoinOptions {
            servers: settings.auth_servers.clone(),
            token,
            pins: settings.ca_pins.clone(),
            require_pin: settings.require_ca_pin,
            known: known.map(|known| known.trust),
            host_id: host.host_id,
            name: host.name,
            role,
            addresses,
        };
        // Kept before they are sent: if the answer is lost, only these keys can ask again.
        let keys = store.keys(&*os.entropy)?;
        let material = join_with_keys(options, keys, Arc::clone(&os.clock))
            .await
            .with_context(|| format!("the {role} service could not join"))?;
        store.save(&material)?;
        tracing::info!(cluster = %material.cluster, %role, host_id = %material.host_id, "joined the cluster");
        Ok(material)
    }
}

impl Member {
    /// Starts the SSH server of a node. Returns where it listens, if it does.
    pub(super) async fn start_node(
        self,
        settings: &Settings,
        node: &NodeSettings,
        (data_dir, os): (&DataDir, &Os),
        (front, back): (&(Shutdown, TaskScope), &(Shutdown, TaskScope)),
        (services, diagnostics): (&Services, &Diagnostics),
    ) -> Result<Option<SocketAddr>> {
        let spool = Spool::open(data_dir.join("spool"), node.recordings)?;
        let api = Arc::clone(&self.api) as Arc<dyn RecordingApi>;
        let uploader = Uploader::new(spool.clone(), api, Arc::clone(&os.clock), Arc::clone(&os.entropy))
            .audit(Arc::clone(&self.api) as Arc<dyn AuditApi>);
        back.1.spawn(uploader.run(back.0.clone()));
        let client = AuthClient::clone(&self.api);
        let api: Arc<dyn NodeAccess> = self.api;
        let sessions = OsSessions::new(Arc::clone(&os.clock))
            .with_sftp_server(&node.program, ["teleport", SFTP_SERVER])
            .with_socket_opener(&node.program, ["teleport", OPEN_SOCKET]);
        let sessions = match &node.pam {
            Some(config) => sessions
                .with_pam(config.clone(), &node.program, ["teleport", PAM_SESSION])
                .await
                .context("ssh_service.pam")?,
            None => sessions,
        };
        // Behind a proxy on this machine are many users; it has let them in already.
        let own = addresses::own(settings, node.listen, &node.public_addresses);
        let limits = Limits { exempt: addresses::this_machine(&own), ..Limits::default() };
        let identity = self.identity;
        let mut builder = NodeServer::builder(
            identity.clone(),
            api,
            Arc::new(sessions),
            Arc::clone(&os.clock),
            Arc::clone(&os.entropy),
        )
        .listen(node.listen)
        .labels(node.labels.clone())
        .recorders(Arc::new(spool))
        .resume_for(node.resume_for)
        .max_forwarded(node.max_forwarded)
        .gateway_ports(node.gateway_ports)
        .limits(limits)
        .displays(node.x11.clone());
        if node.tunnels {
            builder = builder.tunnels(settings.auth_servers.iter().cloned()).auth_client(client);
        } else if node.listen.port() != 0 {
            builder = builder.advertise(addresses::advertised(settings, node.listen, &node.public_addresses));
        }
        let bound = builder.bind().await.context("node")?;
        let address = bound.local_addr().ok();
        let status = bound.status();
        let view = status.view().clone();
        diagnostics.add(Service {
            name: "node",
            door: status.door(),
            identity: identity.clone(),
            needs: Needs::View(view.clone()),
            sessions: Some(status.sessions().clone()),
            nodes: None,
            auth: None,
            shown: None,
            tunnels: None,
        });
        services.started();
        let serving = services.clone().serve(HostRole::Node, view, bound.serve(front.0.clone()));
        let (diagnostics, host) = (diagnostics.clone(), identity.current().host_id);
        front.1.spawn(async move {
            serving.await;
            diagnostics.remove(host);
        });
        Ok(address)
    }
}

const _: fn() = || {
    // The client of the auth service is everything that the services need.
    fn is_api<T: AuthApi>() {}
    is_api::<AuthClient>();
};
