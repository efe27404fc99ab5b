//! The wire: a real authority, a real auth service, real TLS on loopback.

mod balancers;
mod cancelled;
mod conformance;
mod eviction;
mod failover;
mod hostile;
mod identity;
mod join;
mod matrix;
mod matrix_web;
mod mtls;
mod one_port;
mod origin;
mod passes;
mod peers;
mod pinned;
mod renewal;
mod strangers;
mod suite;
mod tunnels;
mod watch;
mod web;
mod world;
