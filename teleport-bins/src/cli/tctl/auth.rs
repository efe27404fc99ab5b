//! `tctl auth`: certificates for programs and servers, and the authorities that sign them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use teleport_core::api::{SignHost, SignUser, SignedHost};
use teleport_core::audit::chain::CheckpointKey;
use teleport_core::cert::{CLOCK_SKEW, CaPin, PublicKey, SubjectKeys, TrustBundle, X509Authority};
use teleport_core::clock::Timestamp;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::UserName;
use teleport_ssh::client::openssh::{ProxyAddress, host_authority};
use teleport_ssh::client::{FileFormat, IdentityFile, ProxyAddresses, write_openssh};
use teleport_ssh::keys::{SshKeyPair, TlsKeyPair};
use teleport_ssh::pem;

use super::super::out::{self, OutFormat};
use super::super::{print_text, sanitize};
use super::{Context, ttl};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the public halves of the cluster's authorities
    Export(Export),
    /// Make keys here and have them certified: for a program that is a user, or for the host key of a plain OpenSSH server
    ///
    /// Only public keys travel. What a user gets is what a login would give at this moment. It takes a role that allows the verb
    /// `create` on `user_cert` or `host_cert` by these names; no built-in role does, the auth host may.
    Sign(Sign),
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Which authorities, and in which form
    #[arg(long = "type", value_enum, value_delimiter = ',', default_value = "user,host")]
    types: Vec<Authority>,
    /// Only the one with this fingerprint: SHA256:… of an SSH key, sha256:… (a CA pin) of an X.509 authority
    #[arg(long)]
    fingerprint: Option<String>,
    /// Private keys: refused
    #[arg(long)]
    keys: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Authority {
    /// Of users, as lines for authorized_keys
    User,
    /// Of hosts, as lines for known_hosts
    Host,
    /// Of logins by way of a proxy, as lines for TrustedUserCAKeys of an sshd that is registered as a node
    Openssh,
    /// Of users, as lines for TrustedUserCAKeys of an sshd that is not: it knows nothing of roles
    UserSshd,
    /// Of hosts' X.509 identities, as PEM
    TlsHost,
    /// Of users' X.509 identities, as PEM
    TlsUser,
    /// Not an authority: the key that signs the audit log's checkpoints, as PEM, for `tctl audit verify --key`
    Audit,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").required(true))]
pub(super) struct Sign {
    /// For this user
    #[arg(long, group = "whom")]
    user: Option<UserName>,
    /// For an SSH server that clients reach by these names and addresses
    #[arg(long, group = "whom", value_delimiter = ',', value_name = "NAME,NAME")]
    host: Vec<String>,
    /// Where to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// What to write [default: file for users, openssh for hosts]
    #[arg(long, value_enum)]
    format: Option<OutFormat>,
    /// How long it is good [default: as a login for users, 30 days for hosts]; roles of the user may shorten it
    #[arg(long, value_parser = ttl)]
    ttl: Option<Duration>,
    /// Replace files that exist
    #[arg(long)]
    overwrite: bool,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Export(export) => {
            if export.keys {
                bail!(
                    "private keys of authorities are not exported; `tctl get all --with-secrets` on the auth host makes a \
                     backup that holds them, sealed with its master key"
                );
            }
            let trust = context.api.trust().await?;
            let audit = if export.types.contains(&Authority::Audit) {
                context.api.audit_anchors().await?.keys
            } else {
                Vec::new()
            };
            print_text(&exported(&trust, &audit, &export)?)
        }
        Command::Sign(sign) => match &sign.user {
            Some(user) => sign_user(context, user.clone(), &sign).await,
            None => sign_host(context, &sign).await,
        },
    }
}

async fn sign_user(context: &Context, user: UserName, options: &Sign) -> Result<()> {
    let format = options.format.unwrap_or(OutFormat::File);
    out::refuse_existing(&options.out, format, options.overwrite)?;
    let entropy = SystemEntropy::new();
    let (ssh, tls) = (SshKeyPair::generate(&entropy)?, TlsKeyPair::generate(&entropy)?);
    let keys = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
    let request = SignUser { user, keys, ttl: options.ttl.map(|ttl| ttl.as_secs()) };
    let response = context.api.sign_user(request).await?;
    let proxy = match &context.proxy {
        Some(known) => Some(known.clone()),
        None => a_proxy(context).await,
    };
    let identity = IdentityFile::issued(response, ssh, tls, proxy)
        .context("what the auth service answered is not usable")?;
    out::write(&identity, format, &options.out, options.overwrite)?;
    let made = &identity.certificates;
    tell_if_shorter(options.ttl, made.valid_after, made.valid_before, "the roles of the user allow");
    Ok(())
}

/// A proxy that is online and has addresses of its own. Whoever may not look at the cluster knows none.
async fn a_proxy(context: &Context) -> Option<ProxyAddresses> {
    let status = context.api.status().await.ok()?;
    let address = |text: &str| {
        let address = ProxyAddress::parse(text).ok()?;
        let anywhere = address.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        (!anywhere).then_some(address)
    };
    status.proxies.iter().filter(|proxy| proxy.is_online(status.time)).find_map(|proxy| {
        let (web, ssh) = (address(&proxy.record.web_address)?, address(&proxy.record.ssh_address)?);
        Some(ProxyAddresses { web, ssh })
    })
}

async fn sign_host(context: &Context, options: &Sign) -> Result<()> {
    if options.format.is_some_and(|format| format != OutFormat::Openssh) {
        bail!(
            "--host makes certificates for OpenSSH servers alone: leave out --format, or say --format=openssh"
        );
    }
    out::refuse_existing(&options.out, OutFormat::Openssh, options.overwrite)?;
    let key = SshKeyPair::generate(&SystemEntropy::new())?;
    let ttl = options.ttl.map(|ttl| ttl.as_secs());
    let request = SignHost { names: options.host.clone(), key: key.public(), ttl };
    let SignedHost { certificate: signed, trust } = context.api.sign_host(request).await?;
    out::refuse_existing(&options.out, OutFormat::Openssh, options.overwrite)?;
    let names = sanitize(&options.host.join(","));
    let comment = options.host.first().map(String::as_str).unwrap_or_default();
    write_openssh(&key, &signed.ssh, &sanitize(comment), &options.out)?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let paths: Vec<PathBuf> =
        FileFormat::Openssh.paths(&options.out).iter().map(|path| absolute(path)).collect();
    let [host_key, certificate] = paths.as_slice() else { bail!("there are two files") };
    let known = known_by(&trust, &options.host);
    println!(
        "The host key of {names} is certified until {}. In its sshd_config:\n\n\
         HostKey {}\nHostCertificate {}\n\n\
         Clients know it by {}",
        signed.valid_before,
        host_key.display(),
        certificate.display(),
        known,
    );
    tell_if_shorter(options.ttl, signed.valid_after, signed.valid_before, "certificates of hosts last");
    Ok(())
}

/// How clients recognise a server: by the line for all of the cluster, if its names are within the cluster's, else by one of its own.
fn known_by(trust: &TrustBundle, names: &[String]) -> String {
    let within = format!(".{}", trust.cluster);
    if names.iter().all(|name| name.to_ascii_lowercase().ends_with(&within)) {
        return "`tctl auth export --type=host` in their known_hosts.".to_owned();
    }
    // With brackets `ssh` looks for it at other ports than 22.
    let names = names.iter().map(|name| sanitize(&name.to_ascii_lowercase()));
    let patterns: Vec<String> = names.flat_map(|name| [format!("[{name}]:*"), name]).collect();
    let line = |key: &PublicKey| format!("\n\n@cert-authority {} {key}", patterns.join(","));
    let lines: String = trust.host_ca.iter().map(line).collect();
    format!("this in their known_hosts:{lines}")
}

fn tell_if_shorter(asked: Option<Duration>, after: Timestamp, before: Timestamp, why: &str) {
    // By the clock that it was made by: it is valid from a moment before.
    let life = before.saturating_since(after).saturating_sub(CLOCK_SKEW);
    if asked.is_some_and(|asked| life < asked) {
        eprintln!("That is sooner than --ttl asks: {why} no longer.");
    }
}

/// What is to be printed.
fn exported(trust: &TrustBundle, audit: &[CheckpointKey], options: &Export) -> Result<String> {
    let cluster = &trust.cluster;
    let chosen = |fingerprint: Option<String>| match (&options.fingerprint, fingerprint) {
        (Some(wanted), seen) => Some(wanted) == seen.as_ref(),
        (None, _) => true,
    };
    let ssh = |keys: &[PublicKey], line: &dyn Fn(&PublicKey) -> String| -> Vec<String> {
        keys.iter().filter(|key| chosen(Some(key.fingerprint()))).map(line).collect()
    };
    let tls = |authorities: &[X509Authority]| -> Vec<String> {
        let pin = |authority: &X509Authority| authority.spki().map(|spki| CaPin::of_spki(spki).to_string());
        let chosen = authorities.iter().filter(|authority| chosen(pin(authority)));
        chosen.map(|authority| pem::encode("CERTIFICATE", authority.as_der()).trim_end().to_owned()).collect()
    };
    let mut lines = Vec::new();
    for authority in &options.types {
        lines.extend(match authority {
            Authority::User => {
                ssh(&trust.user_ca, &|key| format!("cert-authority {key} clustername={cluster}&type=user"))
            }
            Authority::Host => ssh(&trust.host_ca, &|key| host_authority(cluster, key)),
            Authority::Openssh => {
                ssh(&trust.openssh_ca, &|key| format!("{key} clustername={cluster}&type=openssh"))
            }
            Authority::UserSshd => {
                ssh(&trust.user_ca, &|key| format!("{key} clustername={cluster}&type=user"))
            }
            Authority::TlsHost => tls(&trust.host_tls_ca),
            Authority::TlsUser => tls(&trust.user_tls_ca),
            Authority::Audit => {
                let chosen = audit.iter().filter(|key| chosen(Some(key.id().to_string())));
                chosen.map(|key| key.to_pem().trim_end().to_owned()).collect()
            }
        });
    }
    if lines.is_empty() {
        bail!(
            "no authority of these types has the fingerprint {}",
            options.fingerprint.as_deref().unwrap_or("-")
        );
    }
    Ok(lines.join("\n"))
}
