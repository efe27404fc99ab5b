//! The node, judged by stock OpenSSH, by hostile certificates and by raw bytes.

mod backpressure;
mod certificates;
mod commands;
mod embedded;
mod hostile;
mod logins;
mod sessions;
mod support;
