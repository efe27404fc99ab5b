//! Placeholder.
#![deny(unsafe_code)]

pub mod identity;
pub mod join;
pub mod keys;
pub mod proxy_web;
pub mod rpc;
pub mod sys;
pub mod authn;
mod engine;
pub mod listener;
pub mod record;
mod heartbeat;
pub mod node;
pub mod session;
pub mod view;
pub mod client;
pub mod proxy;
