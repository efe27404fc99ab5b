//! `tsh login`, `status`, `logout` and `config`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use teleport_core::cert::CaPin;
use teleport_core::id::{OsLogin, RoleName};
use teleport_core::secret::SecretString;
use teleport_ssh::client::openssh::{self, ProxyAddress};
use teleport_ssh::client::{Agent, IdentityFile, LoginError, LoginInput, Profile, login};
use teleport_ssh::proxy_web::{WebClient, WebTrust};

use super::super::out::{self, OutFormat};
use super::super::{Format, print_json};
use super::common::{Context, ask_secret};
use super::{accept, pins};
use crate::config::format_duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AddKeys {
    Auto,
    No,
    Yes,
}

#[derive(Debug, Args)]
pub(super) struct Login {
    /// The user [default: the one of this machine]
    #[arg(long, env = "TELEPORT_USER")]
    user: Option<String>,
    /// For how long, such as 8h; a plain number is minutes. Roles may shorten it
    #[arg(long, value_parser = crate::cli::duration)]
    ttl: Option<Duration>,
    /// How the cluster is recognised, if this machine does not know it yet; repeatable
    #[arg(long = "ca-pin", value_name = "sha256:HEX")]
    ca_pins: Vec<CaPin>,
    /// PEM file with the authority of the proxy's own HTTPS certificate
    #[arg(long, value_name = "FILE")]
    proxy_ca: Option<std::path::PathBuf>,
    /// Write the login to this file instead, for programs: an identity file
    #[arg(short, long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
    /// What to write with --out
    #[arg(long, value_enum, default_value = "file", requires = "out")]
    format: OutFormat,
    /// Replace files of --out that exist
    #[arg(long, requires = "out")]
    overwrite: bool,
    /// Hand the certificate to the running ssh-agent
    #[arg(short = 'k', long, value_enum, default_value = "auto", env = "TELEPORT_ADD_KEYS_TO_AGENT")]
    add_keys_to_agent: AddKeys,
    /// Log in anew although the login is still valid
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

/// How the proxy is recognised: what the command line says, what an invite or login said before, the last login.
fn trust(context: &Context, proxy: &ProxyAddress, login: &Login) -> Result<WebTrust> {
    if let Some(trust) = accept::trust(&login.ca_pins, login.proxy_ca.as_deref())? {
        return Ok(trust);
    }
    let known = pins::load(context.profiles.home(), proxy);
    if !known.is_empty() {
        return Ok(WebTrust::pins(known));
    }
    match context.profiles.load(Some(proxy))? {
        Some(profile) => Ok(WebTrust::bundle(profile.trust)),
        None => bail!(
            "this machine does not know {} yet: say --ca-pin=sha256:… as `tctl status` prints it, \
             or --proxy-ca=FILE if the proxy has an HTTPS certificate of its own",
            proxy.to_authority()
        ),
    }
}

pub(super) async fn run(context: &Context, options: Login) -> Result<ExitCode> {
    let before = context.profiles.load(context.proxy.as_ref())?;
    let proxy = match (&context.proxy, &before) {
        (Some(proxy), _) => proxy.clone(),
        (None, Some(before)) => before.web_address.clone(),
        (None, None) => bail!("where? say --proxy=<host>, or <host>:<port> if its port is not 3080"),
    };
    if let Some(before) = &before
        && before.is_valid(context.clock.now())
        && !options.force
        && options.user.as_deref().is_none_or(|user| user == before.user.as_str())
        && options.ttl.is_none()
        && options.out.is_none()
    {
        context.profiles.select(&before.name())?;
        print_status(context, before);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &options.out {
        out::refuse_existing(path, options.format, options.overwrite)?;
    }
    let user = match (&options.user, &before) {
        (Some(user), _) => user.clone(),
        (None, Some(before)) => before.user.to_string(),
        (None, None) => std::env::var("USER").context("who? say --user=<name>")?,
    };
    let trust = trust(context, &proxy, &options)?;
    let client = WebClient::new(proxy.to_authority(), trust, Arc::clone(&context.clock));
    // Before anything is typed: is it there, and is it who it should be?
    let ping = client.ping().await;
    if let Err(teleport_ssh::proxy_web::WebError::Untrusted { address, seen, .. }) = &ping {
        let mut expected = pins::load(context.profiles.home(), &proxy);
        expected.extend(&options.ca_pins);
        expected.extend(before.iter().flat_map(|before| before.trust.ca_pins()));
        return Err(accept::untrusted(address, seen, &expected));
    }
    let password = ask_secret(&format!("Password of {}: ", super::super::sanitize(&user)))?;
    let code = match &ping {
        Ok(ping) if accept::without_code(ping) => SecretString::default(),
        _ => accept::trimmed(&ask_secret("One-time code: ")?),
    };
    let ttl = options.ttl.map(|ttl| ttl.as_secs());
    let input = LoginInput { user, password, code, ttl };
    let profile =
        login(&client, proxy.clone(), input, &*context.clock, &*context.entropy).await.map_err(explain)?;
    if let Some(path) = &options.out {
        out::write(&IdentityFile::from(&profile), options.format, path, options.overwrite)?;
        return Ok(ExitCode::SUCCESS);
    }
    context.profiles.save(&profile)?;
    if !options.ca_pins.is_empty() {
        pins::save(context.profiles.home(), &proxy, &options.ca_pins)?;
    }
    add_to_agent(context, &profile, options.add_keys_to_agent).await?;
    print_status(context, &profile);
    Ok(ExitCode::SUCCESS)
}

fn explain(error: LoginError) -> anyhow::Error {
    use teleport_core::api::{
        ApiError,
        ApiErrorKind::{Denied, TooMany},
    };
    match &error {
        // Anything else than the text for everybody is meant for this user, who has proved to be it: a lock.
        LoginError::Api(api) if api.kind() == Denied && api.to_string() == ApiError::denied().to_string() => {
            anyhow::anyhow!(
                "login failed: the user, the password or the one-time code is wrong, a code was used twice, \
             or too many attempts failed and the user is locked for a while"
            )
        }
        LoginError::Api(api) if api.kind() == TooMany => {
            anyhow::anyhow!("too many attempts; try again in a minute")
        }
        _ => error.into(),
    }
}

async fn add_to_agent(context: &Context, profile: &Profile, wanted: AddKeys) -> Result<()> {
    let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
    let (AddKeys::Auto | AddKeys::Yes, Some(socket)) = (wanted, socket) else {
        if wanted == AddKeys::Yes {
            bail!("there is no ssh-agent: SSH_AUTH_SOCK is not set");
        }
        return Ok(());
    };
    let lifetime = profile.certificates.valid_before.saturating_since(context.clock.now());
    let comment = format!("teleport {} {}", profile.cluster(), profile.user);
    let added = Agent::at(socket).add(&profile.ssh, &profile.certificates.ssh, &comment, lifetime).await;
    match (added, wanted) {
        (Err(error), AddKeys::Yes) => Err(error).context("the certificate was not added to the ssh-agent"),
        (Err(error), _) => {
            eprintln!("The certificate was not added to the ssh-agent: {error}");
            Ok(())
        }
        (Ok(()), _) => Ok(()),
    }
}

fn names<'a, T: AsRef<str> + 'a>(names: impl IntoIterator<Item = &'a T>) -> String {
    names.into_iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ")
}

fn print_status(context: &Context, profile: &Profile) {
    println!("{}", block(context, profile, true));
}

fn block(context: &Context, profile: &Profile, current: bool) -> String {
    let now = context.clock.now();
    let left = profile.certificates.valid_before.saturating_since(now);
    let until =
        if left.is_zero() { "EXPIRED".to_owned() } else { format!("valid for {}", format_duration(left)) };
    let mark = if current { '>' } else { ' ' };
    format!(
        "{mark} Profile URL:  https://{}\n  Logged in as: {}\n  Cluster:      {}\n  Roles:        {}\n  Logins:       {}\n  Valid until:  {} [{until}]",
        profile.web_address.to_authority(),
        profile.user,
        profile.cluster(),
        names::<RoleName>(&profile.roles),
        names::<OsLogin>(&profile.logins),
        profile.certificates.valid_before,
    )
}

pub(super) fn status(context: &Context, options: Status) -> Result<ExitCode> {
    let (profiles, current) = match &context.identity {
        Some((_, profile)) => (vec![profile.clone()], Some(profile.name())),
        None => (context.profiles.list()?, context.profiles.current()?),
    };
    let is_current = |profile: &Profile| current.as_deref() == Some(&profile.name());
    let now = context.clock.now();
    let documents: Vec<_> = profiles
        .iter()
        .map(|profile| {
            json!({
                "profile_url": format!("https://{}", profile.web_address.to_authority()),
                "username": profile.user, "cluster": profile.cluster(), "roles": profile.roles, "logins": profile.logins,
                "valid_until": profile.certificates.valid_before, "valid": profile.is_valid(now), "active": is_current(profile),
            })
        })
        .collect();
    match options.format {
        Format::Text => {
            if profiles.is_empty() {
                bail!("not logged in");
            }
            let blocks: Vec<String> =
                profiles.iter().map(|profile| block(context, profile, is_current(profile))).collect();
            println!("{}", blocks.join("\n\n"));
        }
        Format::Json => print_json(&documents)?,
        Format::Yaml => options.format.print(&documents, String::new)?,
    }
    let active = profiles.iter().any(|profile| is_current(profile) && profile.is_valid(now));
    Ok(if active { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) async fn logout(context: &Context) -> Result<ExitCode> {
    let profiles = match &context.proxy {
        Some(proxy) => context.profiles.load(Some(proxy))?.into_iter().collect(),
        None => context.profiles.list()?,
    };
    if profiles.is_empty() {
        println!("Not logged in");
        return Ok(ExitCode::SUCCESS);
    }
    for profile in profiles {
        context.profiles.remove(&profile.name())?;
        if let Some(socket) = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()) {
            // The agent may not hold it, or may not answer: the files are gone in any case.
            let forget = Agent::at(socket);
            let _ =
                tokio::time::timeout(Duration::from_secs(2), forget.remove(&profile.certificates.ssh)).await;
        }
        println!("Logged out {} at {}", profile.user, profile.web_address.to_authority());
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn config(context: &Context) -> Result<ExitCode> {
    let profile = context.any_profile()?;
    let files = context.profiles.openssh_files(&profile)?;
    let block = openssh::config(profile.cluster(), &profile.ssh_address, profile.user.as_str(), &files)?;
    print!("{block}");
    Ok(ExitCode::SUCCESS)
}
