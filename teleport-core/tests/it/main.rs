//! The auth service over real ports: what an embedder sees.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod account;
mod active;
mod admin;
mod audit;
mod backup;
mod cluster;
mod connections;
mod encrypted;
mod ending;
mod eviction;
mod failures;
mod hosts;
mod locks;
mod login;
mod participants;
mod peers;
mod policy;
mod quota;
mod real;
mod recordings;
mod retention;
mod roles;
mod rows;
mod secrets;
mod sessions;
mod signing;
mod slow;
mod speed;
mod stand_in;
mod suite;
mod uploads;
mod watches;
