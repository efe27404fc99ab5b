//! The node, judged by stock OpenSSH, by hostile certificates and by raw bytes.

mod backpressure;
mod certificates;
mod commands;
mod connections;
mod embedded;
mod forwards;
mod greeting;
mod hostile;
mod joined;
mod lifetimes;
mod locks;
mod logins;
mod options;
mod origins;
mod recording;
mod resumption;
mod sessions;
mod support;
mod x11;
