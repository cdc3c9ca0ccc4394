//! Hirelake.
fn main() {}
