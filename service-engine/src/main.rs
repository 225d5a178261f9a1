//! The load balancer outside the cluster.

fn main() {}
