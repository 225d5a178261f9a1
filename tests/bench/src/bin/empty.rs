//! Does nothing: what the start and the end of any static program cost.

fn main() {}
