//! The cluster-wide reconcilers.

fn main() {}
