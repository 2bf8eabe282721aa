//! host-builder.
fn main() {}
