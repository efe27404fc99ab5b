//! `teleport join openssh`: a stock `sshd` becomes a node.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use teleport_core::api::{IdentityApi, PresenceApi, RenewRequest};
use teleport_core::cert::CaPin;
use teleport_core::id::{HostRole, NodeName};
use teleport_core::label::Labels;
use teleport_core::resource::{NodeKind, NodeRecord};
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial, HostName, IdentityStore};
use teleport_ssh::join::{JoinOptions, join_with_keys};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, ProxyConnector};

use crate::config::{host_name, read_secret, with_port, without_port};
use crate::daemon::{Os, prepare_data_dir};
use crate::openssh::{Alone, Place, Reloaded};

/// What joins.
#[derive(Debug, Subcommand)]
pub(super) enum Join {
    /// Make the sshd of this machine a node: its users come through the proxy, which asks the roles and records
    ///
    /// Run it again, in time, to renew the host certificate, such as every day by cron: it remembers what it was told.
    #[command(name = "openssh")]
    OpenSsh(OpenSsh),
}

/// How the host proves that it may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// By a join token
    Token,
}

/// What may be said about an `sshd`.
#[derive(Debug, Args)]
pub(super) struct OpenSsh {
    /// The proxy, or the auth service; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    proxy_server: Vec<String>,
    /// Join token for the role node, or an absolute path to a file that holds it; not needed again
    #[arg(long, env = "TELEPORT_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How the host proves that it may join
    #[arg(long, value_enum, default_value = "token")]
    join_method: Method,
    /// How the cluster is recognised; repeatable
    #[arg(long = "ca-pin", value_name = "sha256:HEX")]
    ca_pins: Vec<CaPin>,
    /// Refuse to join without a pin
    #[arg(long)]
    require_ca_pin: bool,
    /// Where the proxy reaches this sshd [default: the name of this host, port 22]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Name of the node in lists [default: the name of this host]
    #[arg(long, value_name = "NAME")]
    nodename: Option<NodeName>,
    /// Labels of the node: key=value,key=value
    #[arg(long)]
    labels: Option<Labels>,
    /// The configuration of sshd [default: /etc/ssh/sshd_config]
    #[arg(long, value_name = "FILE")]
    openssh_config: Option<PathBuf>,
    /// Where the identity is kept, and what sshd reads of it
    #[arg(long, value_name = "DIR", default_value = "/var/lib/teleport/openssh")]
    data_dir: PathBuf,
    /// Have sshd read its configuration anew; sessions that run go on [default]
    #[arg(long, overrides_with = "no_restart")]
    restart_sshd: bool,
    /// Leave it to somebody else to have sshd read its configuration anew
    #[arg(long)]
    no_restart: bool,
    /// Take everything out of the configuration of sshd again
    #[arg(long, conflicts_with_all = ["token", "address", "labels", "nodename", "ca_pins", "require_ca_pin"])]
    uninstall: bool,
}

/// What was said about an `sshd` and counts again when it is not said.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    proxy_server: Vec<String>,
    address: String,
    labels: Labels,
    openssh_config: PathBuf,
}

impl Said {
    fn load(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let said = serde_json::from_slice(&text);
        said.map(Some)
            .with_context(|| format!("{} is damaged: remove it and say everything again", path.display()))
    }
}

pub(super) fn run(Join::OpenSsh(options): Join) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(options.run(&Os::default()))?;
    Ok(ExitCode::SUCCESS)
}

fn api(said: &Said, material: HostMaterial, os: &Os) -> AuthClient {
    let connector = ProxyConnector::new(said.proxy_server.iter().cloned(), material.cluster.clone());
    let identity = ClientIdentity::Host(HostIdentityHandle::new(material));
    AuthClient::builder(Arc::new(connector), identity, Arc::clone(&os.clock)).build()
}

impl OpenSsh {
    async fn run(self, os: &Os) -> Result<()> {
        // sshd reads as root, and believes what stands there.
        prepare_data_dir(&self.data_dir)?;
        let dir = std::fs::canonicalize(&self.data_dir)
            .with_context(|| format!("cannot use {}", self.data_dir.display()))?;
        // Of two at a time one would take back what the other has done, or go by what it has not remembered yet.
        let mut alone = Alone::in_directory(&dir)?;
        let store = IdentityStore::open(dir.join("identity"))?;
        let remembered = Place { config: PathBuf::new(), dir: dir.clone() }.registration();
        let said = self.said(Said::load(&remembered)?);
        let place = Place { config: said.openssh_config.clone(), dir };
        alone.also_beside(&place.config)?;
        if self.uninstall {
            return self.uninstall(&place, &store, os);
        }
        if said.proxy_server.is_empty() {
            bail!("say how the cluster is reached: --proxy-server=<host>:3080");
        }
        for warning in place.check()? {
            eprintln!("WARNING: {}", super::sanitize(&warning));
        }
        let (material, renewed) = self.identity(&said, &store, os).await?;
        // What does not come about is not remembered.
        place.install(&material, &serde_json::to_vec_pretty(&said)?)?;
        self.reload(&place)?;
        // Last: nobody is led to a server that does not know of it.
        let record = NodeRecord {
            host_id: material.host_id,
            sub_kind: NodeKind::OpenSsh,
            name: material.name.clone(),
            address: said.address.clone(),
            labels: said.labels.clone(),
            proxy_ids: Vec::new(),
            version: String::new(),
        };
        let until = material.valid_before;
        let (id, name) = (material.host_id, material.name.clone());
        api(&said, material, os).announce_node(record).await.context("the node could not be registered")?;
        println!(
            "{} {name} ({id}) at {}; its host certificate is good until {until}",
            if renewed { "Renewed" } else { "Registered" },
            said.address
        );
        if !renewed {
            println!(
                "Run `teleport join openssh` again before then, every day by cron or a timer; it remembers the rest."
            );
        }
        Ok(())
    }

    fn name(&self) -> NodeName {
        self.nodename.clone().unwrap_or_else(host_name)
    }

    /// What counts now: what is said, else what was said before, else the defaults.
    fn said(&self, before: Option<Said>) -> Said {
        let before = before.unwrap_or_else(|| Said {
            proxy_server: Vec::new(),
            address: with_port(host_name().as_str(), 22),
            labels: Labels::default(),
            openssh_config: "/etc/ssh/sshd_config".into(),
        });
        let servers: Vec<String> = self.proxy_server.iter().map(|text| with_port(text, 3080)).collect();
        Said {
            proxy_server: if servers.is_empty() { before.proxy_server } else { servers },
            address: self.address.as_ref().map_or(before.address, |text| with_port(text, 22)),
            labels: self.labels.clone().unwrap_or(before.labels),
            openssh_config: match &self.openssh_config {
                Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
                None => before.openssh_config,
            },
        }
    }

    /// Newer certificates, for a host that is a member, or those of a new one; and whether it was a member.
    async fn identity(&self, said: &Said, store: &IdentityStore, os: &Os) -> Result<(HostMaterial, bool)> {
        let Method::Token = self.join_method;
        let role = HostRole::Node;
        let known = store.load(role)?;
        let addresses = vec![without_port(&said.address).to_owned()];
        if let Some(known) = &known
            && os.clock.now() < known.valid_before
        {
            if self.nodename.as_ref().is_some_and(|name| *name != known.name) {
                bail!(
                    "this sshd is the node {} already; --uninstall it first to call it otherwise",
                    known.name
                );
            }
            let request = RenewRequest { keys: known.public_keys(), addresses };
            let renewed = api(said, known.clone(), os).renew_host(request).await;
            let renewed = renewed.context("the host certificate could not be renewed")?;
            let keys = (known.ssh.clone(), known.tls.clone());
            let material = HostMaterial::from_credentials(known.host(), keys, renewed)?;
            store.save(&material)?;
            return Ok((material, true));
        }
        let Some(token) = &self.token else {
            let why =
                if known.is_some() { "its certificates have expired" } else { "it is not a member yet" };
            bail!(
                "this sshd cannot join: {why}, and there is no --token. Run `tctl tokens add --type=node` on the auth server"
            );
        };
        let host = HostName { host_id: store.host_id(&*os.entropy)?, name: self.name(), role };
        let options = JoinOptions {
            servers: said.proxy_server.clone(),
            token: read_secret(token)?,
            pins: self.ca_pins.clone(),
            require_pin: self.require_ca_pin,
            known: known.map(|known| known.trust),
            host_id: host.host_id,
            name: host.name,
            role,
            addresses,
        };
        let keys = store.keys(&*os.entropy)?;
        let material =
            join_with_keys(options, keys, Arc::clone(&os.clock)).await.context("this sshd could not join")?;
        store.save(&material)?;
        Ok((material, false))
    }

    fn reload(&self, place: &Place) -> Result<()> {
        if self.no_restart {
            println!("sshd has to read its configuration anew: `systemctl reload ssh`");
            return Ok(());
        }
        if place.reload()? == Reloaded::NotRunning {
            println!("sshd does not seem to run; it reads its new configuration when it starts");
        }
        Ok(())
    }

    fn uninstall(&self, place: &Place, store: &IdentityStore, os: &Os) -> Result<()> {
        place.uninstall()?;
        self.reload(place)?;
        let id = store.host_id(&*os.entropy)?;
        println!("sshd is as it was. Take the node out of the cluster with `tctl nodes rm {id}`");
        println!("Its identity is still in {}; remove that to join under another id", place.dir.display());
        Ok(())
    }
}
