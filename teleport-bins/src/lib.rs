//! The programs `teleport`, `tsh` and `tctl`: they parse, wire and print; what they decide is decided in `teleport-core`.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod daemon;
mod openssh;
pub mod replay;
pub mod storage;
mod trial;
