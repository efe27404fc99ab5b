//! tsh
fn main() {}
