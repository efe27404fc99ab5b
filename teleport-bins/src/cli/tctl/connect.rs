//! As whom `tctl` calls the auth service, and how it reaches it: by an identity file; on the auth host by what lies in its data
//! directory; else as whoever is logged in with `tsh`.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use teleport_core::api::{ApiError, ApiErrorKind};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::{ClusterName, HostId, HostRole, RoleName, UserName};
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{IdentityFile, Profile, ProfileStore, ProxyAddresses};
use teleport_ssh::identity::{HostIdentityHandle, IdentityStore};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, Connector, ProxyConnector};

use super::super::user::{self, auth_client};
use super::{Context, Options};
use crate::config::{FileConfig, RecordingPlace, default_data_dir, load, with_port};
use crate::daemon::{AUTH_ADDRESS_FILE, IDENTITY_DIR};

/// As whom the auth service is called.
pub(super) enum Caller {
    /// As the auth service itself: there is nothing that it may not do.
    AuthHost,
    /// As a user, who may do what the roles allow.
    User { name: UserName, roles: Vec<RoleName>, cluster: ClusterName, by: String },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AuthHost => f.write_str("the auth service of this host"),
            Self::User { name, roles, by, .. } => {
                let roles: Vec<&str> = roles.iter().map(RoleName::as_str).collect();
                let roles = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
                write!(f, "{name} (roles: {roles}), by {by}")
            }
        }
    }
}

impl Context {
    /// Who was denied, or who was not found where: there are several whom it can have been.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let api = error.chain().find_map(|cause| cause.downcast_ref::<ApiError>());
        match (&self.caller, api.map(ApiError::kind)) {
            (caller @ Caller::User { .. }, Some(ApiErrorKind::Denied)) => {
                anyhow::anyhow!("{error:#}; tctl acted as {caller}")
            }
            (Caller::User { cluster, by, .. }, Some(ApiErrorKind::Unavailable)) => {
                let at = &self.auth_address;
                anyhow::anyhow!("{error:#}; asked {at} for the cluster {cluster} of {by}")
            }
            _ => error,
        }
    }
}

/// Why an identity is not used that nobody asked for.
type NotUsed = String;

pub(super) fn connect(options: &Options) -> Result<Context> {
    let context = choose(options, Arc::new(SystemClock::new()))?;
    tracing::debug!("acts as {} at {}", context.caller, context.auth_address);
    Ok(context)
}

fn choose(options: &Options, clock: Arc<dyn Clock>) -> Result<Context> {
    let said = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = said(&options.identity) {
        return with_identity_file(options, &path, clock);
    }
    let here = said(&options.data_dir).is_some() || said(&options.config).is_some();
    if options.proxy.is_some() && !here {
        return with_login(options, clock)?.map_err(anyhow::Error::msg);
    }
    let not_here = match on_the_auth_host(options, here, Arc::clone(&clock))? {
        Ok(context) => return Ok(context),
        Err(reason) if here => bail!(
            "{reason}: run tctl on the auth host as who runs the daemon, or elsewhere without --data-dir and --config"
        ),
        Err(reason) => reason,
    };
    tracing::debug!("not the auth service of this host: {not_here}");
    match with_login(options, clock)? {
        Ok(context) => Ok(context),
        Err(not_logged_in) => bail!(
            "{not_here}; and {not_logged_in}. Run tctl on the auth host (--data-dir says where its data is), after \
             `tsh login --proxy=<host>`, or with --identity=<file>"
        ),
    }
}

fn data_dir(options: &Options) -> Result<PathBuf> {
    if let Some(dir) = &options.data_dir {
        return Ok(dir.clone());
    }
    match config_file(options)?.and_then(|file| file.teleport.data_dir) {
        Some(dir) => Ok(dir),
        None => default_data_dir(),
    }
}

/// The daemon's configuration, if there is one.
fn config_file(options: &Options) -> Result<Option<FileConfig>> {
    let file = match &options.config {
        Some(path) if path.as_os_str().is_empty() => None,
        Some(path) => Some(path.clone()),
        None => Some(PathBuf::from("/etc/teleport.yaml")).filter(|path| path.exists()),
    };
    Ok(file.map(|path| load(&path)).transpose()?)
}

/// Where the audit log of this host's auth service is.
pub(super) fn audit_dir(options: &Options) -> Result<PathBuf> {
    let uris = config_file(options)?.and_then(|file| file.teleport.storage.audit_events_uri);
    let section = crate::config::file::AuditSection::default();
    let audit = crate::config::AuditSettings::resolve(&section, uris)?.directory;
    audit.map_or_else(|| Ok(data_dir(options)?.join("audit")), Ok)
}

/// The id of this host's auth service, if there is one that can be asked.
pub(super) fn auth_host(options: &Options) -> Option<HostId> {
    let own = data_dir(options).ok()?.join(IDENTITY_DIR).join(HostRole::Auth.as_str());
    std::fs::metadata(&own).ok()?;
    Some(IdentityStore::open(&own).ok()?.load(HostRole::Auth).ok()??.host_id)
}

/// Where the recordings of this host's auth service are, and what reads them.
pub(super) struct Recordings {
    pub(super) data_dir: PathBuf,
    pub(super) place: RecordingPlace,
    pub(super) identity_files: Vec<PathBuf>,
}

pub(super) fn recordings(options: &Options) -> Result<Recordings> {
    let data_dir = data_dir(options)?;
    let file = config_file(options)?.unwrap_or_default();
    Ok(Recordings {
        place: RecordingPlace::of(file.teleport.storage.audit_sessions_uri.as_deref(), &data_dir)?,
        identity_files: file.auth_service.session_recording_encryption.identity_files,
        data_dir,
    })
}

/// `asked` says whether the command line names a data directory or a configuration.
fn on_the_auth_host(
    options: &Options,
    asked: bool,
    clock: Arc<dyn Clock>,
) -> Result<Result<Context, NotUsed>> {
    let dir = match data_dir(options) {
        Ok(dir) => dir,
        // The configuration of this machine's daemon is nothing to whoever is logged in elsewhere.
        Err(error) if !asked => return Ok(Err(format!("{error:#}"))),
        Err(error) => return Err(error),
    };
    let own = dir.join(IDENTITY_DIR).join(HostRole::Auth.as_str());
    match std::fs::metadata(&own) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Ok(Err(format!("{} may be read by its owner only, who runs the daemon", dir.display())));
        }
        Err(_) => return Ok(Err(format!("there is no auth service in {}", dir.display()))),
    }
    let material = IdentityStore::open(&own)?.load(HostRole::Auth)?;
    let material =
        material.with_context(|| format!("the auth service in {} was never started", dir.display()))?;
    let address = match &options.auth_server {
        Some(server) => with_port(server, 3025),
        None => std::fs::read_to_string(dir.join(AUTH_ADDRESS_FILE))
            .with_context(|| {
                format!("{} does not say where the auth service listens; is it running?", dir.display())
            })?
            .trim()
            .to_owned(),
    };
    let connector: Arc<dyn Connector> =
        Arc::new(ProxyConnector::new([address.as_str()], material.cluster.clone()));
    let identity = ClientIdentity::Host(HostIdentityHandle::new(material));
    let api = AuthClient::builder(connector, identity, clock).build();
    Ok(Ok(Context { api: Arc::new(api), auth_address: address, caller: Caller::AuthHost, proxy: None }))
}

/// The proxy that is meant, if one was said.
fn proxy(options: &Options) -> Result<Option<ProxyAddress>> {
    let variable = || std::env::var("TELEPORT_PROXY").ok().filter(|proxy| !proxy.is_empty());
    options.proxy.clone().or_else(variable).map(|proxy| user::parse_proxy(&proxy)).transpose()
}

fn with_login(options: &Options, clock: Arc<dyn Clock>) -> Result<Result<Context, NotUsed>> {
    let profiles = ProfileStore::at(user::home(options.home.clone())?);
    let proxy = proxy(options)?;
    let Some(profile) = profiles.load(proxy.as_ref())? else {
        let at = proxy.map(|proxy| format!(" at {}", proxy.to_authority())).unwrap_or_default();
        return Ok(Err(format!("nobody is logged in{at} with tsh (in {})", profiles.home().display())));
    };
    let Profile { web_address: web, ssh_address: ssh, .. } = &profile;
    if !profile.is_valid(clock.now()) {
        bail!(
            "the login of {} at {at} ended at {}; run: tsh login --proxy={at} --user={}",
            profile.user,
            profile.certificates.valid_before,
            profile.user,
            at = web.to_authority()
        );
    }
    let address = options.auth_server.as_ref().map(|server| with_port(server, 3025));
    let address = address.unwrap_or_else(|| web.to_authority());
    let caller = Caller::User {
        name: profile.user.clone(),
        roles: profile.roles.clone(),
        cluster: profile.cluster().clone(),
        by: format!("the login of tsh at {}", web.to_authority()),
    };
    let proxy = Some(ProxyAddresses { web: web.clone(), ssh: ssh.clone() });
    let api = auth_client(&profile, &address, clock);
    Ok(Ok(Context { api: Arc::new(api), auth_address: address, caller, proxy }))
}

fn with_identity_file(options: &Options, path: &Path, clock: Arc<dyn Clock>) -> Result<Context> {
    let identity = IdentityFile::read(path)?;
    if !identity.is_valid(clock.now()) {
        return Err(user::over(path, identity.certificates.valid_before));
    }
    let address = match (&options.auth_server, proxy(options)?, &identity.proxy) {
        (Some(server), ..) => with_port(server, 3025),
        (None, Some(proxy), _) => proxy.to_authority(),
        (None, None, Some(known)) => known.web.to_authority(),
        (None, None, None) => {
            bail!("{} does not say where: say --proxy=<host> or --auth-server=<host:port>", path.display())
        }
    };
    let caller = Caller::User {
        name: identity.user.clone(),
        roles: identity.roles.clone(),
        cluster: identity.trust.cluster.clone(),
        by: format!("the identity file {}", path.display()),
    };
    let api = auth_client(&identity, &address, clock);
    Ok(Context { api: Arc::new(api), auth_address: address, caller, proxy: identity.proxy })
}
