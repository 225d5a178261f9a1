//! Pod addresses: pools, the leases that nodes hold of them, and which pod gets which address.
//!
//! The walk: [`choose`] says which pools a pod may use and in which order; [`allocate`] takes an address from a lease this
//! node holds, or says which lease to claim, or why there is none; [`reclaim`] says which leases go back. At any time one
//! authority decides about an address: the node that holds its lease, and before that the API server, which lets one node
//! create the lease object.

pub mod allocate;
pub mod choose;
pub mod lease;
pub mod overlap;
pub mod pool;
pub mod reclaim;

pub use lease::Lease;
pub use pool::{Outbound, Pool};
