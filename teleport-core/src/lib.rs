//! The model of an identity-aware SSH access platform, and every decision it makes.
#![forbid(unsafe_code)]

pub mod cert;
pub mod clock;
pub mod entropy;
pub mod id;
pub mod secret;
pub mod storage;
pub mod task;
