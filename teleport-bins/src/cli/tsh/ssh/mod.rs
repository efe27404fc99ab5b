//! `tsh ssh` and `tsh proxy ssh`.

mod display;
mod forwards;
mod many;
mod options;
pub(super) mod target;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{ArgAction, Args, Subcommand};
use teleport_core::id::{ClusterName, OsLogin};
use teleport_core::target::DialTarget;
use teleport_ssh::client::agent::Identities;
use teleport_ssh::client::forward::{BoundForward, ForwardedAgent, ListenOptions};
use teleport_ssh::client::terminal::Ending;
use teleport_ssh::client::{ConnectError, NodeConnection, Profile, SessionRequest};
use tokio::io::{AsyncWriteExt, copy};

use self::forwards::Forwards;
use self::options::{ForwardAgent, Options, Way};
use self::target::{Found, refused};
use super::agent::Logins;
use super::background::{self, Background};
use super::common::{Context, Resume};
use super::session::{self, Show, WantTerminal};

/// What `ssh` returns when it could not reach the host.
const NOT_REACHED: u8 = 255;
/// Signs of life that may be missed, if a time between them is said but not their number.
const ALIVE_COUNT: u32 = 3;

#[derive(Debug, Args)]
pub(super) struct Ssh {
    /// Login on the node, unless it is written before the host
    #[arg(short, long)]
    login: Option<OsLogin>,
    /// Port of the node's SSH server [default: the one it announces]
    #[arg(short, long)]
    port: Option<u16>,
    /// Always with a terminal
    #[arg(short = 't', long, conflicts_with = "no_tty", action = ArgAction::Count)]
    tty: u8,
    /// Never with a terminal
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// Listen here and connect from the node: [bind:]port:host:hostport; a /path stands for a unix socket
    #[arg(short = 'L', value_name = "FORWARD", value_parser = Way::local)]
    local: Vec<Way>,
    /// Listen on the node and connect from here: [bind:]port:host:hostport; [bind:]port alone is a SOCKS proxy there
    #[arg(short = 'R', value_name = "FORWARD", value_parser = Way::remote)]
    remote: Vec<Way>,
    /// Be a SOCKS proxy here that connects from the node: [bind:]port
    #[arg(short = 'D', value_name = "[BIND:]PORT", value_parser = Way::dynamic)]
    dynamic: Vec<Way>,
    /// Others than this machine may use the ports of -L and -D that name no address
    #[arg(short = 'g')]
    gateway: bool,
    /// Run nothing: only forward
    #[arg(short = 'N')]
    no_session: bool,
    /// Go to the background once logged in and forwarding
    #[arg(short = 'f')]
    background: bool,
    /// Read nothing
    #[arg(short = 'n')]
    no_stdin: bool,
    /// Programs on the node may ask your agent, or your certificates if none runs
    #[arg(short = 'A', overrides_with = "no_agent")]
    agent: bool,
    /// Programs on the node may not ask your agent
    #[arg(short = 'a')]
    no_agent: bool,
    /// Programs on the node may show windows here, kept apart from your own; for ten minutes from now they may open them
    #[arg(short = 'X', overrides_with_all = ["x11_trusted", "no_x11"])]
    x11: bool,
    /// Programs on the node may show windows here, and do what your own may
    #[arg(short = 'Y', overrides_with_all = ["x11", "no_x11"])]
    x11_trusted: bool,
    /// Programs on the node may show no windows here
    #[arg(short = 'x', overrides_with_all = ["x11", "x11_trusted"])]
    no_x11: bool,
    /// No warnings
    #[arg(short, long)]
    quiet: bool,
    /// The key that begins what is for tsh, at the beginning of a line; ~? shows what there is. none for none
    #[arg(short, long, value_name = "KEY")]
    escape: Option<String>,
    /// An option as in ssh_config: those that mean something here
    #[arg(short, value_name = "KEY=VALUE")]
    option: Vec<String>,
    /// The cluster of the node
    #[arg(short, long, env = "TELEPORT_CLUSTER")]
    cluster: Option<ClusterName>,
    #[command(flatten)]
    resume: Resume,
    /// On how many nodes at a time, if labels mean several
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    /// The node: name, id or address, or labels as key=value,key=value; with login@ before it
    #[arg(value_name = "[LOGIN@]NODE")]
    target: String,
    /// What to run there instead of a shell; on all nodes that have the labels
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ProxyCommand {
    /// Connect standard input and output with a node's SSH server: for ProxyCommand
    Ssh {
        /// The cluster of the node
        #[arg(short, long, env = "TELEPORT_CLUSTER")]
        cluster: Option<ClusterName>,
        #[command(flatten)]
        resume: Resume,
        /// The node: [login@]host[:port]
        target: String,
    },
}

/// Splits `login@host`.
pub(super) fn split_login(text: &str) -> Result<(Option<OsLogin>, &str)> {
    match text.split_once('@') {
        Some((login, host)) => Ok((Some(login.parse().context("the login before the @")?), host)),
        None => Ok((None, text)),
    }
}

/// The login that is meant when none is said: the own name if it is allowed, else the only one.
pub(super) fn default_login(profile: &Profile) -> Result<OsLogin> {
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

impl Ssh {
    /// The command line first, then `-o` in its order.
    fn options(&self) -> Result<Options> {
        let terminal = match (self.tty, self.no_tty) {
            (0, true) => Some(WantTerminal::Never),
            (0, false) => None,
            _ => Some(WantTerminal::Yes),
        };
        let set = |flag: bool| flag.then_some(true);
        let mut options = Options {
            background: set(self.background),
            command: (!self.command.is_empty()).then(|| self.command.join(" ")),
            escape: self.escape.as_deref().map(options::escape).transpose().context("--escape")?,
            agent: match (self.agent, self.no_agent) {
                (true, _) => Some(ForwardAgent::Yes),
                (_, true) => Some(ForwardAgent::No),
                _ => None,
            },
            forwards: [&self.local, &self.remote, &self.dynamic].into_iter().flatten().cloned().collect(),
            gateway: set(self.gateway),
            login: self.login.clone(),
            no_session: set(self.no_session),
            no_stdin: set(self.no_stdin),
            port: self.port,
            quiet: set(self.quiet),
            x11: match (self.x11, self.x11_trusted, self.no_x11) {
                (true, ..) | (_, true, _) => Some(true),
                (.., true) => Some(false),
                _ => None,
            },
            x11_trusted: match (self.x11, self.x11_trusted) {
                (_, true) => Some(true),
                (true, _) => Some(false),
                _ => None,
            },
            terminal,
            ..Options::default()
        };
        for option in &self.option {
            options.add(option)?;
        }
        if options.clear_forwards == Some(true) {
            options.forwards.clear();
        }
        Ok(options)
    }
}

/// A node could not be reached: one line and the status of `ssh`. Whoever used it wrongly sees 1, as everywhere.
pub(super) async fn run(context: &Context, ssh: Ssh) -> Result<ExitCode> {
    match connect(context, ssh).await {
        Err(error) if error.chain().any(|cause| cause.is::<ConnectError>()) => {
            crate::cli::finish(Err(error));
            Ok(ExitCode::from(NOT_REACHED))
        }
        other => other,
    }
}

async fn connect(context: &Context, ssh: Ssh) -> Result<ExitCode> {
    let options = ssh.options()?;
    let background = background::within(context.in_background)?;
    let no_session = options.no_session == Some(true);
    if options.background == Some(true) {
        if !no_session && options.command.is_none() {
            bail!("-f: say what to run in the background, or -N to only forward");
        }
        if background.is_none() {
            return Ok(background::start()?.map_or_else(|ended| ended, |_| ExitCode::SUCCESS));
        }
    }
    if no_session && options.command.is_some() {
        bail!("-N: nothing is run; leave out the command");
    }
    let profile = context.profile()?;
    let (before, host) = split_login(&ssh.target)?;
    let login = match before.or_else(|| options.login.clone()) {
        Some(login) => login,
        None => default_login(&profile)?,
    };
    match target::find(context, &profile, host, options.port, ssh.cluster).await? {
        Found::One(target) => {
            let reach =
                Reach { context, profile: &profile, target: &target, login: &login, resume: ssh.resume };
            one(reach, options, background).await
        }
        Found::Several { what, nodes } => match &options.command {
            Some(command)
                if options.forwards.is_empty()
                    && background.is_none()
                    && options.terminal != Some(WantTerminal::Yes) =>
            {
                let run = many::Run {
                    command: command.clone(),
                    env: environment(&options),
                    parallel: ssh.parallel.into(),
                    resume: ssh.resume,
                };
                many::run(context, &profile, nodes, &login, run).await
            }
            _ => Err(target::ambiguous(&what, nodes.iter(), profile.cluster()).context(
                "only commands run on several nodes, in the foreground, without a terminal and forwards",
            )),
        },
    }
}

fn environment(options: &Options) -> Vec<(String, String)> {
    let also = |name: &str| options.send_env.iter().any(|pattern| options::matches(pattern, name));
    let mut env = session::environment(also);
    env.retain(|(name, _)| !options.set_env.iter().any(|(set, _)| set == name));
    env.extend(options.set_env.iter().cloned());
    env
}

/// Who wants to go where.
#[derive(Clone, Copy)]
struct Reach<'a> {
    context: &'a Context,
    profile: &'a Profile,
    target: &'a DialTarget,
    login: &'a OsLogin,
    resume: Resume,
}

async fn one(reach: Reach<'_>, options: Options, background: Option<Background>) -> Result<ExitCode> {
    let Reach { context, profile, target, .. } = reach;
    let exit_on_failure = options.exit_on_failure == Some(true);
    let listen =
        ListenOptions { gateway: options.gateway == Some(true), unlink: options.unlink == Some(true) };
    let (bound, remote) = forwards::bind(options.forwards.clone(), listen, exit_on_failure).await?;
    let connecting = reach.connect();
    let node = match options.connect_timeout.filter(|limit| !limit.is_zero()) {
        None => connecting.await?,
        Some(limit) => match tokio::time::timeout(limit, connecting).await {
            Ok(node) => node?,
            Err(_) => {
                return Err(
                    ConnectError::Timeout { peer: format!("node {}", target.host), after: limit }.into()
                );
            }
        },
    };
    let node = Arc::new(node);
    let code = tokio::select! {
        code = use_node(context, profile, &node, &options, bound, remote, background) => code?,
        () = silent(&node, &options) => {
            eprintln!("ERROR: the node says nothing any more");
            NOT_REACHED
        }
    };
    node.disconnect().await;
    Ok(ExitCode::from(code))
}

impl Reach<'_> {
    async fn connect(self) -> Result<NodeConnection> {
        let Self { context, profile, target, login, resume } = self;
        let client = context.ssh(profile, &resume);
        let proxy = client.proxy(&profile.ssh_address).await?;
        match client.node(proxy, target, login).await {
            Err(error) if !profile.logins.contains(login) => {
                let logins: Vec<&str> = profile.logins.iter().map(OsLogin::as_str).collect();
                let why = format!("{login} is not one of your logins ({})", logins.join(", "));
                Err(refused(context, profile, target, error).await).context(why)
            }
            Err(error) => Err(refused(context, profile, target, error).await),
            Ok(node) => Ok(node),
        }
    }
}

async fn use_node(
    context: &Context,
    profile: &Profile,
    node: &Arc<NodeConnection>,
    options: &Options,
    bound: Vec<BoundForward>,
    remote: Vec<Way>,
    background: Option<Background>,
) -> Result<u8> {
    let forwards = Forwards::start(node, bound, remote, options.exit_on_failure == Some(true)).await?;
    let agent = agent(context, profile, options);
    let display = match options.x11 {
        Some(true) if options.no_session != Some(true) => {
            Some(Arc::new(display::find(options.x11_trusted == Some(true), &*context.entropy).await?))
        }
        _ => None,
    };
    let request = SessionRequest {
        command: options.command.clone(),
        env: environment(options),
        terminal: None,
        agent: agent.is_some(),
        display: display.clone(),
    };
    if let Some(display) = display {
        forwards.display(node, display)?;
    }
    if let Some(agent) = agent {
        forwards.agent(node, agent)?;
    }
    if options.no_session == Some(true) {
        let mut ending = Ending::listen()?;
        if let Some(background) = background {
            background.stands(true)?;
        }
        return tokio::select! {
            code = ending.next() => Ok(code),
            said = node.closed() => {
                let why = said.or_else(|| node.lost().map(|why| format!("the connection was lost: {why}")));
                eprintln!("ERROR: {}", why.unwrap_or_else(|| "the connection ended".to_owned()));
                Ok(NOT_REACHED)
            }
        };
    }
    let forwards = Arc::new(forwards);
    let list = Arc::clone(&forwards);
    let how = Show {
        terminal: options.terminal.unwrap_or(WantTerminal::Auto),
        escape: options.escape.unwrap_or(Some(b'~')),
        stdin: options.no_stdin != Some(true) && background.is_none(),
        quiet: options.quiet == Some(true),
        forwards: Some(Arc::new(move || list.list())),
    };
    let stands = || background.map_or(Ok(()), |background| background.stands(false));
    let code = session::run(node, request, how, stands).await?;
    let mut ending = Ending::listen()?;
    tokio::select! {
        () = forwards.finish(options.quiet == Some(true)) => {}
        _ = ending.next() => {}
        _ = node.closed() => {}
    }
    Ok(code)
}

/// Who answers programs on the node, if somebody shall.
fn agent(context: &Context, profile: &Profile, options: &Options) -> Option<ForwardedAgent> {
    let own = || -> ForwardedAgent {
        let identities: Arc<dyn Identities> = Arc::new(Logins::of(context, profile));
        ForwardedAgent::Own(identities)
    };
    let running = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
    match options.agent.as_ref()? {
        ForwardAgent::No => None,
        ForwardAgent::Local => Some(own()),
        ForwardAgent::Socket(path) => Some(ForwardedAgent::Socket(path.into())),
        ForwardAgent::Yes => Some(running.map_or_else(own, |socket| ForwardedAgent::Socket(socket.into()))),
    }
}

/// Resolves when the node has missed too many signs of life, if they are asked for.
async fn silent(node: &NodeConnection, options: &Options) {
    let Some(interval) = options.alive_interval.filter(|interval| !interval.is_zero()) else {
        return std::future::pending().await;
    };
    let patience = interval.saturating_mul(options.alive_count.unwrap_or(ALIVE_COUNT));
    loop {
        tokio::time::sleep(interval).await;
        match tokio::time::timeout(patience, node.ping()).await {
            Ok(Ok(())) => {}
            // Whoever uses it sees the end as well, and knows more of it.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

pub(super) async fn proxy(context: &Context, command: ProxyCommand) -> Result<ExitCode> {
    let ProxyCommand::Ssh { cluster, resume, target: text } = command;
    let profile = context.profile()?;
    let (_, host) = split_login(&text)?;
    let target = target::one(context, &profile, host, None, cluster).await?;
    let client = context.ssh(&profile, &resume);
    let proxy = client.proxy(&profile.ssh_address).await?;
    let stream = match client.stream(proxy, &target).await {
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
    let mut ending = Ending::listen()?;
    tokio::select! {
        received = copy(&mut from_node, &mut stdout) => {
            received.context("the connection to the node")?;
            stdout.flush().await?;
        }
        () = send => {}
        // Stock ssh ends its ProxyCommand by a signal; the node is to hear that nobody comes back.
        code = ending.next() => return Ok(ExitCode::from(code)),
    }
    Ok(ExitCode::SUCCESS)
}
