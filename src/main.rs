//! The `pingora-lb` binary.

fn main() {}
