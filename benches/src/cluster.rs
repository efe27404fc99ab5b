//! The real `teleport`, and a user of its cluster.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use teleport_core::api::{AcceptInvite, AdminApi, CreateUser, LoginRequest, PresenceApi, PublicApi};
use teleport_core::auth::one_time_code;
use teleport_core::cert::{SubjectKeys, TrustBundle};
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{HostRole, OsLogin, RoleName, UserName};
use teleport_core::secret::SecretString;
use teleport_ssh::identity::{HostIdentityHandle, IdentityStore};
use teleport_ssh::keys::{SshKeyPair, TlsKeyPair};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, TcpConnector, UserCredentials};

use crate::process::Server;

/// The login that every session uses: `TELEPORT_BENCH_LOGIN`, or whoever runs the benches.
///
/// Where the shell of that login does much work before it runs a command, this work is measured: `~/.bashrc` is read by bash
/// under any SSH server. Then another login is the better one.
///
/// # Errors
/// When it has no name that can be a login.
pub fn login() -> Result<OsLogin> {
    if let Ok(login) = std::env::var("TELEPORT_BENCH_LOGIN") {
        return Ok(OsLogin::new(&login)?);
    }
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("the own user has no name")?;
    Ok(OsLogin::new(&user.name)?)
}

/// The program: `TELEPORT_BIN`, or the one beside this program.
///
/// # Errors
/// When there is none.
pub fn program() -> Result<PathBuf> {
    let path = match std::env::var_os("TELEPORT_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("teleport"),
    };
    anyhow::ensure!(path.exists(), "{} is not there: cargo build --release -p teleport-bins", path.display());
    Ok(path)
}

/// A secret of the cluster's configuration, for processes that join.
pub(crate) const TOKEN: &str = "bench-0123456789abcdef";

/// A running `teleport` with all roles.
#[derive(Debug)]
#[non_exhaustive]
pub struct Cluster {
    /// The process.
    pub server: Server,
    /// The auth service.
    pub auth: SocketAddr,
    /// The proxy's HTTPS.
    pub web: SocketAddr,
    /// The proxy's SSH.
    pub proxy: SocketAddr,
    /// The node.
    pub node: SocketAddr,
    dir: PathBuf,
}

fn configuration(dir: &Path, roles: &[&str], more: &str, more_auth: &str) -> Result<PathBuf> {
    // No node may have the name of a proxy.
    let name = if roles.contains(&"proxy") { "bench" } else { "bench-node" };
    configuration_at(dir, (name, roles), more, more_auth, 0)
}

/// With this name, and the auth service at this port.
fn configuration_at(
    dir: &Path,
    (name, roles): (&str, &[&str]),
    more: &str,
    more_auth: &str,
    port: u16,
) -> Result<PathBuf> {
    let enabled = |role: &str| if roles.contains(&role) { "yes" } else { "no" };
    // Whoever says where it listens has no tunnel.
    let listens = if more.contains("proxy_server") { "" } else { "  listen_addr: 127.0.0.1:0\n" };
    let path = dir.join("teleport.yaml");
    let text = format!(
        "version: v3\nteleport:\n  nodename: {name}\n  data_dir: {data}\n  log:\n    severity: warn\n{more}\
         auth_service:\n  enabled: {auth}\n  cluster_name: bench\n  listen_addr: 127.0.0.1:{port}\n  tokens: [\"node,proxy:{TOKEN}\"]\n{more_auth}\
         proxy_service:\n  enabled: {proxy}\n  web_listen_addr: 127.0.0.1:0\n  listen_addr: 127.0.0.1:0\n  peer_listen_addr: 127.0.0.1:0\n  local_addresses: yes\n\
         ssh_service:\n  enabled: {node}\n{listens}",
        data = dir.join("data").display(),
        auth = enabled("auth"),
        proxy = enabled("proxy"),
        node = enabled("node"),
    );
    std::fs::write(&path, text)?;
    Ok(path)
}

fn address(line: &str, what: &str) -> Option<SocketAddr> {
    line.strip_prefix("  ")?.strip_prefix(what)?.trim().parse().ok()
}

impl Cluster {
    /// Starts all roles with the data in `dir` and waits until they are ready.
    ///
    /// # Errors
    /// What the program says.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, "")
    }

    /// The same with more lines in the configuration of the auth service.
    ///
    /// # Errors
    /// What the program says.
    pub fn start_with(dir: &Path, auth: &str) -> Result<Self> {
        let config = configuration(dir, &["auth", "proxy", "node"], "", auth)?;
        let mut server = Server::start(Command::new(program()?).arg("start").arg("-c").arg(config))?;
        // Written in this order, at once, when all of them serve.
        let auth = server.wait_for(|line| address(line, "auth "))?;
        let web = server.wait_for(|line| address(line, "proxy "))?;
        let proxy = server.wait_for(|line| address(line, "proxy ssh"))?;
        let node = server.wait_for(|line| address(line, "node ssh"))?;
        Ok(Self { server, auth, web, proxy, node, dir: dir.to_owned() })
    }

    /// The auth service, with the rights of its own host.
    ///
    /// # Errors
    /// When the identity cannot be read.
    pub fn admin(&self) -> Result<AuthClient> {
        self.host(HostRole::Auth)
    }

    /// The auth service, as a host of this cluster calls it.
    fn host(&self, role: HostRole) -> Result<AuthClient> {
        let store = IdentityStore::open(self.dir.join("data/identity").join(role.as_str()))?;
        let material = store.load(role)?.context("the service has an identity")?;
        Ok(self.client(ClientIdentity::Host(HostIdentityHandle::new(material))))
    }

    /// The auth service for `identity`, over a connection of its own.
    pub fn client(&self, identity: ClientIdentity) -> AuthClient {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        AuthClient::builder(Arc::new(TcpConnector::new([self.auth.to_string()])), identity, clock).build()
    }

    /// Starts a node alone that joins this cluster.
    ///
    /// # Errors
    /// What the program says.
    pub async fn join_node(&self, dir: &Path) -> Result<(Server, SocketAddr)> {
        let more = format!("  auth_server: {}\n{}", self.auth, self.joining().await?);
        let config = configuration(dir, &["node"], &more, "")?;
        let mut server = Server::start(Command::new(program()?).arg("start").arg("-c").arg(config))?;
        let address = server.wait_for(|line| address(line, "node ssh"))?;
        Ok((server, address))
    }

    /// Starts a node alone that joins through the proxy and listens nowhere, with this name.
    ///
    /// # Errors
    /// What the program says.
    pub async fn join_tunnelled(&self, dir: &Path, name: &str) -> Result<Server> {
        let more = format!("  proxy_server: {}\n{}", self.web, self.joining().await?);
        let config = configuration_at(dir, (name, &["node"]), &more, "", 0)?;
        let mut server = Server::start(Command::new(program()?).arg("start").arg("-c").arg(config))?;
        server.wait_for(|line| line.starts_with("  node ssh").then_some(()))?;
        Ok(server)
    }

    /// Starts a proxy alone that joins this cluster, with this name. Returns where its SSH is.
    ///
    /// # Errors
    /// What the program says.
    pub async fn join_proxy(&self, dir: &Path, name: &str) -> Result<(Server, SocketAddr)> {
        let more = format!("  auth_server: {}\n{}", self.auth, self.joining().await?);
        let config = configuration_at(dir, (name, &["proxy"]), &more, "", 0)?;
        let mut server = Server::start(Command::new(program()?).arg("start").arg("-c").arg(config))?;
        let address = server.wait_for(|line| address(line, "proxy ssh"))?;
        Ok((server, address))
    }

    /// What a process needs to become a member: lines of its configuration.
    async fn joining(&self) -> Result<String> {
        let pins = self.admin()?.status().await?.ca_pins;
        let pin = pins.first().context("a cluster has a pin")?;
        Ok(format!("  auth_token: {TOKEN}\n  ca_pin: \"{pin}\"\n"))
    }

    /// Makes a user who accepts the invite, over the wire.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn person(&self, name: &str) -> Result<Person> {
        let roles =
            ["access", "editor", "auditor"].map(RoleName::new).into_iter().collect::<Result<_, _>>()?;
        let request = CreateUser { name: UserName::new(name)?, roles, logins: vec![login()?], ttl: None };
        let invite = self.admin()?.create_user(request).await?;
        // As the proxy does for people at its own routes.
        let web = self.host(HostRole::Proxy)?;
        let info = web.invite(invite.token.clone()).await?;
        let password = SecretString::new("correct horse battery staple");
        let person = Person { name: name.to_owned(), password, seed: info.secret };
        // A code is good once; that of the step before is still good.
        let code = person.code(SystemClock::new().now().saturating_sub(Duration::from_secs(30)))?;
        let password = person.password.clone();
        web.accept_invite(AcceptInvite { token: invite.token, password, code, client_ip: None }).await?;
        Ok(person)
    }

    /// Makes a user who accepts the invite and logs in, all over the wire.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn user(&self) -> Result<BenchUser> {
        let (admin, web) = (self.admin()?, self.host(HostRole::Proxy)?);
        let entropy = SystemEntropy::new();
        let person = self.person("alice").await?;
        let (ssh, tls) = (SshKeyPair::generate(&entropy)?, TlsKeyPair::generate(&entropy)?);
        let keys = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
        let request = LoginRequest {
            code: person.code(SystemClock::new().now())?,
            user: person.name,
            password: person.password,
            keys: keys.clone(),
            ttl: None,
            client_ip: None,
        };
        let answer = web.login(request).await?;
        // Until the proxy has heard of the node, nobody gets there.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while admin.nodes().await?.is_empty() {
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "the node does not announce itself");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(BenchUser {
            certificate: answer.certificates.ssh,
            ssh,
            keys,
            trust: answer.trust.clone(),
            credentials: UserCredentials { tls, certificate: answer.certificates.tls, trust: answer.trust },
        })
    }
}

/// A running auth service alone, for what calls it over the network.
#[derive(Debug)]
#[non_exhaustive]
pub struct AuthOnly {
    /// The process.
    pub server: Server,
    /// Where it listens.
    pub auth: SocketAddr,
    dir: PathBuf,
}

impl AuthOnly {
    /// Starts it with the data in `dir`, and the state at `storage`: lines of the section `teleport` of its configuration.
    ///
    /// # Errors
    /// What the program says.
    pub fn start(dir: &Path, storage: &str) -> Result<Self> {
        Self::start_named(dir, "bench-node", storage)
    }

    fn start_named(dir: &Path, name: &str, storage: &str) -> Result<Self> {
        // A port that stays the same when it starts again.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        configuration_at(dir, (name, &["auth"]), storage, "", port)?;
        let (server, auth) = Self::serve(dir)?;
        Ok(Self { server, auth, dir: dir.to_owned() })
    }

    /// Starts another auth service of the same cluster, at the same `storage`, with this name.
    ///
    /// # Errors
    /// What the program says.
    pub fn start_another(&self, dir: &Path, name: &str, storage: &str) -> Result<Self> {
        let data = dir.join("data");
        std::fs::create_dir(&data)?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
        std::fs::copy(self.dir.join("data/master.key"), data.join("master.key"))?;
        Self::start_named(dir, name, storage)
    }

    /// Starts a proxy alone, with its HTTPS at this port, that joins this cluster, or is a member by what is in `dir`.
    ///
    /// # Errors
    /// What the program says.
    pub async fn start_proxy(&self, dir: &Path, web: u16) -> Result<Server> {
        let pins = self.admin()?.status().await?.ca_pins;
        let pin = pins.first().context("a cluster has a pin")?;
        let more = format!("  auth_server: {}\n  auth_token: {TOKEN}\n  ca_pin: \"{pin}\"\n", self.auth);
        let config = configuration(dir, &["proxy"], &more, "")?;
        let text = std::fs::read_to_string(&config)?;
        let at = format!("web_listen_addr: 127.0.0.1:{web}");
        std::fs::write(&config, text.replace("web_listen_addr: 127.0.0.1:0", &at))?;
        let mut server = Server::start(Command::new(program()?).arg("start").arg("-c").arg(config))?;
        server.wait_for(|line| address(line, "proxy ssh"))?;
        Ok(server)
    }

    fn serve(dir: &Path) -> Result<(Server, SocketAddr)> {
        let config = dir.join("teleport.yaml");
        let mut server = Server::start(Command::new(program()?).arg("start").arg("-c").arg(config))?;
        let auth = server.wait_for(|line| address(line, "auth "))?;
        Ok((server, auth))
    }

    /// Ends it, as an administrator does, and starts it again with the same data at the same port.
    ///
    /// # Errors
    /// What the program says.
    pub fn restart(self) -> Result<Self> {
        let Self { server, dir, .. } = self;
        drop(server);
        let (server, auth) = Self::serve(&dir)?;
        Ok(Self { server, auth, dir })
    }

    /// The auth service, with the rights of its own host.
    ///
    /// # Errors
    /// When the identity cannot be read.
    pub fn admin(&self) -> Result<AuthClient> {
        let store = IdentityStore::open(self.dir.join("data/identity").join(HostRole::Auth.as_str()))?;
        let material = store.load(HostRole::Auth)?.context("the service has an identity")?;
        let identity = ClientIdentity::Host(HostIdentityHandle::new(material));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let connector = TcpConnector::new([self.auth.to_string()]);
        Ok(AuthClient::builder(Arc::new(connector), identity, clock).build())
    }
}

/// A user who has accepted an invite.
#[derive(Debug)]
#[non_exhaustive]
pub struct Person {
    /// The name.
    pub name: String,
    /// The password.
    pub password: SecretString,
    /// Of the second factor.
    pub seed: SecretString,
}

impl Person {
    /// The one-time code at this time.
    ///
    /// # Errors
    /// When the second factor cannot be used.
    pub fn code(&self, at: Timestamp) -> Result<SecretString> {
        one_time_code(&self.seed, at).context("the second factor cannot be used")
    }
}

/// A user who is logged in.
#[derive(Debug)]
#[non_exhaustive]
pub struct BenchUser {
    /// One line.
    pub certificate: String,
    /// The key of the certificate.
    pub ssh: SshKeyPair,
    /// The public halves.
    pub keys: SubjectKeys,
    /// Whom the user trusts.
    pub trust: TrustBundle,
    /// For the API.
    pub credentials: UserCredentials,
}

impl BenchUser {
    /// Writes the key and its certificate where `ssh -i` finds both.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("id");
        std::fs::write(&path, self.ssh.to_openssh().expose())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        std::fs::write(dir.join("id-cert.pub"), format!("{}\n", self.certificate))?;
        Ok(path)
    }
}
