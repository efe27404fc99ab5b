//! What more than one driver needs.

pub(crate) mod closed;
pub(crate) mod files;
pub(crate) mod hub;
pub(crate) mod sweep;
