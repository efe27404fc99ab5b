//! Where the auth service keeps recordings, and how long.

mod transport;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use teleport_backend::recordings::age::{AgeIdentity, AgeKeys, EncryptedRecordingStore};
use teleport_backend::recordings::fs::FsRecordingStore;
use teleport_backend::recordings::s3::{S3Credentials, S3RecordingStore};
use teleport_core::auth::AuthService;
use teleport_core::recording::RecordingStore;
use teleport_core::secret::{Sealer, SecretString};
use teleport_core::task::Shutdown;

pub use self::transport::Https;
use super::Os;
use crate::config::{AuthSettings, RecordingPlace};

/// How often is looked for recordings that are not to be kept any longer.
const SWEEP: Duration = Duration::from_secs(600);

/// Opens the store that the settings name.
pub(super) async fn open(
    settings: &AuthSettings,
    sealer: &Arc<dyn Sealer>,
    os: &Os,
) -> Result<Arc<dyn RecordingStore>> {
    let store: Arc<dyn RecordingStore> = match &settings.recording_store {
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
    };
    let (recipients, files) = &settings.recording_keys;
    let mut identities = Vec::new();
    for file in files {
        identities.extend(identities_in(file)?);
    }
    if !recipients.is_empty() && identities.is_empty() {
        tracing::info!(
            "recordings are encrypted and cannot be played through this service: it has no identity_files"
        );
    }
    let keys = AgeKeys { recipients: recipients.clone(), identities };
    // Also without keys: what was encrypted before has to be told from what is not.
    let store = EncryptedRecordingStore::new(store, keys, Arc::clone(sealer), Arc::clone(&os.entropy))?;
    Ok(Arc::new(store))
}

fn identities_in(file: &Path) -> Result<Vec<AgeIdentity>> {
    use std::os::unix::fs::PermissionsExt;
    let name = "auth_service.session_recording_encryption.identity_files";
    let metadata = std::fs::metadata(file).with_context(|| format!("{name}: {}", file.display()))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        bail!("{name}: others can read {0}; chmod 600 {0}", file.display());
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("{name}: {}", file.display()))?;
    let identities = AgeIdentity::parse_file(&SecretString::new(text));
    identities.with_context(|| format!("{name}: {}", file.display()))
}

/// Deletes what is not to be kept any longer, and finishes deletions that were interrupted, until the process ends.
pub(super) async fn sweep(service: AuthService, shutdown: Shutdown) {
    loop {
        let pause = match service.sweep_recordings().await {
            Ok(swept) => {
                if swept.deleted > 0 {
                    tracing::info!(swept.deleted, swept.held, swept.more, "recordings were deleted");
                }
                if swept.more { Duration::from_secs(1) } else { SWEEP }
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "old recordings cannot be deleted now"
                );
                SWEEP
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.draining() => return,
        }
    }
}
