//! Certificates for browsers from files, which somebody else renews.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::task::Shutdown;
use zeroize::Zeroizing;

use super::{CertificateError, WebCertificate, WebCertificates};

/// No chain and no key is longer.
const MAX_LEN: u64 = 1 << 20;
/// How often the log says that a certificate is about to end, and how often that is looked at if files are not.
const REMIND: Duration = Duration::from_secs(24 * 3600);
const LOOK: Duration = Duration::from_secs(3600);
/// What is left of the life of a certificate that nobody has renewed although it is time.
const SHORT: Duration = Duration::from_secs(14 * 24 * 3600);

/// A key and its certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFilesError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// What they hold cannot be used.
    #[error("{} and {} cannot be used", key.display(), chain.display())]
    Unusable {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificates.
        chain: PathBuf,
        /// The reason.
        source: CertificateError,
    },
}

/// Pairs of files of a private key and the certificates of it, PEM.
#[derive(Debug)]
pub struct KeyFiles {
    pairs: Vec<Pair>,
    certificates: WebCertificates,
}

#[derive(Clone)]
struct Pair {
    key: PathBuf,
    chain: PathBuf,
    /// What was in them when they were looked at last, whether it could be used or not.
    seen: Option<[u8; 32]>,
    certificate: WebCertificate,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("key", &self.key).field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl KeyFiles {
    /// Reads them: for each pair the file of the key and that of the certificates.
    ///
    /// # Errors
    /// [`KeyFilesError`] about the first pair that cannot be used.
    pub fn load(files: impl IntoIterator<Item = (PathBuf, PathBuf)>) -> Result<Self, KeyFilesError> {
        let pair = |(key, chain): (PathBuf, PathBuf)| {
            let (seen, certificate) = read(&key, &chain)?;
            let certificate = certificate.map_err(|source| KeyFilesError::Unusable {
                key: key.clone(),
                chain: chain.clone(),
                source,
            })?;
            Ok(Pair { key, chain, seen: Some(seen), certificate })
        };
        let pairs = files.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        let certificates = WebCertificates::new(pairs.iter().map(|pair| pair.certificate.clone()));
        Ok(Self { pairs, certificates })
    }

    /// What they hold, now and later.
    pub fn certificates(&self) -> WebCertificates {
        self.certificates.clone()
    }

    /// Looks every `every` whether the files have changed, and shows what they hold then; with `None` it does not look. What cannot be used changes
    /// nothing, and the log says so once. The log also says when a certificate is about to end. Until `shutdown` drains; cancel safe.
    pub async fn follow(mut self, every: Option<Duration>, clock: Arc<dyn Clock>, shutdown: Shutdown) {
        let following = async {
            let mut reminded: Option<Timestamp> = None;
            loop {
                let now = clock.now();
                if reminded.is_none_or(|last| now.saturating_since(last) >= REMIND) {
                    self.remind(now);
                    reminded = Some(now);
                }
                tokio::time::sleep(every.unwrap_or(LOOK)).await;
                if every.is_some() && self.look().await {
                    reminded = None;
                }
            }
        };
        tokio::select! {
            () = following => {}
            () = shutdown.draining() => {}
        }
    }

    /// Whether something has changed that can be used.
    async fn look(&mut self) -> bool {
        let mut changed = false;
        for pair in &mut self.pairs {
            let (key, chain) = (pair.key.clone(), pair.chain.clone());
            let Ok(read) = tokio::task::spawn_blocking(move || read(&key, &chain)).await else { continue };
            changed |= pair.take(read);
        }
        if changed {
            self.certificates.show(self.pairs.iter().map(|pair| pair.certificate.clone()));
        }
        changed
    }

    fn remind(&self, now: Timestamp) {
        for Pair { chain, certificate, .. } in &self.pairs {
            let ends = certificate.valid_before();
            if is_late(certificate.valid_after(), ends, now) {
                let chain = chain.display();
                tracing::warn!(%chain, %ends, "the certificate for browsers ends, and nobody has renewed it; put another one there");
            }
        }
    }
}

impl Pair {
    fn take(&mut self, read: Result<Read, KeyFilesError>) -> bool {
        let (key, chain) = (self.key.display(), self.chain.display());
        let failure: &dyn std::error::Error = match &read {
            Ok((seen, _)) if self.seen.as_ref() == Some(seen) => return false,
            Ok((seen, Ok(certificate))) => {
                self.seen = Some(*seen);
                self.certificate = certificate.clone();
                let ends = certificate.valid_before();
                tracing::info!(%chain, %ends, "the certificate for browsers was changed");
                return true;
            }
            Ok((seen, Err(error))) => {
                self.seen = Some(*seen);
                error
            }
            // Said once, until they can be read again.
            Err(_) if self.seen.is_none() => return false,
            Err(error) => {
                self.seen = None;
                error
            }
        };
        tracing::warn!(%key, %chain, error = failure, "the changed files cannot be used; the certificate from before is still shown");
        false
    }
}

/// What was in the files, and the certificate if it is one.
type Read = ([u8; 32], Result<WebCertificate, CertificateError>);

fn read(key: &Path, chain: &Path) -> Result<Read, KeyFilesError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| KeyFilesError::Unreadable { path, source }
    };
    let key = bounded(key).map_err(unreadable(key))?;
    let chain = bounded(chain).map_err(unreadable(chain))?;
    let mut both = digest::Context::new(&digest::SHA256);
    both.update(digest::digest(&digest::SHA256, &key).as_ref());
    both.update(&chain);
    let mut seen = [0; 32];
    seen.copy_from_slice(both.finish().as_ref());
    Ok((seen, WebCertificate::from_pem(&chain, &key)))
}

fn bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 1 MiB"));
    }
    // The room is there from the beginning: no copies of a key are left behind.
    let mut content =
        Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(1)));
    file.take(MAX_LEN).read_to_end(&mut content)?;
    Ok(content)
}

/// Whether a certificate should have been renewed: it has little left, in days and of its whole life.
fn is_late(valid_after: Timestamp, valid_before: Timestamp, now: Timestamp) -> bool {
    let left = valid_before.saturating_since(now);
    left < SHORT && left < valid_before.saturating_since(valid_after) / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_late_when_little_is_left() {
        let day = |days: u64| Timestamp::from_unix_secs(days * 24 * 3600);
        for (life, now, late) in [
            (90, 60, false),
            (90, 75, false),
            (90, 77, true),
            (90, 91, true),
            (6, 3, false),
            (6, 5, true),
            (365, 340, false),
        ] {
            assert_eq!(is_late(day(0), day(life), day(now)), late, "{life} {now}");
        }
    }
}
