//! The drivers against their conformance suites, crashes and bad files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod age;
mod audit;
mod audit_chain;
mod broken;
mod child;
mod example;
mod files;
mod index;
mod kill;
mod memory;
mod model;
mod recordings;
mod redb;
mod speed;
mod wrap;
