//! Temporary.
#![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs, reason = "x")]
#[path = "it/node/certificates.rs"] mod certificates;
#[path = "it/node/hostile.rs"] mod hostile;
#[path = "it/node/logins.rs"] mod logins;
#[path = "it/node/sessions.rs"] mod sessions;
#[path = "it/node/support.rs"] mod support;
