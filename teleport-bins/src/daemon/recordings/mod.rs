//! Where the auth service keeps recordings, and how long.

mod transport;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use teleport_backend::recordings::age::{AgeIdentity, AgeKeys, EncryptedRecordingStore};
use teleport_backend::recordings::fs::FsRecordingStore;
use teleport_backend::recordings::s3::{S3Credentials, S3RecordingStore};
use teleport_core::auth::{AuthService, KeptAt};
use teleport_core::entropy::{Entropy, EntropyExt as _};
use teleport_core::recording::RecordingStore;
use teleport_core::secret::{Sealer, SecretBytes, SecretString};
use teleport_core::task::Shutdown;
use zeroize::Zeroizing;

pub use self::transport::Https;
use super::Os;
use super::wall_clock::WallClock;
use crate::config::{AuthSettings, RecordingPlace};

/// How often is looked for recordings that are not to be kept any longer.
const SWEEP: Duration = Duration::from_secs(600);

/// Opens the store that the settings name.
pub(super) async fn open(
    settings: &AuthSettings,
    sealer: &Arc<dyn Sealer>,
    os: &Os,
) -> Result<Arc<dyn RecordingStore>> {
    let store = place(&settings.recording_store).await?;
    let (recipients, files) = &settings.recording_keys;
    let identities = identities(files)?;
    if !recipients.is_empty() && identities.is_empty() {
        tracing::info!(
            "recordings are encrypted and cannot be played through this service: it has no identity_files"
        );
    }
    // Also without keys: what was encrypted before has to be told from what is not.
    encrypted(store, AgeKeys { recipients: recipients.clone(), identities }, sealer, &os.entropy)
}

/// What tells a place from others.
pub(super) async fn kept_at(place: &RecordingPlace, os: &Os) -> Result<KeptAt> {
    Ok(match place {
        RecordingPlace::Directory(path) => {
            let what = || format!("recordings cannot be kept in {}", path.display());
            let store = FsRecordingStore::open(path).await.with_context(what)?;
            let id = store.id(os.entropy.uuid()?).await.with_context(what)?;
            KeptAt { id: format!("directory {id}"), name: path.display().to_string() }
        }
        // Which keys and which certificates lead there is nobody else's business, and may differ.
        RecordingPlace::S3(config) => KeptAt { id: config.place(), name: config.place() },
    })
}

/// Opens a place, with what is in it as it is stored.
pub(crate) async fn place(place: &RecordingPlace) -> Result<Arc<dyn RecordingStore>> {
    Ok(match place {
        RecordingPlace::Directory(path) => Arc::new(
            FsRecordingStore::open(path)
                .await
                .with_context(|| format!("recordings cannot be kept in {}", path.display()))?,
        ),
        RecordingPlace::S3(config) => {
            let transport = Arc::new(Https::new()?);
            let store = S3RecordingStore::new(config, &S3Credentials::Environment, transport)
                .with_context(|| format!("recordings cannot be kept in {config}"))?;
            match store.check().await {
                // It would be the same at each upload.
                Err(error) if error.is_refusal() => {
                    return Err(error).context("recordings cannot be kept as audit_sessions_uri says");
                }
                // Nodes keep what they cannot deliver.
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "recordings cannot be taken now; nodes keep them until it is possible"
                ),
                Ok(()) => {}
            }
            Arc::new(store)
        }
    })
}

/// What is in a place, decrypted by these keys and encrypted for them.
pub(crate) fn encrypted(
    store: Arc<dyn RecordingStore>,
    keys: AgeKeys,
    sealer: &Arc<dyn Sealer>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Arc<dyn RecordingStore>> {
    Ok(Arc::new(EncryptedRecordingStore::new(store, keys, Arc::clone(sealer), Arc::clone(entropy))?))
}

/// What has sealed the digests of encrypted recordings; `None` where no auth service keeps its data.
pub(crate) fn sealer_of(data_dir: &Path, entropy: &Arc<dyn Entropy>) -> Result<Option<Arc<dyn Sealer>>> {
    let path = data_dir.join("master.key");
    let key = match std::fs::read(&path) {
        Ok(key) => SecretBytes::new(key),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("the master key {} cannot be read", path.display()));
        }
    };
    let sealer = teleport_ca::seal::Sealer::new(&key, Arc::clone(entropy));
    let sealer = sealer.with_context(|| format!("the master key {} cannot be used", path.display()))?;
    Ok(Some(Arc::new(sealer)))
}

/// The keys in these files.
pub(crate) fn identities(files: &[PathBuf]) -> Result<Vec<AgeIdentity>> {
    let mut identities = Vec::new();
    for file in files {
        identities.extend(identities_in(file)?);
    }
    Ok(identities)
}

fn identities_in(file: &Path) -> Result<Vec<AgeIdentity>> {
    use std::os::unix::fs::PermissionsExt;
    let name = "auth_service.session_recording_encryption.identity_files";
    let metadata = std::fs::metadata(file).with_context(|| format!("{name}: {}", file.display()))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        bail!("{name}: others can read {0}; chmod 600 {0}", file.display());
    }
    let content =
        std::fs::read(file).map(Zeroizing::new).with_context(|| format!("{name}: {}", file.display()))?;
    if ["age-encryption.org/", "-----BEGIN AGE "].iter().any(|begin| content.starts_with(begin.as_bytes())) {
        bail!(
            "{name}: {0} is encrypted itself, and a service has nobody to ask for the passphrase; decrypt it with `age -d {0}`",
            file.display()
        );
    }
    let text = std::str::from_utf8(&content).with_context(|| format!("{name}: {}", file.display()))?;
    let identities = AgeIdentity::parse_file(&SecretString::new(text));
    identities.with_context(|| format!("{name}: {}", file.display()))
}

/// Deletes what is not to be kept any longer, and finishes deletions that were interrupted, until the process ends. Not by a clock that has jumped
/// ahead: everything is old by it.
pub(super) async fn sweep(service: AuthService, clock: WallClock, shutdown: Shutdown) {
    loop {
        let pause = if clock.is_believed() { sweep_once(&service).await } else { SWEEP };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.draining() => return,
        }
    }
}

/// Says when to go on.
async fn sweep_once(service: &AuthService) -> Duration {
    match service.sweep_recordings().await {
        Ok(swept) => {
            if swept.deleted > 0 {
                tracing::info!(swept.deleted, swept.held, swept.more, "recordings were deleted");
            }
            if swept.more { Duration::from_secs(1) } else { SWEEP }
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "old recordings cannot be deleted now");
            SWEEP
        }
    }
}
