//! `tsh scp`: files to and from nodes.

mod bar;

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use teleport_core::id::OsLogin;
use teleport_ssh::client::copy::{CopyOptions, Place, Side, Source, copy};
use teleport_ssh::client::terminal::Ending;
use teleport_ssh::client::{Cipher, NodeConnection, Profile};

use self::bar::Bar;
use super::super::sanitize;
use super::common::{Context, Resume};
use super::ssh::{self, target};

#[derive(Debug, Args)]
pub(super) struct Scp {
    /// Directories too, with all that is in them; links are followed
    #[arg(short, long)]
    recursive: bool,
    /// Keep permissions and times
    #[arg(short, long)]
    preserve: bool,
    /// Show nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Continue files of which a part is there already, as after an interruption
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    no_resume: Resume,
    /// Login on nodes, unless it is written before the node
    #[arg(short, long)]
    login: Option<OsLogin>,
    /// Port of the nodes' SSH servers [default: the ones that they announce]
    #[arg(short = 'P', long)]
    port: Option<u16>,
    /// The only cipher
    #[arg(short, long)]
    cipher: Option<Cipher>,
    /// Files or directories: here, or on a node as [LOGIN@]NODE:PATH, where the path may be a pattern
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<OsString>,
    /// Where to, written alike: a directory, or the new name of a single source
    #[arg(value_name = "TARGET")]
    target: OsString,
}

pub(super) async fn run(context: &Context, scp: Scp) -> Result<ExitCode> {
    let parse = |text: &OsString| {
        let place = Place::parse(text);
        place.with_context(|| format!("{:?} is no source and no target", sanitize(&text.to_string_lossy())))
    };
    let sources = scp.sources.iter().map(parse).collect::<Result<Vec<Place>>>()?;
    let target = parse(&scp.target)?;
    let is_local = |place: &Place| matches!(place, Place::Local(_));
    if is_local(&target) && sources.iter().any(is_local) {
        bail!(
            "a file and its copy are both on this machine: that is for cp; a file on a node is <login>@<node>:<path>"
        );
    }
    let mut ending = Ending::listen()?;
    let bar = Bar::new(scp.quiet);
    tokio::select! {
        copied = copy_all(context, &scp, sources, target, &bar) => copied,
        code = ending.next() => {
            bar.stop();
            Ok(ExitCode::from(code))
        }
    }
}

async fn copy_all(
    context: &Context,
    scp: &Scp,
    sources: Vec<Place>,
    target: Place,
    bar: &Bar,
) -> Result<ExitCode> {
    let options = CopyOptions { recursive: scp.recursive, preserve: scp.preserve, resume: scp.resume };
    let mut way = Way { context, scp, profile: context.profile()?, nodes: Vec::new() };
    // Not shared with the sources: a node that is both is connected to twice.
    let (target, path) = way.side(target, &mut HashMap::new()).await?;
    let mut known = HashMap::new();
    let mut from = Vec::new();
    for source in sources {
        let (side, path) = way.side(source, &mut known).await?;
        from.push(Source { side, path });
    }
    let copied = copy(from, &target, &path, options, bar).await;
    bar.end();
    let failures = copied?;
    for node in way.nodes {
        node.disconnect().await;
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Connects to nodes.
struct Way<'a> {
    context: &'a Context,
    scp: &'a Scp,
    profile: Profile,
    /// Open as long as files are copied.
    nodes: Vec<NodeConnection>,
}

/// Those that are connected already, by login and name.
type Known = HashMap<(OsLogin, String), Side>;

impl Way<'_> {
    async fn side(&mut self, place: Place, known: &mut Known) -> Result<(Side, Vec<u8>)> {
        let (login, host, path) = match place {
            Place::Local(path) => return Ok((Side::local(), OsString::from(path).into_vec())),
            Place::Remote { login, node, path } => (login, node, path),
        };
        let login = match login {
            Some(login) => login.parse().context("the login before the @")?,
            None => match &self.scp.login {
                Some(login) => login.clone(),
                None => ssh::default_login(&self.profile)?,
            },
        };
        let key = (login, host);
        if let Some(side) = known.get(&key) {
            return Ok((side.clone(), path));
        }
        let (login, host) = key;
        let node = self.connect(&login, &host).await?;
        let side = Side::remote(node.sftp().await?, &host);
        self.nodes.push(node);
        known.insert((login, host), side.clone());
        Ok((side, path))
    }

    async fn connect(&self, login: &OsLogin, host: &str) -> Result<NodeConnection> {
        let Self { context, scp, profile, .. } = self;
        let target = target::one(context, profile, host, scp.port, None).await?;
        let mut client = context.ssh(profile, &scp.no_resume);
        if let Some(cipher) = scp.cipher {
            client = client.with_cipher(cipher);
        }
        let proxy = client.proxy(&profile.ssh_address).await?;
        match client.node(proxy, &target, login).await {
            Ok(node) => Ok(node),
            Err(error) => {
                let error = target::refused(context, profile, &target, error).await;
                if profile.logins.contains(login) {
                    return Err(error);
                }
                let logins: Vec<&str> = profile.logins.iter().map(OsLogin::as_str).collect();
                Err(error.context(format!("{login} is not one of your logins ({})", logins.join(", "))))
            }
        }
    }
}
