//! Storage drivers for the access platform.
#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod memory;
#[cfg(feature = "redb")]
pub mod redb;
mod shared;
