#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
mod agreement;
mod machine;
mod stream;
mod wires;
