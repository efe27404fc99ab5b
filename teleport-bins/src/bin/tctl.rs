//! tctl
fn main() {}
