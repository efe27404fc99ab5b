//! Backends by URL.

use std::borrow::Cow;
use std::sync::Arc;

use teleport_core::clock::Clock;
use teleport_core::storage::Backend;

use crate::memory::MemoryBackend;
#[cfg(any(feature = "etcd", feature = "postgres"))]
use crate::network::Remote;
#[cfg(any(feature = "etcd", feature = "postgres"))]
use crate::shared::server_url::redacted;

/// The forms of a storage URL that this build of the crate understands.
pub const KNOWN_URLS: &[&str] = &[
    #[cfg(feature = "etcd")]
    "etcd://host:2379/prefix",
    "memory:",
    #[cfg(feature = "postgres")]
    "postgres://user@host/database",
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
        rule: Cow<'static, str>,
    },
    /// The storage is a server, and the program did not say how servers are reached.
    #[error("the storage {url:?} is on a server, and here it must be on this host")]
    Remote {
        /// The URL.
        url: String,
    },
    /// No driver has this scheme, or it was not compiled in.
    #[error("there is no storage driver {scheme:?}; known are {}", KNOWN_URLS.join(", "))]
    UnknownScheme {
        /// The part before the colon; empty if there is none.
        scheme: String,
    },
}

/// Opens the backend on this host that `url` names: `memory:`, `redb:/path/to/file`, or a plain path for the default driver.
///
/// Must be called inside a tokio runtime with its timer enabled.
///
/// # Errors
/// [`OpenError`].
pub async fn open(url: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Backend>, OpenError> {
    match split(url) {
        (Some("memory"), "") => Ok(Arc::new(MemoryBackend::new(clock))),
        (Some("memory"), _) => {
            Err(OpenError::Invalid { url: url.to_owned(), rule: "nothing follows `memory:`".into() })
        }
        #[cfg(feature = "redb")]
        (Some("redb") | None, path) => {
            // `redb:///path` is what people write who are used to URLs with hosts.
            let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
            if path.is_empty() {
                return Err(OpenError::Invalid {
                    url: url.to_owned(),
                    rule: "the path of a file is missing".into(),
                });
            }
            match crate::redb::RedbBackend::open(path, clock).await {
                Ok(backend) => Ok(Arc::new(backend)),
                Err(error) => Err(OpenError::Driver { url: url.to_owned(), source: error.into() }),
            }
        }
        #[cfg(any(feature = "etcd", feature = "postgres"))]
        (Some(scheme), _) if is_server(scheme) => Err(OpenError::Remote { url: redacted(url) }),
        (scheme, _) => Err(OpenError::UnknownScheme { scheme: scheme.unwrap_or_default().to_owned() }),
    }
}

/// As [`open`], and the storage may be on servers: `etcd://host:2379,other:2379/prefix` or `postgres://user@host/database`.
///
/// # Errors
/// [`OpenError`], which does not show a password that is in the URL.
#[cfg(any(feature = "etcd", feature = "postgres"))]
pub async fn open_remote(
    url: &str,
    clock: Arc<dyn Clock>,
    remote: Remote,
) -> Result<Arc<dyn Backend>, OpenError> {
    let invalid = |rule| OpenError::Invalid { url: redacted(url), rule };
    match split(url) {
        #[cfg(feature = "etcd")]
        (Some("etcd"), rest) => {
            let config = crate::etcd::EtcdConfig::parse(rest).map_err(invalid)?;
            match crate::etcd::EtcdBackend::open(config, clock, remote).await {
                Ok(backend) => Ok(Arc::new(backend)),
                Err(error) => Err(OpenError::Driver { url: redacted(url), source: error.into() }),
            }
        }
        #[cfg(feature = "postgres")]
        (Some("postgres" | "postgresql"), rest) => {
            let config = crate::postgres::PostgresConfig::parse(rest).map_err(invalid)?;
            match crate::postgres::PostgresBackend::open(config, clock, remote).await {
                Ok(backend) => Ok(Arc::new(backend)),
                Err(error) => Err(OpenError::Driver { url: redacted(url), source: error.into() }),
            }
        }
        _ => open(url, clock).await,
    }
}

/// Whether the storage that a URL names is on servers, where other clusters may have theirs.
#[cfg(any(feature = "etcd", feature = "postgres"))]
pub fn is_remote(url: &str) -> bool {
    split(url).0.is_some_and(is_server)
}

#[cfg(any(feature = "etcd", feature = "postgres"))]
fn is_server(scheme: &str) -> bool {
    (cfg!(feature = "etcd") && scheme == "etcd")
        || (cfg!(feature = "postgres") && ["postgres", "postgresql"].contains(&scheme))
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

    #[cfg(all(feature = "etcd", feature = "postgres"))]
    #[test]
    fn what_is_on_servers() {
        for url in ["etcd://h", "postgres://u@h/d", "postgresql://u@h/d"] {
            assert!(is_remote(url), "{url}");
        }
        for url in ["memory:", "redb:/a", "/etcd://h", "other://h"] {
            assert!(!is_remote(url), "{url}");
        }
    }

    /// Whatever the mistake is, neither form of the error has a part of the password.
    #[cfg(all(feature = "etcd", feature = "postgres"))]
    #[tokio::test(start_paused = true)]
    async fn errors_never_show_a_password() {
        use async_trait::async_trait;
        use teleport_core::clock::SystemClock;
        use teleport_core::entropy::SystemEntropy;

        use crate::network::{BoxedStream, Network, TlsOptions};

        #[derive(Debug)]
        struct Unplugged;

        #[async_trait]
        impl Network for Unplugged {
            async fn connect(&self, _: &str, _: u16) -> std::io::Result<BoxedStream> {
                Err(std::io::ErrorKind::NetworkUnreachable.into())
            }

            async fn secure(&self, _: BoxedStream, _: &str, _: &TlsOptions) -> std::io::Result<BoxedStream> {
                Err(std::io::ErrorKind::NetworkUnreachable.into())
            }
        }

        let remote = Remote::new(Arc::new(Unplugged), Arc::new(SystemEntropy::new()));
        for scheme in ["etcd", "postgres", "postgresql"] {
            for rest in [
                "//u:s3c/r3t@h/db",
                "//u:s3c?r3t@h/db",
                "//u:s3c?r3t=x@h/db",
                "//u:s3c?r3t=x&r3t=y@h/db",
                "//u:[s3c]r3t/@h/db",
                "//u:s3c%zzr3t@h/db",
                "//u:s3cr3t/db",
                "//u:s3cr3t",
                "//[::1]:s3cr3t",
                "//u:s3cr3t@h:x/db",
                "//u:s3cr3t@h/db?timeout=1s&what=x",
                "//u:s3cr3t@h/db?timeout=1s",
                "u:s3cr3t@h/db",
                "/u:s3cr3t@h/db",
            ] {
                let url = format!("{scheme}:{rest}");
                let error =
                    open_remote(&url, Arc::new(SystemClock::new()), remote.clone()).await.unwrap_err();
                let shown = format!("{error} {error:?} {}", crate::shared::described::describe(&error));
                assert!(!shown.contains("r3t"), "{url}: {shown}");
                assert!(!shown.contains("s3c"), "{url}: {shown}");
                let error = open(&url, Arc::new(SystemClock::new())).await.unwrap_err();
                assert!(!format!("{error} {error:?}").contains("r3t"), "{url}: {error:?}");
            }
        }
    }

    #[test]
    fn a_path_with_a_colon_is_not_a_scheme() {
        assert_eq!(split("memory:"), (Some("memory"), ""));
        assert_eq!(split("redb:/a:b"), (Some("redb"), "/a:b"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("relative"), (None, "relative"));
    }
}
