//! `teleport`: the daemon.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use teleport_core::auth::Backup;
use teleport_core::id::HostRole;

use super::common::Commands;
use crate::config::yaml::resources;
use crate::config::{FileConfig, Overrides, Settings, load, sample};
use crate::daemon::{self, Traces};

/// The command that a node starts for a user who copies files.
pub(crate) const SFTP_SERVER: &str = "sftp-server";

/// The command that a node starts for a user whose sockets it opens.
pub(crate) const OPEN_SOCKET: &str = "open-socket";

/// The command that a node starts for a session about which PAM is asked.
pub(crate) const PAM_SESSION: &str = "pam-session";

/// The daemon of the access platform: auth, proxy and node.
#[derive(Debug, Parser)]
#[command(name = "teleport", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Commands<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a commented configuration file
    Configure(Start),
    /// Make something that is there a member of a cluster
    #[command(subcommand)]
    Join(super::join::Join),
    /// Run the services of this host
    Start(Run),
    /// Serve files over standard input and output; nodes start it for users
    #[command(name = SFTP_SERVER, hide = true)]
    SftpServer,
    /// Open one socket and pass it on over standard input; nodes start it for users
    #[command(name = OPEN_SOCKET, hide = true)]
    OpenSocket {
        /// The ids of a user, then agent, connect PATH or listen PATH
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        task: Vec<std::ffi::OsString>,
    },
    /// Ask PAM about one session and run it, as said over standard input; nodes start it
    #[command(name = PAM_SESSION, hide = true)]
    PamSession,
    /// Inside a session: print who and where you are
    Status,
    /// Try everything on this machine: a cluster on loopback and a recorded shell in it
    Try(Try),
}

/// What may be said about a daemon on the command line.
#[derive(Debug, Args)]
struct Start {
    /// Configuration file [default: /etc/teleport.yaml if it exists]
    #[arg(short, long, value_name = "FILE", env = "TELEPORT_CONFIG_FILE", value_parser = super::any_path())]
    config: Option<PathBuf>,
    /// Services to run: auth, proxy, node
    #[arg(short, long, value_delimiter = ',', value_parser = |text: &str| text.parse::<HostRole>())]
    roles: Option<Vec<HostRole>>,
    /// Where state is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The auth service, or a proxy as the way to it; several of one cluster: a:3025,b:3025
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    auth_server: Vec<String>,
    /// A proxy's web port, as the way to the auth service and to a node that opens no port
    #[arg(long, visible_alias = "proxy", value_name = "HOST:PORT", conflicts_with = "auth_server")]
    proxy_server: Option<String>,
    /// Join token, or an absolute path to a file that holds it; used at the first start only
    #[arg(long, env = "TELEPORT_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How the cluster is recognised at the first start; repeatable
    #[arg(long = "ca-pin", value_name = "sha256:HEX")]
    ca_pins: Vec<String>,
    /// Refuse to join without a pin
    #[arg(long)]
    require_ca_pin: bool,
    /// Name of this host in lists [default: its host name]
    #[arg(long, value_name = "NAME")]
    nodename: Option<String>,
    /// Labels of the node: key=value,key=value
    #[arg(long)]
    labels: Option<String>,
    /// Address to listen on
    #[arg(short, long, value_name = "IP")]
    listen_ip: Option<std::net::IpAddr>,
    /// Address that others reach this host by
    #[arg(long, value_name = "HOST")]
    advertise_ip: Option<String>,
    /// Name of the cluster; fixed at the first start
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// Open no port of the proxy but the web port, which serves HTTPS, SSH and tunnels
    #[arg(long)]
    one_port: bool,
    /// Where to answer /healthz, /readyz and /metrics, without a login
    #[arg(long, value_name = "IP:PORT")]
    diag_addr: Option<String>,
    /// Name that clients reach the proxy by, with or without a port; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    public_addr: Vec<String>,
    /// Have Let's Encrypt issue the proxy's certificate for its public address, which agrees to their terms
    #[arg(long)]
    acme: bool,
    /// Whom the authority writes to
    #[arg(long, value_name = "ADDRESS")]
    acme_email: Option<String>,
    /// Log more
    #[arg(short, long)]
    debug: bool,
}

/// A daemon that runs.
#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    start: Start,
    /// At the first start of the auth service: a backup that the cluster begins with, as `tctl get all` writes it
    #[arg(long, value_name = "FILE")]
    bootstrap: Option<PathBuf>,
}

/// What may be said about a trial.
#[derive(Debug, Args)]
pub(crate) struct Try {
    /// Keep the directory and say where it is
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not offer the replay
    #[arg(long)]
    pub(crate) no_replay: bool,
    /// Show the daemon's log
    #[arg(short, long)]
    pub(crate) debug: bool,
    /// Run this on the node instead of a shell, and return its status: a line for the shell, or a program and its arguments
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

impl Start {
    fn settings(self) -> Result<(Settings, String, bool)> {
        let file = match &self.config {
            Some(path) if path.as_os_str().is_empty() => FileConfig::default(),
            Some(path) => load(path)?,
            None if std::path::Path::new("/etc/teleport.yaml").exists() => {
                load("/etc/teleport.yaml".as_ref())?
            }
            None => FileConfig::default(),
        };
        let level = if self.debug { "debug".to_owned() } else { severity(&file)? };
        let json = match file.teleport.log.format.output.as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => {
                anyhow::bail!("teleport.log.format.output: {other:?} is not known; use text or json")
            }
        };
        let settings = Settings::resolve(
            file,
            Overrides {
                roles: self.roles,
                data_dir: self.data_dir,
                nodename: self.nodename,
                auth_servers: self.auth_server,
                proxy_server: self.proxy_server,
                token: self.token,
                ca_pins: self.ca_pins,
                require_ca_pin: self.require_ca_pin,
                labels: self.labels,
                listen_ip: self.listen_ip,
                diag_addr: self.diag_addr,
                one_port: self.one_port,
                advertise_ip: self.advertise_ip,
                cluster_name: self.cluster_name,
                public_addr: self.public_addr,
                acme: self.acme,
                acme_email: self.acme_email,
            },
        )?;
        Ok((settings, level, json))
    }
}

/// Reads a backup. What of it is ignored is told on stderr.
fn backup(path: &std::path::Path) -> Result<Backup> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let documents = resources(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    for line in documents.iter().flat_map(|document| &document.loaded.ignored) {
        eprintln!("WARNING: {}: {}", path.display(), super::sanitize(line));
    }
    if documents.is_empty() {
        anyhow::bail!("{}: there is no document in it", path.display());
    }
    super::backup::check(&text, documents.len())
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    let documents = documents.into_iter().map(|document| document.loaded.document);
    Backup::new(documents).with_context(|| path.display().to_string())
}

fn severity(file: &FileConfig) -> Result<String> {
    match file.teleport.log.severity.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None => Ok("info".to_owned()),
        Some(level @ ("trace" | "debug" | "info" | "error")) => Ok(level.to_owned()),
        Some("warn" | "warning") => Ok("warn".to_owned()),
        Some(other) => {
            anyhow::bail!("teleport.log.severity: {other:?} is not known; use debug, info, warn or error")
        }
    }
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
    match command {
        Command::Configure(start) => {
            let (settings, ..) = start.settings()?;
            print!("{}", sample(&settings));
            Ok(ExitCode::SUCCESS)
        }
        Command::Join(join) => {
            super::start_logging("warn", false, None)?;
            super::join::run(join)
        }
        Command::Start(Run { start, bootstrap }) => {
            let (mut settings, level, json) = start.settings()?;
            if let Some(path) = bootstrap {
                let auth = settings.auth.as_mut();
                let auth = auth.context("--bootstrap is for the host that runs the auth service")?;
                auth.bootstrap = Some(backup(&path)?);
            }
            let (traces, spans) = Traces::start(settings.nodename.as_str())?;
            super::start_logging(&level, json, spans)?;
            traces.announce();
            let ended = daemon::main(settings);
            traces.end();
            ended
        }
        Command::SftpServer => {
            // The library's own handles look for ends of lines.
            let input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
            let output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
            teleport_ssh::sftp::serve(input, output)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::OpenSocket { task } => {
            teleport_ssh::opener::serve(task)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::PamSession => {
            teleport_ssh::pam::serve()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status => status(),
        Command::Try(options) => crate::trial::main(options),
    }
}

fn status() -> Result<ExitCode> {
    let get = |name: &str| std::env::var(name).ok().map(|text| super::sanitize(&text));
    let session =
        get("SSH_SESSION_ID").context("this is not a shell of a node: SSH_SESSION_ID is not set")?;
    let login = get("USER").unwrap_or_default();
    let client = get("SSH_CLIENT").unwrap_or_default();
    println!(
        "User ID    : {}, logged in as {login} from {client}",
        get("SSH_TELEPORT_USER").unwrap_or_default()
    );
    println!("Session ID : {session}");
    println!(
        "Node       : {} of {}",
        get("SSH_TELEPORT_HOST_UUID").unwrap_or_default(),
        get("SSH_TELEPORT_CLUSTER_NAME").unwrap_or_default()
    );
    Ok(ExitCode::SUCCESS)
}
