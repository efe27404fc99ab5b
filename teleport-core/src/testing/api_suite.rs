//! The suite that every implementation of the API must pass.
