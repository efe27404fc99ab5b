//! The node's part of what a daemon does.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use teleport_core::label::Labels;
use teleport_ssh::node::{Displays, GatewayPorts, MAX_FORWARDED, RESUME_FOR};
use teleport_ssh::pam::{PamConfig, PamService};
use teleport_ssh::record::{SpoolLimits, TooOld};

use super::addresses::{address, hosts};
use super::file::{GatewayPortsName, PamSection, SpoolSection, SshSection, TooOldName, X11Section};
use super::{Size, parse_duration};

/// The node.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Whether it listens nowhere and has tunnels to the proxies, which are where the way to the auth service begins.
    pub tunnels: bool,
    /// Where it listens, if it does.
    pub listen: SocketAddr,
    /// Names and addresses that proxies reach it by.
    pub public_addresses: Vec<String>,
    /// Its labels.
    pub labels: Labels,
    /// What may wait for the auth service.
    pub recordings: SpoolLimits,
    /// What PAM is asked about sessions, if it is asked.
    pub pam: Option<PamConfig>,
    /// How long connections that were lost are kept for their clients; zero is not at all.
    pub resume_for: Duration,
    /// The most forwarded connections of one connection at a time.
    pub max_forwarded: usize,
    /// On which addresses users may have it listen.
    pub gateway_ports: GatewayPorts,
    /// The displays that sessions may have, if any.
    pub x11: Option<Displays>,
    /// This program, which it starts for users who copy files: [`THIS_PROGRAM`], unless it is part of another one.
    pub program: PathBuf,
}

/// This program itself, even after its file was replaced by a newer one.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

impl NodeSettings {
    /// Checks the section `ssh_service`, with the labels of the command line if it has any, and fills in the defaults. `by_proxy`: the way
    /// to the auth service begins at proxies.
    ///
    /// # Errors
    /// A sentence that names the key or flag and says what to do.
    pub(super) fn resolve(
        section: SshSection,
        by_proxy: bool,
        labels: Option<String>,
        ip: Option<IpAddr>,
    ) -> Result<Self> {
        let labels = match labels {
            Some(labels) => labels.parse().context("--labels")?,
            None => Labels::new(section.labels).context("ssh_service.labels")?,
        };
        Ok(Self {
            // Whoever says where it listens wants it to listen.
            tunnels: by_proxy && section.listen_addr.is_none(),
            listen: address(section.listen_addr.as_deref(), 3022, ip, "ssh_service.listen_addr")?,
            recordings: spool_limits(&section.recordings)?,
            resume_for: resume_for(section.resume_for.as_deref())?,
            max_forwarded: max_forwarded(section.max_forwarded)?,
            gateway_ports: match section.gateway_ports {
                GatewayPortsName::ClientSpecified => GatewayPorts::ClientSpecified,
                GatewayPortsName::No => GatewayPorts::No,
            },
            x11: displays(&section.x11)?,
            pam: pam(&section.pam)?,
            public_addresses: hosts(section.public_addr),
            labels,
            program: THIS_PROGRAM.into(),
        })
    }
}

/// How long connections are kept: at most a day, for each holds memory.
fn resume_for(text: Option<&str>) -> Result<Duration> {
    const MOST: Duration = Duration::from_secs(86_400);
    match text {
        None => Ok(RESUME_FOR),
        Some("off") => Ok(Duration::ZERO),
        Some(text) => {
            let time = parse_duration(text).map_err(anyhow::Error::msg).context("ssh_service.resume_for")?;
            if time > MOST || time < Duration::from_secs(1) {
                bail!("ssh_service.resume_for: say a time from 1s to 24h, or off");
            }
            Ok(time)
        }
    }
}

/// Half of the descriptors of the process bounds all of them together, whatever is said here.
fn max_forwarded(most: Option<u32>) -> Result<usize> {
    let most = most.map_or(Ok(MAX_FORWARDED), usize::try_from)?;
    if !(1..=65_536).contains(&most) {
        bail!(
            "ssh_service.max_forwarded: say 1 to 65536; that nobody forwards anything is for roles to say (port_forwarding)"
        );
    }
    Ok(most)
}

/// Less could not hold the recordings of a few sessions.
const MIN_SPOOL: u64 = 16 << 20;

fn spool_limits(section: &SpoolSection) -> Result<SpoolLimits> {
    let mut limits = SpoolLimits::default();
    if let Some(size @ Size(bytes)) = section.max_size {
        if bytes < MIN_SPOOL {
            bail!("ssh_service.recordings.max_size: {size} is too little; at least {}", Size(MIN_SPOOL));
        }
        limits.max_bytes = bytes;
    }
    if let Some(text) = &section.max_age {
        let age = parse_duration(text).map_err(anyhow::Error::msg);
        limits.max_age = age.context("ssh_service.recordings.max_age")?;
    }
    limits.too_old = match section.too_old {
        Some(TooOldName::Delete) => TooOld::Delete,
        Some(TooOldName::Keep) | None => TooOld::Keep,
    };
    Ok(limits)
}

/// The displays that sessions may have.
fn displays(section: &X11Section) -> Result<Option<Displays>> {
    let first = section.display_offset.unwrap_or(Displays::default().first());
    let displays = Displays::new(first, section.max_display).context("ssh_service.x11")?;
    Ok(section.enabled.is_some_and(|enabled| enabled.0).then_some(displays))
}

/// What PAM is asked about sessions.
fn pam(section: &PamSection) -> Result<Option<PamConfig>> {
    if section.use_pam_auth.is_some_and(|wanted| wanted.0) {
        bail!(
            "ssh_service.pam.use_pam_auth: users log in by certificates only; write false. Modules of `account` and `session` are asked"
        );
    }
    let service = section.service_name.as_deref().unwrap_or("sshd");
    let service = PamService::new(service).context("ssh_service.pam.service_name")?;
    let mut config = PamConfig::new(service);
    for (name, value) in &section.environment {
        config =
            config.variable(name, value).with_context(|| format!("ssh_service.pam.environment: {name:?}"))?;
    }
    Ok(section.enabled.is_some_and(|enabled| enabled.0).then_some(config))
}
