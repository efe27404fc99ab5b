//! `tctl`: administration.

mod access;
mod audit;
mod auth;
mod backend;
mod connect;
mod events;
mod inventory;
mod lock;
mod nodes;
mod recordings;
mod resources;
mod sessions;
mod status;
mod tokens;
mod top;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use teleport_core::api::AuthApi;
use teleport_ssh::client::ProxyAddresses;

use super::common::Commands;

/// Administers a cluster: on the auth host as it stands, elsewhere as whoever is logged in with tsh, or by an identity file.
#[derive(Debug, Parser)]
#[command(name = "tctl", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Commands<Command>,
}

/// Which auth service, and as whom.
#[derive(Debug, Args)]
struct Options {
    /// Configuration file of the daemon [default: /etc/teleport.yaml if it exists]
    #[arg(short, long, global = true, value_name = "FILE", env = "TELEPORT_CONFIG_FILE", value_parser = super::any_path())]
    config: Option<PathBuf>,
    /// Data directory of the daemon on this host
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The proxy of the login to use, as tsh has it [env: TELEPORT_PROXY=]
    #[arg(long, global = true, value_name = "HOST[:PORT]", conflicts_with = "data_dir")]
    proxy: Option<String>,
    /// The auth service, or a proxy as the way to it, if it is another than that of the login or the identity file
    #[arg(long, global = true, value_name = "HOST:PORT", env = "TELEPORT_AUTH_SERVER")]
    auth_server: Option<String>,
    /// Identity file, as `tsh login --out` and `tctl auth sign` write it
    #[arg(short, long, global = true, value_name = "FILE", env = "TELEPORT_IDENTITY_FILE", value_parser = super::any_path())]
    identity: Option<PathBuf>,
    /// Where logins of tsh are kept
    #[arg(long, global = true, env = "TELEPORT_HOME", value_name = "DIR", hide = true)]
    home: Option<PathBuf>,
    /// Log more
    #[arg(short, long, global = true)]
    debug: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who may do what, and why
    Access {
        #[command(subcommand)]
        command: access::Command,
    },
    /// Prove that the audit log is whole
    Audit {
        #[command(subcommand)]
        command: audit::Command,
    },
    /// Certificates for programs and servers, and the authorities that sign them
    Auth {
        #[command(subcommand)]
        command: auth::Command,
    },
    /// Where the cluster keeps its state
    Backend {
        #[command(subcommand)]
        command: backend::Command,
    },
    /// Make resources from documents (YAML or JSON, one or many): role, user, token, lock
    Create(resources::Create),
    /// Change a resource in $EDITOR
    Edit(resources::Edit),
    /// Search the audit log
    Events {
        #[command(subcommand)]
        command: events::Command,
    },
    /// Print resources as documents; `all` is a backup
    Get(resources::Get),
    /// Services of the cluster and their versions
    Inventory {
        #[command(subcommand)]
        command: inventory::Command,
    },
    /// Lock a user, role, login, node or second factor: no new certificates and connections, and live sessions end
    Lock(lock::NewLock),
    /// The locks that there are
    Locks {
        #[command(subcommand)]
        command: lock::Command,
    },
    /// Nodes of the cluster
    Nodes {
        #[command(subcommand)]
        command: nodes::Command,
    },
    /// Recorded sessions: legal hold, deletion, new keys
    Recordings {
        #[command(subcommand)]
        command: recordings::Command,
    },
    /// Remove resources
    Rm(resources::Rm),
    /// Roles of the cluster
    Roles {
        #[command(subcommand)]
        command: users::RolesCommand,
    },
    /// Sessions that run
    Sessions {
        #[command(subcommand)]
        command: sessions::Command,
    },
    /// The cluster at a glance, with its CA pin
    Status(status::Status),
    /// Tokens by which hosts join
    Tokens {
        #[command(subcommand)]
        command: tokens::Command,
    },
    /// What a daemon does now: processors, memory, requests, storage; it needs --diag-addr
    Top(top::Top),
    /// Replace resources by documents: only the revision that they were read with, if they name one
    Update(resources::Update),
    /// Users of the cluster
    Users {
        #[command(subcommand)]
        command: users::Command,
    },
}

/// What every command works with.
struct Context {
    api: Arc<dyn AuthApi>,
    /// Where hosts are told to find the auth service.
    auth_address: String,
    /// As whom it is called.
    caller: connect::Caller,
    /// A proxy of the cluster, if one is known.
    proxy: Option<ProxyAddresses>,
}

fn ttl(text: &str) -> Result<Duration, String> {
    super::duration(text)
}

/// Runs the program.
///
/// # Errors
/// What shall be the one line on stderr.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { options, command } = cli;
    let command = match command {
        Commands::Common(common) => return Ok(common.run::<Cli>()),
        Commands::Own(command) => command,
    };
    super::start_logging(if options.debug { "debug" } else { "warn" }, false, None)?;
    super::client_runtime()?.block_on(async {
        let command = match command {
            // Without the auth service too.
            Command::Audit { command } => return audit::run(&options, command).await,
            Command::Backend { command } => return backend::run(command).await,
            Command::Top(top) => return top::run(top).await.map(|()| ExitCode::SUCCESS),
            command => command,
        };
        let context = connect::connect(&options)?;
        let outcome = match command {
            Command::Access { command } => access::run(&context, command).await,
            // Run above.
            Command::Audit { .. } | Command::Backend { .. } | Command::Top(_) => Ok(()),
            Command::Auth { command } => auth::run(&context, command).await,
            Command::Create(create) => resources::create(&context, create).await,
            Command::Edit(edit) => resources::edit(&context, edit).await,
            Command::Events { command } => events::run(&context, command).await,
            Command::Get(get) => resources::get(&context, get).await,
            Command::Inventory { command } => inventory::run(&context, command).await,
            Command::Lock(wanted) => lock::run(&context, wanted).await,
            Command::Locks { command } => lock::run_locks(&context, command).await,
            Command::Nodes { command } => nodes::run(&context, command).await,
            Command::Recordings { command } => recordings::run(&context, command).await,
            Command::Rm(rm) => resources::rm(&context, rm).await,
            Command::Roles { command } => users::run_roles(&context, command).await,
            Command::Sessions { command } => sessions::run(&context, command).await,
            Command::Status(status) => status::run(&context, status).await,
            Command::Tokens { command } => tokens::run(&context, command).await,
            Command::Update(update) => resources::update(&context, update).await,
            Command::Users { command } => users::run(&context, command).await,
        };
        outcome.map(|()| ExitCode::SUCCESS).map_err(|error| context.explain(error))
    })
}
