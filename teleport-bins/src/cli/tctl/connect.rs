//! How `tctl` reaches the auth service: on its own host by the identity in the data directory, elsewhere by the user's
//! identity file.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::HostRole;
use teleport_ssh::client::Profile;
use teleport_ssh::identity::{HostIdentityHandle, IdentityStore};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, Connector, ProxyConnector, UserCredentials};

use super::{Context, Options};
use crate::config::{default_data_dir, load, with_port};
use crate::daemon::{AUTH_ADDRESS_FILE, IDENTITY_DIR};

pub(super) async fn connect(options: &Options) -> Result<Context> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    match &options.identity {
        Some(path) => with_identity_file(options, path, clock),
        None => on_the_auth_host(options, clock),
    }
}

fn data_dir(options: &Options) -> Result<PathBuf> {
    if let Some(dir) = &options.data_dir {
        return Ok(dir.clone());
    }
    let file = match &options.config {
        Some(path) if path.as_os_str().is_empty() => None,
        Some(path) => Some(path.clone()),
        None => Some(PathBuf::from("/etc/teleport.yaml")).filter(|path| path.exists()),
    };
    match file.map(|path| load(&path)).transpose()?.and_then(|file| file.teleport.data_dir) {
        Some(dir) => Ok(dir),
        None => default_data_dir(),
    }
}

fn on_the_auth_host(options: &Options, clock: Arc<dyn Clock>) -> Result<Context> {
    let dir = data_dir(options)?;
    let own = dir.join(IDENTITY_DIR).join(HostRole::Auth.as_str());
    match std::fs::metadata(&own) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!(
                "{} may be read by its owner only; run tctl as the user that runs the daemon",
                dir.display()
            )
        }
        Err(_) => bail!(
            "there is no auth service in {}: run tctl on the auth host (--data-dir says where its data is), \
             or with --auth-server and --identity elsewhere",
            dir.display()
        ),
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
    Ok(Context { api: Arc::new(api), auth_address: address })
}

fn with_identity_file(options: &Options, path: &std::path::Path, clock: Arc<dyn Clock>) -> Result<Context> {
    let profile = Profile::read(path)?;
    if !profile.is_valid(clock.now()) {
        bail!("the certificate in {} has expired; make a new one with tsh login --out", path.display());
    }
    let server = options.auth_server.as_deref().context("say where with --auth-server=<host>")?;
    let address = with_port(server, 3025);
    // The auth service takes connections that are meant for a proxy's way to it: nobody has to say which of the two it is.
    let connector: Arc<dyn Connector> =
        Arc::new(ProxyConnector::new([address.as_str()], profile.cluster().clone()));
    let user = UserCredentials {
        tls: profile.tls.clone(),
        certificate: profile.certificates.tls.clone(),
        trust: profile.trust.clone(),
    };
    let api = AuthClient::builder(connector, ClientIdentity::User(user), clock).build();
    Ok(Context { api: Arc::new(api), auth_address: address })
}
