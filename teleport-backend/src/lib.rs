//! Storage drivers for an identity-aware SSH access platform, and the suites that judge drivers.
//!
//! The ports are traits of `teleport-core`; this crate knows keys and bytes, not users and roles.
//!
//! | port | drivers |
//! | --- | --- |
//! | [`Backend`](teleport_core::storage::Backend) | [`memory`], `redb` (feature `redb`, on by default), `etcd` and `postgres` (features of these names), around any of them [`wrap`] |
//! | [`RecordingStore`](teleport_core::recording::RecordingStore) | [`recordings::fs`], `recordings::s3` (feature `s3`), around any of them `recordings::age` (feature `age`) |
//! | [`AuditLog`](teleport_core::audit::AuditLog) | [`audit::file`], with an index in a backend [`audit::index`] |
//!
//! [`open`](fn@open) and `open_remote` choose a backend by URL, and [`migrate`](fn@migrate::migrate) moves from one to another. What a driver promises is the documentation of its port; the feature
//! `conformance` has a public suite for each port, with a clock that it controls. Write your own driver against it:
//! `examples/custom_backend.rs` is a complete one.
//!
//! What it is not: a database server or a cache. Nothing here opens a socket: what speaks to servers does it through a transport or a
//! network that the program gives.
//!
//! # Example
//!
//! A lock that one of two contenders gets, in a file that survives the process:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use teleport_core::clock::{Clock, SystemClock};
//! use teleport_core::storage::{BackendExt, Key, Prefix, WatchEvent};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("state.redb");
//! let clock = Arc::new(SystemClock::new());
//! let backend = teleport_backend::open(&format!("redb:{}", path.display()), clock.clone()).await?;
//!
//! let mut watch = backend.watch(&Prefix::new("locks")?).await?;
//! assert!(matches!(watch.next().await?, WatchEvent::Ready { .. }));
//!
//! let key = Key::new("locks/rotation")?;
//! let until = clock.now().saturating_add(Duration::from_secs(30));
//! let (first, second) = tokio::join!(
//!     backend.create(&key, "auth-1".into(), Some(until)),
//!     backend.create(&key, "auth-2".into(), Some(until)),
//! );
//! assert!(first.is_ok() && second.is_err_and(|error| error.is_conflict()));
//!
//! // Durable by now, and everyone who watches hears of it.
//! assert!(matches!(watch.next().await?, WatchEvent::Put(item) if item.value == "auth-1"));
//! backend.close().await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod audit;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod memory;
pub mod migrate;
#[cfg(any(feature = "etcd", feature = "postgres"))]
pub mod network;
mod open;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod recordings;
#[cfg(feature = "redb")]
pub mod redb;
mod shared;
pub mod wrap;

pub use self::open::{KNOWN_URLS, OpenError, open};
#[cfg(any(feature = "etcd", feature = "postgres"))]
pub use self::open::{is_remote, open_remote};
