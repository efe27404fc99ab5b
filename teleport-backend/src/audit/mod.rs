//! Audit logs.

pub mod file;
