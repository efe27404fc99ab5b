//! Temporary.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#[path = "it/hop/mod.rs"]
mod hop;
