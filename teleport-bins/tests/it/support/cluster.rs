//! A cluster in this process: auth and proxy in one daemon, nodes that join it with token and CA pin, users who accepted an invite
//! and logged in. Everything over the real protocols, on ports of loopback that the system chooses.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use teleport_bins::config::{NodeSettings, Settings};
use teleport_bins::daemon::{Daemon, Os};
use teleport_core::api::{AcceptInvite, AuthApi, CreateToken, CreateUser};
use teleport_core::audit::{AuditEvent, AuditQuery, EventKind};
use teleport_core::id::{HostRole, NodeName, RoleName, UserName};
use teleport_core::label::Labels;
use teleport_core::secret::SecretString;
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{LoginInput, ProfileStore, login};
use teleport_ssh::proxy_web::{WebClient, WebTrust};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::program::{own, run};
use super::user::App;
use super::{LIMIT, own_login, wait_for};

pub(crate) const CLUSTER: &str = "test.local";

/// One runtime for all clusters of this process.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());

/// A cluster. It ends with the value.
pub(crate) struct TestCluster {
    pub(crate) os: Os,
    daemon: Option<Daemon>,
    nodes: Mutex<Vec<Daemon>>,
    dir: TempDir,
}

/// A user who is logged in: a home of `tsh`, and a configuration for stock OpenSSH.
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
    pub(crate) ssh_config: PathBuf,
}

impl TestCluster {
    /// Auth and proxy.
    pub(crate) fn start() -> Self {
        Self::start_with(Os::default())
    }

    /// Auth and proxy, with another clock or other randomness.
    pub(crate) fn start_with(os: Os) -> Self {
        Self::start_as(os, |_| ())
    }

    /// Auth and proxy, with something to change about their settings.
    pub(crate) fn start_as(os: Os, change: impl FnOnce(&mut Settings)) -> Self {
        let dir = TempDir::with_prefix("tp-").unwrap();
        let mut settings = Settings::cluster_on_loopback(
            &dir.path().join("cluster"),
            NodeName::new("proxy").unwrap(),
            CLUSTER.parse().unwrap(),
        );
        change(&mut settings);
        let daemon = Self::block_on(Daemon::start(settings, os.clone())).unwrap();
        Self { os, daemon: Some(daemon), nodes: Mutex::default(), dir }
    }

    /// Auth, proxy and the node `node` with the label `env=test`.
    pub(crate) fn with_node() -> Self {
        let cluster = Self::start();
        cluster.add_node("node", "env=test");
        cluster
    }

    /// Drives a future of the product's libraries.
    pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
        RUNTIME.block_on(future)
    }

    /// Stops auth and proxy as an operator does: sessions go on. Says whether all of them ended by themselves.
    pub(crate) fn drain(mut self) -> bool {
        let daemon = self.daemon.take().unwrap();
        Self::block_on(daemon.stop(LIMIT, std::future::pending()))
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The proxy's HTTPS.
    pub(crate) fn web(&self) -> SocketAddr {
        self.daemon().proxy_web.unwrap()
    }

    /// The proxy's SSH.
    pub(crate) fn ssh(&self) -> SocketAddr {
        self.daemon().proxy_ssh.unwrap()
    }

    /// The auth service.
    pub(crate) fn auth(&self) -> SocketAddr {
        self.daemon().auth.unwrap()
    }

    /// The auth service with every right.
    pub(crate) fn admin(&self) -> Arc<dyn AuthApi> {
        self.daemon().admin().unwrap()
    }

    /// How the cluster is recognised.
    pub(crate) fn pin(&self) -> String {
        self.daemon().ca_pins[0].to_string()
    }

    /// A token for one node.
    async fn node_token(&self) -> SecretString {
        let token = CreateToken {
            roles: vec![HostRole::Node],
            ttl: None,
            uses: Some(1),
            labels: Labels::default(),
            value: None,
        };
        self.admin().create_token(token).await.unwrap().token
    }

    /// Lets a node join and waits until the cluster lists it. Returns where it listens.
    pub(crate) fn add_node(&self, name: &str, labels: &str) -> SocketAddr {
        self.add_node_as(name, labels, |_| ())
    }

    /// The same, with something to change about its settings.
    pub(crate) fn add_node_as(
        &self,
        name: &str,
        labels: &str,
        change: impl FnOnce(&mut NodeSettings),
    ) -> SocketAddr {
        let node = Self::block_on(self.node_daemon(name, labels, self.os.clone(), change)).unwrap();
        let (address, id) = (node.node.unwrap(), node.node_id.unwrap());
        self.nodes.lock().unwrap().push(node);
        wait_for("the node in the list", || {
            let nodes = Self::block_on(self.admin().nodes()).unwrap();
            nodes.iter().any(|node| node.record.host_id == id).then_some(())
        });
        address
    }

    async fn node_daemon(
        &self,
        name: &str,
        labels: &str,
        os: Os,
        change: impl FnOnce(&mut NodeSettings),
    ) -> anyhow::Result<Daemon> {
        // Several nodes may have one name.
        let dirs = std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}-{number}")));
        let dir = dirs.map(|dir| self.dir().join(dir)).find(|dir| !dir.exists()).unwrap();
        let mut settings = Settings::node_on_loopback(
            &dir,
            NodeName::new(name).unwrap(),
            labels.parse().unwrap(),
            self.auth(),
            self.node_token().await,
            self.daemon().ca_pins.clone(),
        );
        // This process is none of the product's programs.
        let node = settings.node.as_mut().unwrap();
        node.program = env!("CARGO_BIN_EXE_teleport").into();
        change(node);
        Daemon::start(settings, os).await
    }

    /// Lets a node join whose machine is not as it should be; says what it says.
    pub(crate) fn try_node(&self, name: &str, os: Os) -> Result<(), String> {
        let started = Self::block_on(self.node_daemon(name, "", os, |_| ()));
        started.map(drop).map_err(|error| format!("{error:#}"))
    }

    /// The same with other settings.
    pub(crate) fn try_node_as(
        &self,
        name: &str,
        change: impl FnOnce(&mut NodeSettings),
    ) -> Result<(), String> {
        let started = Self::block_on(self.node_daemon(name, "", self.os.clone(), change));
        started.map(drop).map_err(|error| format!("{error:#}"))
    }

    /// A user with these roles and logins who has accepted the invite and logged in.
    pub(crate) fn user(&self, name: &str, roles: &[&str], logins: &[&str]) -> Home {
        self.user_for(name, roles, logins, None)
    }

    /// The same, logged in for so long.
    pub(crate) fn user_for(&self, name: &str, roles: &[&str], logins: &[&str], ttl: Option<u64>) -> Home {
        let (password, mut app) = self.invited(name, roles, logins);
        let input = LoginInput { user: name.to_owned(), password, code: SecretString::new(app.code()), ttl };
        let proxy = ProxyAddress::parse(&self.web().to_string()).unwrap();
        let os = &self.os;
        let profile =
            Self::block_on(login(&self.web_client(), proxy, input, &*os.clock, &*os.entropy)).unwrap();
        let dir = self.dir().join(format!("home-{name}"));
        ProfileStore::at(&dir).save(&profile).unwrap();
        let ssh_config = dir.join("ssh_config");
        let home = Home { dir, ssh_config };
        let mut config = home.tsh();
        config.arg("config");
        std::fs::write(&home.ssh_config, run(config).clean()).unwrap();
        home
    }

    /// A user who has accepted the invite: the password, and the app with the codes.
    pub(crate) fn invited(&self, name: &str, roles: &[&str], logins: &[&str]) -> (SecretString, App) {
        let request = CreateUser {
            name: UserName::new(name).unwrap(),
            roles: roles.iter().map(|role| RoleName::new(role).unwrap()).collect(),
            logins: logins.iter().map(|login| login.parse().unwrap()).collect(),
            ttl: None,
        };
        let web = self.web_client();
        let password = SecretString::new(format!("correct horse {name}"));
        Self::block_on(async {
            let invite = self.admin().create_user(request).await.unwrap();
            let info = web.invite(invite.token.clone()).await.unwrap();
            let mut app = App::new(info.secret.expose());
            let code = SecretString::new(app.code());
            let accept =
                AcceptInvite { token: invite.token, password: password.clone(), code, client_ip: None };
            web.accept(&accept).await.unwrap();
            (password, app)
        })
    }

    /// Somebody who may do everything here, with the login of whoever runs the tests.
    pub(crate) fn alice(&self) -> Home {
        self.user("alice", &["access", "auditor", "editor"], &[&own_login()])
    }

    fn web_client(&self) -> WebClient {
        let trust = WebTrust::pins(self.daemon().ca_pins.clone());
        WebClient::new(self.web().to_string(), trust, Arc::clone(&self.os.clock))
    }

    /// The events so far that this is true of, oldest first.
    pub(crate) fn events(&self, is: impl Fn(&AuditEvent) -> bool) -> Vec<AuditEvent> {
        let query = AuditQuery { limit: 10_000, ..AuditQuery::default() };
        let page = Self::block_on(self.admin().search_events(query)).unwrap();
        page.events.into_iter().filter(is).collect()
    }

    /// Waits for an event.
    pub(crate) fn event(&self, kind: EventKind, is: impl Fn(&AuditEvent) -> bool) -> AuditEvent {
        wait_for(&format!("the event {kind}"), || {
            self.events(|event| event.code == kind && is(event)).into_iter().next()
        })
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        let grace = Duration::from_millis(50);
        let nodes = std::mem::take(&mut *self.nodes.lock().unwrap());
        let daemon = self.daemon.take();
        Self::block_on(async {
            for daemon in nodes.into_iter().chain(daemon) {
                daemon.stop(grace, std::future::pending()).await;
            }
        });
    }
}

impl Home {
    /// `tsh` as this user.
    pub(crate) fn tsh(&self) -> Command {
        let mut command = own("tsh");
        command.env("TELEPORT_HOME", &self.dir);
        command
    }

    /// Stock `ssh` with what `tsh config` prints; nothing may be asked.
    pub(crate) fn ssh(&self) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(&self.ssh_config).env_remove("SSH_AUTH_SOCK");
        command
    }
}
