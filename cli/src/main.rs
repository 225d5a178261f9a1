//! kubectl-portolan.

fn main() {}
