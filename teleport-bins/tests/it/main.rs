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
mod agentless;
mod audit;
mod clocks;
mod diagnostics;
mod dialling;
mod disk_faults;
mod eviction;
mod examples;
mod foreign;
mod forwards;
#[path = "../../../teleport-ssh/tests/it/golden.rs"]
mod golden;
mod ha;
mod hostile;
mod index_faults;
mod joining;
mod limits;
mod lockout;
mod locks;
mod matrix;
mod nat;
mod network_faults;
mod one_port;
mod openssh;
mod pam;
mod peering;
mod pinned;
mod play;
mod processes;
mod recording_faults;
#[allow(dead_code, reason = "these tests need a part of it")]
#[path = "../../../teleport-backend/tests/it/registers.rs"]
mod registers;
mod regress;
mod remote;
mod resources;
mod resumption;
mod s3;
mod scp;
mod secrets;
#[allow(dead_code, reason = "these tests need a part of it")]
#[path = "../../../teleport-backend/tests/it/servers/mod.rs"]
mod servers;
mod sftp;
mod shared;
mod starting;
mod stored;
mod stores;
mod support;
#[cfg(feature = "otel")]
mod traces;
mod trial;
mod tsh_ssh;
mod tsh_tctl;
mod tunnels;
mod web_certificates;
mod wire;
mod x11;
