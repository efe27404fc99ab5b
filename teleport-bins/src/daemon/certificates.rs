//! What browsers are shown at the proxy's web port: the cluster's own certificate, files, or a certificate by ACME.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use teleport_core::clock::Clock;
use teleport_core::secret::SecretString;
use teleport_core::task::Shutdown;
use teleport_ssh::acme::Acme;
use teleport_ssh::proxy_web::{KeyFiles, WebCertificates};
use zeroize::Zeroizing;

use super::Os;
use super::data_dir::DataDir;
use crate::config::Https;

/// The longest file with a key, in bytes.
const MAX_KEY_FILE: usize = 64 << 10;

/// What is shown, and what looks after it.
pub(super) struct Certificates {
    shown: WebCertificates,
    keeper: Keeper,
}

enum Keeper {
    Acme(Box<Acme>),
    Files(KeyFiles, Option<Duration>),
    Nobody,
}

impl Certificates {
    pub(super) fn open(https: &Https, data_dir: &DataDir, os: &Os) -> Result<Self> {
        let shown = WebCertificates::default();
        Ok(match https {
            Https::Own => {
                tracing::info!(
                    "browsers are shown the cluster's own certificate, which they do not know; \
                     see proxy_service.https_keypairs and proxy_service.acme"
                );
                Self { shown, keeper: Keeper::Nobody }
            }
            Https::Files { pairs, reload } => {
                let files = KeyFiles::load(pairs.iter().cloned()).context("proxy_service.https_keypairs")?;
                Self { shown: files.certificates(), keeper: Keeper::Files(files, *reload) }
            }
            Https::Acme { config, ca_file, http_listen, external } => {
                let mut config =
                    config.clone().roots(roots(ca_file.as_deref()).context("proxy_service.acme")?);
                if let Some((id, file)) = external {
                    let what = || format!("proxy_service.acme.eab_hmac_file: {}", file.display());
                    let key = read_key(file).with_context(what)?;
                    config =
                        config.external_account(id, &SecretString::new(key.trim())).with_context(what)?;
                }
                let (clock, entropy) = (Arc::clone(&os.clock), Arc::clone(&os.entropy));
                let mut acme = Acme::open(config, &data_dir.join("acme"), shown.clone(), clock, entropy)
                    .context("proxy_service.acme")?;
                if let Some(address) = http_listen {
                    acme = acme.prove_by_http(*address).context("proxy_service.acme.http_listen_addr")?;
                }
                Self { shown, keeper: Keeper::Acme(Box::new(acme)) }
            }
        })
    }

    pub(super) fn shown(&self) -> WebCertificates {
        self.shown.clone()
    }

    /// Looks after it until `shutdown` drains.
    pub(super) async fn keep(self, clock: Arc<dyn Clock>, shutdown: Shutdown) {
        match self.keeper {
            Keeper::Acme(acme) => acme.run(shutdown).await,
            Keeper::Files(files, reload) => files.follow(reload, clock, shutdown).await,
            Keeper::Nobody => {}
        }
    }
}

/// What a file with a key says. Nothing that is longer than any key is read to its end.
fn read_key(file: &Path) -> Result<Zeroizing<String>> {
    // It has room for all of it: what grows leaves copies behind.
    let mut key = Zeroizing::new(String::with_capacity(MAX_KEY_FILE + 64));
    let most = u64::try_from(MAX_KEY_FILE).unwrap_or(u64::MAX);
    std::fs::File::open(file)?.take(most.saturating_add(1)).read_to_string(&mut key)?;
    if key.len() > MAX_KEY_FILE {
        bail!("it is longer than {MAX_KEY_FILE} bytes, and no file with a key");
    }
    Ok(key)
}

/// The certificates of the authorities that vouch for a directory.
fn roots(file: Option<&Path>) -> Result<Vec<Vec<u8>>> {
    let found: Vec<CertificateDer<'_>> = match file {
        Some(path) => {
            let what = || format!("ca_file: {} cannot be used", path.display());
            let pem = std::fs::read(path).with_context(what)?;
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().with_context(what)?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    match (found.is_empty(), file) {
        (false, _) => Ok(found.into_iter().map(|der| der.to_vec()).collect()),
        (true, Some(path)) => bail!("ca_file: {} has no certificate", path.display()),
        (true, None) => {
            bail!(
                "this system knows no authorities; install them (on Debian the package ca-certificates), or say ca_file"
            )
        }
    }
}
