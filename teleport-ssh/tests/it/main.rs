//! Tests of this crate against the real thing: processes, sockets, foreign programs.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

mod golden;
#[cfg(target_os = "linux")]
mod hop;
#[cfg(target_os = "linux")]
mod node;
mod rpc;
#[cfg(target_os = "linux")]
mod sys;
