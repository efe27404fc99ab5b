//! teleport
fn main() {}
