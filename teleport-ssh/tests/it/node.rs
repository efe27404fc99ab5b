//! The node, judged by stock OpenSSH, by hostile certificates and by raw bytes.

mod certificates;
mod embedded;
mod hostile;
mod logins;
mod sessions;
mod support;
