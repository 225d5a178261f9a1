//! Every decision Portolan takes, pure: no I/O, no clock, no randomness, no log.
//!
//! One folder per subject: [`address`] (ranges), [`ipam`] (pools, leases, who gets which address), [`egress`] (which pods
//! leave with which address, and who owns it), [`external`] (addresses the outside sees), [`routes`] (prefix to node), [`ports`] (host ports),
//! [`balancing`] (virtual services). [`check`] is the one list of invariants that tests, and later the product, run.
//!
//! Guarantees: the same input gives the same answer on every node and after every restart. Nothing here panics.

pub mod address;
pub mod balancing;
pub mod check;
pub mod egress;
pub mod external;
pub mod ipam;
pub mod labels;
pub mod mark;
pub mod numbers;
pub mod ports;
pub mod rank;
pub mod routes;
