//! `tctl`: administration.

mod connect;
mod events;
mod nodes;
mod status;
mod tokens;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use teleport_core::api::AuthApi;

use crate::config::parse_duration;

/// Administers a cluster: on the auth host as it stands, elsewhere with an identity file.
#[derive(Debug, Parser)]
#[command(name = "tctl", version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file of the daemon [default: /etc/teleport.yaml if it exists]
    #[arg(short, long, global = true, value_name = "FILE", env = "TELEPORT_CONFIG_FILE", value_parser = super::any_path())]
    config: Option<PathBuf>,
    /// Data directory of the daemon on this host
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The auth service, or a proxy as the way to it
    #[arg(long, global = true, value_name = "HOST:PORT")]
    auth_server: Option<String>,
    /// Identity file, as `tsh login --out` writes it
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        requires = "auth_server",
        env = "TELEPORT_IDENTITY_FILE"
    )]
    identity: Option<PathBuf>,
    /// Log more
    #[arg(short, long, global = true)]
    debug: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print completions for a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Search the audit log
    Events {
        #[command(subcommand)]
        command: events::Command,
    },
    /// Nodes of the cluster
    Nodes {
        #[command(subcommand)]
        command: nodes::Command,
    },
    /// Roles of the cluster
    Roles {
        #[command(subcommand)]
        command: users::RolesCommand,
    },
    /// The cluster at a glance, with its CA pin
    Status(status::Status),
    /// Tokens by which hosts join
    Tokens {
        #[command(subcommand)]
        command: tokens::Command,
    },
    /// Users of the cluster
    Users {
        #[command(subcommand)]
        command: users::Command,
    },
    /// Print the version
    Version,
}

/// What every command works with.
struct Context {
    api: Arc<dyn AuthApi>,
    /// Where hosts are told to find the auth service.
    auth_address: String,
}

fn ttl(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

/// Runs the program.
///
/// # Errors
/// What shall be the one line on stderr.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tctl", &mut std::io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Version => {
            println!("tctl {}", super::VERSION);
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    super::start_logging(if cli.debug { "debug" } else { "warn" }, false)?;
    super::client_runtime()?.block_on(async {
        let context = connect::connect(&cli).await?;
        match cli.command {
            Command::Events { command } => events::run(&context, command).await,
            Command::Nodes { command } => nodes::run(&context, command).await,
            Command::Roles { command } => users::run_roles(&context, command).await,
            Command::Status(status) => status::run(&context, status).await,
            Command::Tokens { command } => tokens::run(&context, command).await,
            Command::Users { command } => users::run(&context, command).await,
            Command::Completion { .. } | Command::Version => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
