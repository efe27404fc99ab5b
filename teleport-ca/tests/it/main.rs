//! The authority, judged by the rules of the platform, by OpenSSH, by OpenSSL and by rustls.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod at_rest;
mod audit;
mod inspect;
mod issue;
mod openssh;
mod property;
mod sshd;
mod support;
mod x509;

#[path = "../../examples/embed_ca.rs"]
mod embed_ca;

#[test]
fn the_example_runs() {
    embed_ca::main().unwrap();
}
