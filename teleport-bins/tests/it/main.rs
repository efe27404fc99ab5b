//! The programs as strangers use them: whole clusters over the real protocols, judged by stock OpenSSH, terminals and raw sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod access;
mod account;
mod audit;
mod disk_faults;
mod eviction;
mod examples;
#[path = "../../../teleport-ssh/tests/it/golden.rs"]
mod golden;
mod hostile;
mod index_faults;
mod joining;
mod limits;
mod lockout;
mod locks;
mod matrix;
mod network_faults;
mod openssh;
mod pinned;
mod play;
mod processes;
mod recording_faults;
mod remote;
mod resources;
mod s3;
mod secrets;
mod sftp;
mod shared;
mod starting;
mod stored;
mod support;
mod trial;
mod tsh_tctl;
mod wire;
