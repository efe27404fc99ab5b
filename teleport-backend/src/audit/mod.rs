//! Audit logs.

pub mod file;
pub mod index;
mod matching;
