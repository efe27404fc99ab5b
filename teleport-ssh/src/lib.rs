//! Placeholder.
#![deny(unsafe_code)]

pub mod keys;
pub mod sys;
pub mod authn;
mod engine;
pub mod listener;
pub mod record;
