//! The daemon: the services of one process, started in order, stopped in two phases.

mod addresses;
mod auth;
mod certificates;
mod data_dir;
mod diagnostics;
mod forward;
mod member;
mod membership;
mod peering;
mod proxy;
pub mod recordings;
mod signals;
mod traces;
mod wall_clock;

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use teleport_backend::audit::file;
use teleport_core::api::{ApiError, AuthApi};
use teleport_core::audit::chain::LogOwner;
use teleport_core::auth::{Caller, Participant};
use teleport_core::cert::CaPin;
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::id::{ClusterName, HostId, HostRole, RunId};
use teleport_core::secret::SecretString;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::identity::HostIdentityHandle;
use teleport_ssh::rpc::{AuthClient, AuthServer, ClientIdentity, PipeConnector, pipe};

use self::auth::LocalAuth;
use self::data_dir::DataDir;
pub(crate) use self::data_dir::prepare as prepare_data_dir;
use self::diagnostics::{AuthFigures, Diagnostics, Needs, Server, Service};
use self::member::{Member, Members};
use self::membership::{Services, is_removal};
pub use self::traces::Traces;
use self::wall_clock::WallClock;
use crate::config::Settings;

/// How long sessions may go on after the daemon was asked to stop.
const GRACE: Duration = Duration::from_secs(300);
/// The file in the data directory that says where the auth service of this host listens, for `tctl`.
pub const AUTH_ADDRESS_FILE: &str = "auth_address";
/// The directory in the data directory that holds the identities of the services, one directory for each.
pub const IDENTITY_DIR: &str = "identity";

/// What the operating system provides.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "tests build it with a clock of their own")]
pub struct Os {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for Os {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock::new()), entropy: Arc::new(SystemEntropy::new()) }
    }
}

/// A daemon whose services have opened their ports and serve. Dropping it ends them at once.
#[derive(Debug)]
#[non_exhaustive]
pub struct Daemon {
    /// The cluster.
    pub cluster: ClusterName,
    /// How joining hosts recognise it, if the auth service runs here.
    pub ca_pins: Vec<CaPin>,
    /// Where the auth service listens.
    pub auth: Option<SocketAddr>,
    /// Where the proxy listens for HTTPS.
    pub proxy_web: Option<SocketAddr>,
    /// Where the proxy listens for SSH; the same if it has no other port.
    pub proxy_ssh: Option<SocketAddr>,
    /// Where it listens for tunnels of nodes, if that is a port of its own.
    pub proxy_tunnels: Option<SocketAddr>,
    /// Where the node listens.
    pub node: Option<SocketAddr>,
    /// Where it is asked how it is.
    pub diagnostics: Option<SocketAddr>,
    /// The node's id.
    pub node_id: Option<HostId>,
    local: Option<LocalAuth>,
    /// Sessions of users: they end before what they need to end well.
    front: (Shutdown, TaskScope),
    /// What delivers to the auth service.
    back: (Shutdown, TaskScope),
    /// The auth service.
    base: (Shutdown, TaskScope),
    services: Services,
    _data_dir: DataDir,
}

/// Runs until a signal ends it: `teleport start`.
///
/// # Errors
/// What keeps it from starting, in one line.
pub fn main(settings: Settings) -> Result<ExitCode> {
    secure_process();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut signals = signals::Signals::listen()?;
        let data_dir = settings.data_dir.clone();
        let daemon = tokio::select! {
            daemon = Daemon::start(settings, Os::default()) => daemon?,
            _ = signals.next() => return Ok(true),
        };
        daemon.announce(&data_dir);
        let name = tokio::select! {
            name = signals.next() => name,
            () = daemon.removed() => {
                daemon.leave().await;
                return Err(ApiError::evicted().into());
            }
        };
        tracing::info!(signal = name, grace = ?GRACE, "stopping: nobody new is let in, sessions may end; a second signal ends them");
        Ok::<bool, anyhow::Error>(daemon.stop(GRACE, signals.next()).await)
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(if ended? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Secrets stay out of core files, and many sessions need many descriptors.
pub(crate) fn secure_process() {
    if let Err(error) = teleport_ssh::sys::limits::disable_core_dumps() {
        tracing::warn!(error = &error as &dyn std::error::Error, "core dumps cannot be disabled");
    }
    if let Err(error) = teleport_ssh::sys::limits::raise_nofile_limit() {
        tracing::warn!(error = &error as &dyn std::error::Error, "the limit of open files stays as it is");
    }
}

/// A secret in a file, without the line end.
fn read_secret_file(path: &Path) -> Result<SecretString> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the token file {}", path.display()))?;
    Ok(SecretString::new(text.trim()))
}

impl Daemon {
    /// Starts the services that `settings` name: the auth service first, then those that need it. When this returns all of
    /// them serve.
    ///
    /// # Errors
    /// What keeps one of them from starting; the others are stopped again.
    pub async fn start(settings: Settings, os: Os) -> Result<Self> {
        let data_dir = DataDir::open(&settings.data_dir)?;
        let front = (Shutdown::new(), TaskScope::new());
        let back = (Shutdown::new(), TaskScope::new());
        let base = (Shutdown::new(), TaskScope::new());
        let services = Services::new();
        let wall_clock = WallClock::new(Arc::clone(&os.clock));
        base.1.spawn(wall_clock.clone().watch(base.0.clone()));
        let diagnostics = Diagnostics::new(os.clone(), front.0.clone());
        let mut diagnostics_address = None;
        if let Some(address) = settings.diag_addr {
            let server = Server::bind(address, diagnostics.clone()).await?;
            diagnostics_address = Some(server.local_addr()?);
            // To the end: whoever waits for the daemon to be gone sees it go.
            base.1.spawn(server.serve(base.0.clone()));
        }
        let mut auth_address = None;
        let mut local: Option<(LocalAuth, PipeConnector)> = None;
        if let Some(auth) = &settings.auth {
            let store = member::store(&data_dir, HostRole::Auth)?;
            let is_new = store.load(HostRole::Auth)?.is_none();
            let host = member::host(&store, &settings, HostRole::Auth, &os)?;
            let owner = LogOwner { service: host.host_id, name: host.name.clone() };
            let own = file::Service { owner, is_new };
            let service = LocalAuth::open(auth, &own, &data_dir, &os).await?;
            let hosts = addresses::own(&settings, auth.listen, &auth.public_addresses);
            let identity = HostIdentityHandle::new(service.admit(&store, host, hosts.clone(), &os).await?);
            let (connector, listener) = pipe();
            let own = ClientIdentity::Host(identity.clone());
            let own = AuthClient::builder(Arc::new(connector.clone()), own, Arc::clone(&os.clock)).build();
            member::revive(&service, identity.clone(), store.clone(), hosts.clone(), &os, &back);
            member::keep_fresh(identity.clone(), store, Arc::new(own), hosts, &os, &back);
            let bound = AuthServer::builder(
                Arc::new(service.service.clone()),
                identity.clone(),
                Arc::clone(&os.clock),
            )
            .listen(auth.listen)
            .proxy_protocol(auth.protocol.clone())
            .listen_pipe(listener)
            .bind()
            .await
            .context("auth service")?;
            let address = bound.local_addr()?;
            let me = Participant {
                host_id: identity.current().host_id,
                name: settings.nodename.clone(),
                version: crate::cli::VERSION.to_owned(),
                address: addresses::advertised(&settings, address, &auth.public_addresses),
                run: RunId::random(&*os.entropy)?,
                recordings: recordings::kept_at(&auth.recording_store, &os).await?,
            };
            service.service.take_part(&me).await.context("auth service")?;
            write_address(&data_dir.join(AUTH_ADDRESS_FILE), address)?;
            diagnostics.add(Service {
                name: "auth",
                door: bound.door(),
                identity,
                needs: Needs::Storage(Arc::clone(&service.backend)),
                sessions: None,
                nodes: None,
                auth: Some(AuthFigures { calls: bound.figures(), storage: Arc::clone(&service.metrics) }),
                shown: None,
                tunnels: None,
            });
            base.1.spawn(bound.serve(base.0.clone()));
            base.1.spawn(auth::take_part(service.service.clone(), me, base.0.clone()));
            base.1.spawn(auth::look_after_uploads(
                service.service.clone(),
                wall_clock.clone(),
                base.0.clone(),
            ));
            base.1.spawn(recordings::sweep(service.service.clone(), wall_clock, base.0.clone()));
            services.started();
            auth_address = Some(address);
            local = Some((service, connector));
        }
        let members =
            Members { settings: &settings, data_dir: &data_dir, os: &os, local: local.as_ref(), back: &back };
        let mut opened = None;
        let mut cluster = local.as_ref().map(|(local, _)| local.cluster.clone());
        if let Some(proxy) = &settings.proxy {
            let member = members.admit(HostRole::Proxy, proxy.web_listen, &proxy.public_addresses).await;
            if let Some(member) = unless_removed(member, HostRole::Proxy, &local)? {
                cluster.get_or_insert_with(|| member.identity.current().cluster.clone());
                let ports = proxy::start(
                    &settings,
                    proxy,
                    &member,
                    (&data_dir, &os),
                    (&front, &back),
                    (&services, &diagnostics),
                )
                .await?;
                opened = Some(ports);
            }
        }
        let mut node_address = None;
        let mut node_id = None;
        if let Some(node) = &settings.node {
            let member = members.admit(HostRole::Node, node.listen, &node.public_addresses).await;
            if let Some(member) = unless_removed(member, HostRole::Node, &local)? {
                cluster.get_or_insert_with(|| member.identity.current().cluster.clone());
                node_id = Some(member.identity.current().host_id);
                let started = member
                    .start_node(&settings, node, (&data_dir, &os), (&front, &back), (&services, &diagnostics))
                    .await?;
                node_address = started;
            }
        }
        let cluster = cluster.context("no service is enabled")?;
        let local = local.map(|(local, _)| local);
        diagnostics.complete();
        Ok(Self {
            cluster,
            ca_pins: local.as_ref().map(|local| local.ca_pins.clone()).unwrap_or_default(),
            auth: auth_address,
            proxy_web: opened.map(|ports| ports.web),
            proxy_ssh: opened.map(|ports| ports.ssh),
            proxy_tunnels: opened.and_then(|ports| ports.tunnels),
            node: node_address,
            diagnostics: diagnostics_address,
            node_id,
            local,
            front,
            back,
            base,
            services,
            _data_dir: data_dir,
        })
    }

    /// The auth service with every right, if it runs here.
    pub fn admin(&self) -> Option<Arc<dyn AuthApi>> {
        let local = self.local.as_ref()?;
        Some(Arc::new(local.service.acting_as(Caller::LocalAdmin)))
    }

    /// Resolves when every service of this process was removed from the cluster by an administrator: it serves nobody any more,
    /// and [`Daemon::leave`] ends it. Never while the auth service runs here. Cancel safe.
    pub async fn removed(&self) {
        self.services.removed().await;
    }

    /// Stops without delivering anything: nobody would take it. What was not delivered stays in the data directory.
    pub async fn leave(self) {
        self.back.0.abort();
        self.stop(Duration::ZERO, std::future::pending()).await;
    }

    /// Stops: nobody new is let in, sessions go on for at most `grace` or until `hurry` resolves, then what they left is
    /// delivered. Returns whether everything ended by itself.
    pub async fn stop(self, grace: Duration, hurry: impl Future<Output = &'static str>) -> bool {
        tokio::pin!(hurry);
        self.front.0.drain();
        let mut clean = tokio::select! {
            () = self.front.1.join() => true,
            () = tokio::time::sleep(grace) => {
                tracing::warn!("the time for sessions to end is over; those that remain are ended");
                false
            }
            name = &mut hurry => {
                tracing::warn!(signal = name, "sessions are ended");
                false
            }
        };
        self.front.0.abort();
        // Ended sessions write their last events and close their recordings; that takes a moment, not longer.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.front.1.join()).await;
        // One after the other: the auth service must still take what is delivered.
        for (shutdown, tasks) in [&self.back, &self.base] {
            shutdown.drain();
            if tokio::time::timeout(Duration::from_secs(10), tasks.join()).await.is_err() {
                tracing::warn!("some work could not be finished; it goes on with the next start");
                clean = false;
            }
            shutdown.abort();
            tasks.abort().await;
        }
        if let Some(local) = &self.local {
            local.close().await;
        }
        clean
    }

    /// Says what runs where, and what to do next.
    fn announce(&self, data_dir: &Path) {
        let line = |what: &str, address: Option<SocketAddr>| {
            address.map(|address| format!("  {what:<10} {address}\n")).unwrap_or_default()
        };
        eprint!(
            "Teleport {} serves the cluster {} (data in {})\n{}{}{}{}{}{}",
            crate::cli::VERSION,
            self.cluster,
            data_dir.display(),
            line("auth", self.auth),
            line("proxy", self.proxy_web),
            line("proxy ssh", self.proxy_ssh),
            line("tunnels", self.proxy_tunnels),
            match (self.node_id, self.node) {
                (Some(_), None) => "  node ssh   through the proxies, by tunnels\n".to_owned(),
                (_, address) => line("node ssh", address),
            },
            line("diagnosis", self.diagnostics),
        );
        if self.node_id.is_some() && !nix::unistd::geteuid().is_root() {
            eprintln!("The node does not run as root: only its own user can log in.");
        }
        if self.auth.is_some() {
            let default = crate::config::default_data_dir().is_ok_and(|default| default == data_dir);
            let dir = if default { String::new() } else { format!(" --data-dir={}", data_dir.display()) };
            eprintln!(
                "Next, on this host:\n\
                 \x20 tctl{dir} users add <name> --logins=<login>   make a user\n\
                 \x20 tctl{dir} tokens add --type=node              let another host join\n\
                 \x20 tctl{dir} status                              the cluster and its CA pin"
            );
        }
    }
}

/// The member, or none if it was removed from the cluster of this process: then the auth service starts all the same, for without
/// it nobody could do anything about that.
fn unless_removed(
    member: Result<Member>,
    role: HostRole,
    local: &Option<(LocalAuth, PipeConnector)>,
) -> Result<Option<Member>> {
    match member {
        Err(error) if local.is_some() && is_removal(&error) => {
            tracing::error!(
                "the {role} service does not start: it was removed from the cluster by an administrator; \
                 to let it join again under another id, move {IDENTITY_DIR}/{role} in the data directory away"
            );
            Ok(None)
        }
        member => member.map(Some),
    }
}

fn write_address(path: &Path, address: SocketAddr) -> Result<()> {
    let address = if address.ip().is_unspecified() {
        SocketAddr::new(
            if address.is_ipv6() {
                std::net::Ipv6Addr::LOCALHOST.into()
            } else {
                std::net::Ipv4Addr::LOCALHOST.into()
            },
            address.port(),
        )
    } else {
        address
    };
    let unfinished: PathBuf = path.with_extension("new");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    file.and_then(|mut file| writeln!(file, "{address}"))
        .and_then(|()| std::fs::rename(&unfinished, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
