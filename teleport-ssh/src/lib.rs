//! Placeholder.
pub mod keys;
