//! `tsh`: the user's client.

mod accept;
mod agent;
mod background;
mod common;
mod env;
mod escape;
mod join;
mod latency;
mod login;
mod mfa;
mod nodes;
mod passwd;
mod pins;
mod recordings;
mod resolve;
mod scp;
pub(crate) mod session;
mod ssh;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use super::common::Commands;

/// Logs in to a cluster and reaches its nodes.
#[derive(Debug, Parser)]
#[command(name = "tsh", version, arg_required_else_help = true)]
pub struct Cli {
    /// The proxy: host, or host:port if its port is neither 443 nor 3080
    #[arg(long, global = true, env = "TELEPORT_PROXY")]
    proxy: Option<String>,
    /// Where logins are kept
    #[arg(long, global = true, env = "TELEPORT_HOME", value_name = "DIR", hide = true)]
    home: Option<PathBuf>,
    /// Be who this identity file says, as `tsh login --out` and `tctl auth sign` write it, instead of who is logged in
    #[arg(short, long, global = true, value_name = "FILE", env = "TELEPORT_IDENTITY_FILE", value_parser = super::any_path())]
    identity: Option<PathBuf>,
    /// Log more
    #[arg(short, long, global = true)]
    debug: bool,
    /// This process is the background of another tsh, to which its standard input leads
    #[arg(long, hide = true)]
    in_background: bool,
    #[command(subcommand)]
    command: Commands<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Accept an invite: set a password and a second factor
    Accept(accept::Accept),
    /// Serve your certificates to ssh and other programs, as ssh-agent does
    Agent(agent::Agent),
    /// The cluster that you are logged in to
    Clusters(resolve::Clusters),
    /// Print a block for ~/.ssh/config with which plain `ssh node.cluster` works
    Config,
    /// Print lines that make a shell use this proxy and cluster
    Env(env::Env),
    /// Take part in a session that runs
    Join(join::Join),
    /// Measure round trips to the proxy and to a node, until Ctrl-C
    Latency(latency::Latency),
    /// Log in with password and one-time code
    Login(login::Login),
    /// Forget the login at a proxy, or all of them
    Logout,
    /// List the nodes that you may reach
    Ls(nodes::Ls),
    /// Your second factors
    Mfa {
        #[command(subcommand)]
        command: mfa::Command,
    },
    /// Change your password
    Passwd,
    /// Replay a recorded session
    Play(recordings::Play),
    /// For other programs: plain streams through the proxy
    Proxy {
        #[command(subcommand)]
        command: ssh::ProxyCommand,
    },
    /// Recorded sessions
    Recordings {
        #[command(subcommand)]
        command: recordings::Command,
    },
    /// Say which node a name means, without connecting to it
    Resolve(resolve::Resolve),
    /// Copy files to and from nodes
    Scp(scp::Scp),
    /// Sessions that run
    Sessions {
        #[command(subcommand)]
        command: join::Command,
    },
    /// Open a shell on a node, or run a command there
    Ssh(ssh::Ssh),
    /// Who you are logged in as, and until when
    Status(login::Status),
}

/// Runs the program.
///
/// # Errors
/// What shall be the one line on stderr.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let command = match cli.command {
        Commands::Common(common) => return Ok(common.run::<Cli>()),
        Commands::Own(command) => command,
    };
    common::streams_wait()?;
    super::start_logging(if cli.debug { "debug" } else { "error" }, false, None)?;
    let mut context = common::Context::new(cli.home, cli.proxy)?;
    context.in_background = cli.in_background;
    let runtime = match command {
        Command::Scp(_) => super::transfer_runtime()?,
        _ => super::client_runtime()?,
    };
    let result = runtime.block_on(async {
        if let Some(path) = cli.identity.filter(|path| !path.as_os_str().is_empty()) {
            if matches!(command, Command::Accept(_) | Command::Config | Command::Login(_) | Command::Logout) {
                bail!(
                    "this is about the logins of this machine, not about {}: leave out --identity and TELEPORT_IDENTITY_FILE",
                    path.display()
                );
            }
            context.use_identity(path).await?;
        }
        let result = match command {
            Command::Accept(accept) => accept::run(&context, accept).await,
            Command::Agent(agent) => agent::run(&context, agent).await,
            Command::Clusters(clusters) => resolve::clusters(&context, clusters).await,
            Command::Config => login::config(&context),
            Command::Env(env) => env::run(&context, &env),
            Command::Join(join) => join::run(&context, join).await,
            Command::Latency(latency) => latency::run(&context, latency).await,
            Command::Login(login) => login::run(&context, login).await,
            Command::Logout => login::logout(&context).await,
            Command::Ls(ls) => nodes::run(&context, ls).await,
            Command::Mfa { command } => mfa::run(&context, command).await,
            Command::Passwd => passwd::run(&context).await,
            Command::Play(play) => recordings::play(&context, play).await,
            Command::Proxy { command } => ssh::proxy(&context, command).await,
            Command::Recordings { command } => recordings::run(&context, command).await,
            Command::Resolve(resolve) => resolve::run(&context, resolve).await,
            Command::Scp(scp) => scp::run(&context, scp).await,
            Command::Sessions { command } => join::sessions(&context, command).await,
            Command::Ssh(ssh) => ssh::run(&context, ssh).await,
            Command::Status(status) => login::status(&context, status),
        };
        // However it ended: nodes keep what may come back.
        context.resumption.finish().await;
        result
    });
    // A read of standard input that is still waiting must not keep the program.
    runtime.shutdown_background();
    result
}
