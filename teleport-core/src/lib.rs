//! The model of an identity-aware SSH access platform, and every decision it makes.
#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod audit;
#[cfg(feature = "auth")]
pub mod auth;
pub mod cert;
pub mod clock;
pub mod entropy;
pub mod id;
pub mod label;
pub mod manual;
pub mod recording;
pub mod resource;
pub mod secret;
pub mod storage;
pub mod target;
pub mod task;
#[cfg(any(test, feature = "test-support"))]
pub mod testing;
pub mod token;
