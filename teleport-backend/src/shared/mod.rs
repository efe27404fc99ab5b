//! What more than one driver needs.

#[cfg(any(feature = "etcd", feature = "postgres"))]
pub(crate) mod backoff;
pub(crate) mod closed;
#[cfg(any(feature = "etcd", feature = "postgres"))]
pub(crate) mod described;
pub(crate) mod files;
pub(crate) mod hub;
#[cfg(any(feature = "redb", feature = "etcd", feature = "postgres"))]
pub(crate) mod pace;
#[cfg(any(feature = "etcd", feature = "postgres"))]
pub(crate) mod server_url;
pub(crate) mod sweep;
