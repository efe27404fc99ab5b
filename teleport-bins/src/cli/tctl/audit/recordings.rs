//! Comparing recordings with the digests that the audit log has of them.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use teleport_backend::recordings::age::AgeKeys;
use teleport_backend::recordings::fs::FsRecordingStore;
use teleport_core::audit::EventKind;
use teleport_core::audit::chain::{Digest, Entry, Finding, Flaw};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::id::SessionId;
use teleport_core::recording::{ContentDigest, Encoding, RecordingError, RecordingStore};

use super::super::{Options, connect};
use super::plural;
use crate::config::RecordingPlace;
use crate::daemon::recordings;

/// How many recordings are what.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Counts {
    /// They have the digest that the log says.
    whole: u64,
    /// They are encrypted, and no identity of theirs is here: what was sealed with them is what the log says.
    sealed: u64,
    /// They are encrypted, and the master key that has sealed them is not here.
    unread: u64,
    /// They are gone, and the log says who deleted them.
    deleted: u64,
    /// They are gone.
    absent: u64,
    /// The log has no digest of them.
    unbound: u64,
}

/// The recordings that the log names.
pub(super) struct Recordings {
    store: Arc<dyn RecordingStore>,
    /// Whether the store knows what was sealed with encrypted recordings.
    opens: bool,
    counts: Counts,
    gone: HashSet<SessionId>,
}

#[derive(Deserialize)]
struct Line {
    code: String,
    sid: Option<SessionId>,
    sha256: Option<Digest>,
    parts_sha256: Option<Digest>,
}

impl Recordings {
    /// Those of the auth service of this host, or those of another place.
    pub(super) async fn open(options: &Options, said: Option<&str>) -> Result<Self> {
        let host = connect::recordings(options);
        let place = match said {
            None => host.as_ref().map_err(|error| anyhow!("{error:#}"))?.place.clone(),
            Some(uri) if uri.contains("://") => RecordingPlace::parse(uri).context("--recordings")?,
            Some(dir) => RecordingPlace::Directory(dir.into()),
        };
        if let RecordingPlace::Directory(dir) = &place
            && !dir.is_dir()
        {
            bail!("--recordings: there are no recordings in {}", dir.display());
        }
        let store: Arc<dyn RecordingStore> = match &place {
            // Nothing is written to it.
            RecordingPlace::Directory(dir) => Arc::new(FsRecordingStore::existing(dir)),
            RecordingPlace::S3(_) => recordings::place(&place).await?,
        };
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        // Elsewhere than on the auth host, what is encrypted stays so.
        let keys = host.and_then(|host| {
            let sealer = recordings::sealer_of(&host.data_dir, &entropy)?;
            Ok(sealer.map(|sealer| (sealer, host.identity_files)))
        });
        let (sealer, files) = match keys {
            Ok(Some(keys)) => keys,
            Err(error) if said.is_none() => return Err(error),
            Ok(None) | Err(_) => return Ok(Self::over(store, false)),
        };
        let keys = AgeKeys { recipients: Vec::new(), identities: recordings::identities(&files)? };
        Ok(Self::over(recordings::encrypted(store, keys, &sealer, &entropy)?, true))
    }

    fn over(store: Arc<dyn RecordingStore>, opens: bool) -> Self {
        Self { store, opens, counts: Counts::default(), gone: HashSet::new() }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { absent: self.gone.len() as u64, ..self.counts }
    }

    /// A sentence about them.
    pub(super) fn text(&self) -> String {
        let Counts { whole, sealed, unread, deleted, absent, unbound } = self.counts();
        let mut text = format!("{} as the log says", plural(whole, "recording"));
        for (count, what) in [
            (sealed, "encrypted for keys that are not here: what is sealed with them is as the log says"),
            (unread, "encrypted, and not looked at: the master key of the auth service is not here"),
            (deleted, "deleted, as the log says"),
        ] {
            if count > 0 {
                text.push_str(&format!("; {count} {what}"));
            }
        }
        format!("{text}; {absent} no longer stored; {unbound} of which the log has no digest.")
    }

    /// Looks at the recording that an entry is about, if it is about one.
    pub(super) async fn check(&mut self, entry: &Entry<'_>) -> Result<(), Finding> {
        let codes = [EventKind::SessionUpload, EventKind::RecordingDelete].map(|kind| kind.code());
        let is_near = |code: &str| entry.line().windows(code.len()).any(|window| window == code.as_bytes());
        if !codes.into_iter().any(is_near) {
            return Ok(());
        }
        let Ok(Line { code, sid: Some(session), sha256, parts_sha256 }) =
            serde_json::from_slice(entry.line())
        else {
            return Ok(());
        };
        let [upload, delete] = codes;
        if code == delete {
            self.counts.deleted += u64::from(self.gone.remove(&session));
        } else if code == upload
            && let Some(reason) = self.compare(session, sha256, parts_sha256).await
        {
            let flaw = Flaw::Recording { session: session.to_string(), reason };
            return Err(Finding::of_entry(entry, flaw));
        }
        Ok(())
    }

    /// What is wrong with a recording, if something is.
    async fn compare(
        &mut self,
        session: SessionId,
        of_bytes: Option<Digest>,
        of_parts: Option<Digest>,
    ) -> Option<String> {
        if of_bytes.is_none() && of_parts.is_none() {
            self.counts.unbound += 1;
            return None;
        }
        if !self.opens && self.store.info(session).await.is_ok_and(|info| info.encoding == Encoding::Age) {
            self.counts.unread += 1;
            return None;
        }
        let differs = |digest, expected| format!("its digest is {digest}, and it was stored with {expected}");
        match (ContentDigest::of(&*self.store, session).await, of_bytes, of_parts) {
            (Ok(ContentDigest::Bytes(digest)), Some(expected), _) if digest != expected => {
                Some(differs(digest, expected))
            }
            (Ok(ContentDigest::Parts { digest, .. }), _, Some(expected)) if digest != expected => {
                Some(differs(digest, expected))
            }
            (Ok(ContentDigest::Bytes(_)), Some(_), _)
            | (Ok(ContentDigest::Parts { decrypted: true, .. }), _, Some(_)) => {
                self.counts.whole += 1;
                None
            }
            (Ok(ContentDigest::Parts { .. }), _, Some(_)) => {
                self.counts.sealed += 1;
                None
            }
            (Ok(ContentDigest::Bytes(_)), None, _) => {
                Some("it is stored in clear, and was stored encrypted".to_owned())
            }
            (Ok(_), _, _) => Some("it is stored encrypted, and was stored in clear".to_owned()),
            (Err(RecordingError::NotFound), _, _) => {
                self.gone.insert(session);
                None
            }
            (Err(error), _, _) => {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                Some(format!("{error}{}", source.unwrap_or_default()))
            }
        }
    }
}
