//! `tsh ssh` and `tsh proxy ssh`.

use std::process::ExitCode;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use clap::{Args, Subcommand};
use teleport_core::api::{NodeEvent, PresenceApi};
use teleport_core::id::{ClusterName, OsLogin};
use teleport_core::resource::Node;
use teleport_core::target::{DialTarget, TargetHost};
use teleport_ssh::client::{ConnectError, Profile};
use teleport_ssh::proxy::NodeTable;
use teleport_ssh::proxy::route::{candidates_table, find};
use tokio::io::{AsyncWriteExt, copy};

use super::super::sanitize;
use super::common::Context;
use super::session::{self, WantTerminal};

#[derive(Debug, Args)]
pub(super) struct Ssh {
    /// Login on the node, unless it is written before the host
    #[arg(short, long)]
    login: Option<OsLogin>,
    /// Port of the node's SSH server [default: the one it announces]
    #[arg(short, long)]
    port: Option<u16>,
    /// Always with a terminal
    #[arg(short = 't', long, conflicts_with = "no_tty")]
    tty: bool,
    /// Never with a terminal
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// The node: name, id or address, or labels as key=value; with login@ before it
    #[arg(value_name = "[LOGIN@]NODE")]
    target: String,
    /// What to run there instead of a shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ProxyCommand {
    /// Connect standard input and output with a node's SSH server: for ProxyCommand
    Ssh {
        /// The node: [login@]host[:port]
        target: String,
    },
}

/// Splits `login@host`.
fn split_login(text: &str) -> Result<(Option<OsLogin>, &str)> {
    match text.split_once('@') {
        Some((login, host)) => Ok((Some(login.parse().context("the login before the @")?), host)),
        None => Ok((None, text)),
    }
}

/// The login that is meant when none is said: the own name if it is allowed, else the only one.
fn default_login(profile: &Profile) -> Result<OsLogin> {
    let own = std::env::var("USER").ok().and_then(|name| OsLogin::new(&name).ok());
    match (own, profile.logins.as_slice()) {
        (Some(own), logins) if logins.contains(&own) => Ok(own),
        (_, [only]) => Ok(only.clone()),
        (_, []) => bail!("your roles allow no login on any node; ask an administrator for one"),
        (_, logins) => {
            let names: Vec<&str> = logins.iter().map(OsLogin::as_str).collect();
            bail!("as whom? say <login>@<node>; your logins are {}", names.join(", "))
        }
    }
}

pub(super) async fn run(context: &Context, ssh: Ssh) -> Result<ExitCode> {
    let profile = context.profile()?;
    let (before, host) = split_login(&ssh.target)?;
    let login = match before.or(ssh.login) {
        Some(login) => login,
        None => default_login(&profile)?,
    };
    let target = target(context, &profile, host, ssh.port).await?;
    let client = context.ssh(&profile);
    let proxy = client.proxy(&profile.ssh_address).await?;
    let node = match client.node(proxy, &target, &login).await {
        Err(error) if !profile.logins.contains(&login) => {
            let logins: Vec<&str> = profile.logins.iter().map(OsLogin::as_str).collect();
            let why = format!("{login} is not one of your logins ({})", logins.join(", "));
            return Err(refused(context, &profile, &target, error).await).context(why);
        }
        Err(error) => return Err(refused(context, &profile, &target, error).await),
        Ok(node) => node,
    };
    let want = match (ssh.tty, ssh.no_tty) {
        (true, _) => WantTerminal::Yes,
        (_, true) => WantTerminal::Never,
        _ => WantTerminal::Auto,
    };
    let command = (!ssh.command.is_empty()).then(|| ssh.command.join(" "));
    let code = session::run(&node, command, want).await?;
    node.disconnect().await;
    Ok(ExitCode::from(code))
}

/// The target; labels are looked up, since a certificate must name who is dialled.
async fn target(context: &Context, profile: &Profile, host: &str, port: Option<u16>) -> Result<DialTarget> {
    let text = match port {
        Some(port) => crate::config::with_port(host, port),
        None => host.to_owned(),
    };
    let mut target: DialTarget = text.parse()?;
    let suffix = format!(".{}", profile.cluster());
    if let TargetHost::Name(name) = &target.host
        && let Some(short) = name.as_str().strip_suffix(&suffix)
    {
        target = with_host(&text, name.as_str(), short)?;
    }
    if let TargetHost::Labels(labels) = &target.host {
        let mut nodes = context.api(profile).nodes().await?;
        nodes.retain(|node| node.record.labels.contains(labels) && node.is_online(context.clock.now()));
        match nodes.as_slice() {
            [node] => target.host = TargetHost::Id(node.record.host_id),
            [] => bail!("no node that you may reach has the labels {labels}; `tsh ls` lists them"),
            several => return Err(ambiguous(&labels.to_string(), several.iter(), profile.cluster())),
        }
    }
    Ok(target)
}

/// The same target with a shorter host name.
fn with_host(text: &str, name: &str, short: &str) -> Result<DialTarget> {
    Ok(text.replacen(name, short, 1).parse()?)
}

/// Says which nodes there are to choose from: as a table, before the one line of the error.
fn ambiguous<'n>(what: &str, nodes: impl ExactSizeIterator<Item = &'n Node>, cluster: &ClusterName) -> Error {
    let count = nodes.len();
    eprintln!("{}", candidates_table(nodes).lines().map(sanitize).collect::<Vec<_>>().join("\n"));
    anyhow!(
        "{what} is ambiguous, it may be any of these {count} nodes: say the id of one, as in tsh ssh <login>@<id>, or \
         <id>.{cluster} for ssh"
    )
}

/// After the proxy has refused a target: whether that was because several nodes are meant. Asks for the nodes only then.
async fn refused(context: &Context, profile: &Profile, target: &DialTarget, error: ConnectError) -> Error {
    if matches!(error, ConnectError::Refused { .. })
        && !matches!(target.host, TargetHost::Id(_))
        && let Ok(nodes) = context.api(profile).nodes().await
    {
        let now = context.clock.now();
        let mut table = NodeTable::new();
        table.apply(NodeEvent::Snapshot(nodes));
        let mut found = find(&target.host, &table, profile.cluster());
        found.retain(|node| node.is_online(now));
        if found.len() > 1 {
            found.sort_by_key(|node| node.record.host_id);
            return ambiguous(&target.to_string(), found.iter().map(|node| &**node), profile.cluster());
        }
    }
    error.into()
}

pub(super) async fn proxy(context: &Context, command: ProxyCommand) -> Result<ExitCode> {
    let ProxyCommand::Ssh { target: text } = command;
    let profile = context.profile()?;
    let (_, host) = split_login(&text)?;
    let target = target(context, &profile, host, None).await?;
    let proxy = context.ssh(&profile).proxy(&profile.ssh_address).await?;
    let stream = match proxy.open(&target).await {
        Ok(stream) => stream,
        Err(error) => return Err(refused(context, &profile, &target, error).await),
    };
    let (mut from_node, mut to_node) = tokio::io::split(stream);
    let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let send = async {
        let _ = copy(&mut stdin, &mut to_node).await;
        let _ = to_node.shutdown().await;
        // The node ends the connection.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        received = copy(&mut from_node, &mut stdout) => {
            received?;
            stdout.flush().await?;
        }
        () = send => {}
    }
    Ok(ExitCode::SUCCESS)
}
