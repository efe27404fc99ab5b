//! Stores of session recordings.

pub mod fs;
