//! The wire: a real authority, a real auth service, real TLS on loopback.

mod conformance;
mod hostile;
mod identity;
mod join;
mod mtls;
mod suite;
mod watch;
mod web;
mod world;
