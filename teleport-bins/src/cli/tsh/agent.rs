//! `tsh agent`: the logins of this machine for every program that speaks to an `ssh-agent`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use teleport_core::clock::Clock;
use teleport_ssh::client::agent::{AgentServer, AgentSocket, Identities, Identity};
use teleport_ssh::client::openssh::{ProxyAddress, shell_quote};
use teleport_ssh::client::terminal::Ending;
use teleport_ssh::client::{Profile, ProfileStore};
use tempfile::TempDir;

use super::background;
use super::common::Context;

#[derive(Debug, Args)]
pub(super) struct Agent {
    /// Listen here instead of in a directory of its own
    #[arg(short = 'a', long, value_name = "SOCKET")]
    address: Option<PathBuf>,
    /// Stay in the foreground
    #[arg(short = 'D', long)]
    foreground: bool,
    /// Run this with the agent, and return its status
    #[arg(last = true)]
    command: Vec<std::ffi::OsString>,
}

/// The logins that an agent serves, as they are whenever it is asked.
#[derive(Debug)]
pub(super) struct Logins {
    clock: Arc<dyn Clock>,
    of: Whose,
}

#[derive(Debug)]
enum Whose {
    /// Of an identity file.
    File(Box<Profile>),
    /// Those of this machine, perhaps at one proxy only.
    Machine(ProfileStore, Option<ProxyAddress>),
}

impl Logins {
    /// All, or those that the command line means.
    fn meant(context: &Context) -> Self {
        let of = match &context.identity {
            Some((_, profile)) => Whose::File(Box::new(profile.clone())),
            None => Whose::Machine(context.profiles.clone(), context.proxy.clone()),
        };
        Self { clock: Arc::clone(&context.clock), of }
    }

    /// This one.
    pub(super) fn of(context: &Context, profile: &Profile) -> Self {
        let of = match &context.identity {
            Some(_) => Whose::File(Box::new(profile.clone())),
            None => Whose::Machine(context.profiles.clone(), Some(profile.web_address.clone())),
        };
        Self { clock: Arc::clone(&context.clock), of }
    }

    fn profiles(&self) -> Result<Vec<Profile>> {
        Ok(match &self.of {
            Whose::File(profile) => vec![(**profile).clone()],
            Whose::Machine(store, Some(proxy)) => store.load(Some(proxy))?.into_iter().collect(),
            Whose::Machine(store, None) => store.list()?,
        })
    }
}

impl Identities for Logins {
    fn now(&self) -> Vec<Identity> {
        let profiles = self.profiles().unwrap_or_else(|error| {
            tracing::warn!("the logins cannot be read: {error:#}");
            Vec::new()
        });
        let now = self.clock.now();
        let valid = profiles.into_iter().filter(|profile| profile.is_valid(now));
        let identity = |profile: Profile| {
            let comment = format!("teleport {} {}", profile.cluster(), profile.user);
            Identity::new(profile.ssh, &profile.certificates.ssh, comment)
        };
        valid.filter_map(identity).collect()
    }
}

pub(super) async fn run(context: &Context, agent: Agent) -> Result<ExitCode> {
    let behind = background::within(context.in_background)?;
    if behind.is_none() && !agent.foreground && agent.command.is_empty() {
        return Ok(background::start()?.map_or_else(|ended| ended, |_| ExitCode::SUCCESS));
    }
    let logins = Logins::meant(context);
    if logins.now().is_empty() {
        eprintln!("WARNING: you are not logged in; the agent serves whoever logs in later");
    }
    // Goes with this function, and is what keeps others away from the socket.
    let dir;
    let path = match agent.address {
        Some(path) => std::path::absolute(path)?,
        None => {
            dir = private_dir().context("no directory can be made for the socket")?;
            dir.path().join(format!("agent.{}", std::process::id()))
        }
    };
    let socket = AgentSocket::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let server = AgentServer::new(Arc::new(logins));
    let mut ending = Ending::listen()?;
    if !agent.command.is_empty() {
        let child = with_agent(&agent.command, &path, &mut ending);
        return tokio::select! {
            () = server.serve(socket) => bail!("the agent ended"),
            code = child => code,
        };
    }
    let quoted = shell_quote(&path.to_string_lossy());
    println!("SSH_AUTH_SOCK={quoted}; export SSH_AUTH_SOCK;");
    if let Some(background) = behind {
        let id = std::process::id();
        println!("SSH_AGENT_PID={id}; export SSH_AGENT_PID;\necho Agent pid {id};");
        background.stands(true)?;
    }
    tokio::select! {
        () = server.serve(socket) => bail!("the agent ended"),
        _ = ending.next() => Ok(ExitCode::SUCCESS),
    }
}

fn private_dir() -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("tsh-agent-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
}

/// Runs a program that is told of the agent. Signals of the terminal reach it by themselves; the others are passed on.
async fn with_agent(
    command: &[std::ffi::OsString],
    socket: &std::path::Path,
    ending: &mut Ending,
) -> Result<ExitCode> {
    let [program, arguments @ ..] = command else { bail!("say what to run") };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env("SSH_AUTH_SOCK", socket).env_remove("SSH_AGENT_PID");
    let mut child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status?;
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                return Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
            }
            code = ending.next() => {
                let pass_on = match code {
                    129 => Signal::SIGHUP,
                    143 => Signal::SIGTERM,
                    _ => continue,
                };
                if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
                    let _ = kill(Pid::from_raw(id), pass_on);
                }
            }
        }
    }
}
