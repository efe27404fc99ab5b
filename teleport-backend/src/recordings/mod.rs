//! Stores of recordings.

#[cfg(feature = "age")]
pub mod age;
pub mod fs;
#[cfg(feature = "s3")]
pub mod s3;
