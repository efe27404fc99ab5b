//! Backends by URL.

use std::sync::Arc;

use teleport_core::clock::Clock;
use teleport_core::storage::Backend;

use crate::memory::MemoryBackend;

/// The forms of a storage URL that this build of the crate understands.
pub const KNOWN_URLS: &[&str] = &[
    "memory:",
    #[cfg(feature = "redb")]
    "redb:/path/to/file",
    #[cfg(feature = "redb")]
    "/path/to/file",
];

/// Why a storage URL does not give a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The driver cannot open what the URL names.
    #[error("cannot open the storage {url:?}")]
    Driver {
        /// The URL.
        url: String,
        /// The driver's reason, written for people.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The scheme is known and the rest does not fit it.
    #[error("{url:?} is not a storage URL: {rule}")]
    Invalid {
        /// The URL.
        url: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// No driver has this scheme, or it was not compiled in.
    #[error("there is no storage driver {scheme:?}; known are {}", KNOWN_URLS.join(", "))]
    UnknownScheme {
        /// The part before the colon; empty if there is none.
        scheme: String,
    },
}

/// Opens the backend that `url` names: `memory:`, `redb:/path/to/file`, or a plain path for the default driver.
///
/// Must be called inside a tokio runtime with its timer enabled.
///
/// # Errors
/// [`OpenError`].
pub async fn open(url: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Backend>, OpenError> {
    match split(url) {
        (Some("memory"), "") => Ok(Arc::new(MemoryBackend::new(clock))),
        (Some("memory"), _) => {
            Err(OpenError::Invalid { url: url.to_owned(), rule: "nothing follows `memory:`" })
        }
        #[cfg(feature = "redb")]
        (Some("redb") | None, path) => {
            // `redb:///path` is what people write who are used to URLs with hosts.
            let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
            if path.is_empty() {
                return Err(OpenError::Invalid {
                    url: url.to_owned(),
                    rule: "the path of a file is missing",
                });
            }
            match crate::redb::RedbBackend::open(path, clock).await {
                Ok(backend) => Ok(Arc::new(backend)),
                Err(error) => Err(OpenError::Driver { url: url.to_owned(), source: error.into() }),
            }
        }
        (scheme, _) => Err(OpenError::UnknownScheme { scheme: scheme.unwrap_or_default().to_owned() }),
    }
}

/// The scheme, if the text begins like a URL, and what follows it.
fn split(url: &str) -> (Option<&str>, &str) {
    match url.split_once(':') {
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b)) =>
        {
            (Some(scheme), rest)
        }
        _ => (None, url),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_path_with_a_colon_is_not_a_scheme() {
        assert_eq!(split("memory:"), (Some("memory"), ""));
        assert_eq!(split("redb:/a:b"), (Some("redb"), "/a:b"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("relative"), (None, "relative"));
    }
}
