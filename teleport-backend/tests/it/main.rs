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
mod closing;
mod etcd;
mod example;
mod files;
mod history;
mod index;
mod kill;
mod memory;
mod migrate;
mod model;
mod postgres;
mod postgres_turns;
mod recordings;
mod redb;
#[allow(dead_code, reason = "other tests need the rest")]
mod registers;
mod remote;
#[allow(dead_code, reason = "the tests of the programs use the rest")]
mod servers;
mod short_rows;
mod speed;
mod wrap;
