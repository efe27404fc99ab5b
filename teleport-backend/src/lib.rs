//! Storage drivers for the access platform.
#![forbid(unsafe_code)]

pub mod audit;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod memory;
mod open;
pub mod recordings;
#[cfg(feature = "redb")]
pub mod redb;
mod shared;
pub mod wrap;

pub use self::open::{KNOWN_URLS, OpenError, open};
