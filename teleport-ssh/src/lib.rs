//! Placeholder.
#![deny(unsafe_code)]

pub mod keys;
pub mod sys;
