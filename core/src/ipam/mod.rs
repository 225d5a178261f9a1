//! Pod addresses: pools, the leases that nodes hold of them, and which pod gets which address.
//!
//! The walk: [`choose`] says which pools a pod may use and in which order; [`owner`] whether its addresses are kept for a
//! workload; [`decide`] takes addresses from what this node holds (its [`Book`]), or says what to ask the API server for
//! first, or why there are none; [`duties`] is what the node owes others for what it holds; [`reclaim`] what the controller
//! takes back from those that are gone; [`usage`] counts. At any time one authority decides about an address: the holder of the smallest lease
//! around it, and before that the API server, which lets one node create it.

pub mod book;
pub mod choose;
pub mod decide;
pub mod duties;
pub mod lease;
pub mod overlap;
pub mod owner;
pub mod pool;
pub mod reclaim;
pub mod usage;
pub mod view;

pub use book::Book;
pub use lease::{Change, Lease};
pub use owner::{Need, Owner};
pub use pool::{Outbound, Pool};
pub use view::View;

/// A point in time or a span, in milliseconds. Points are on a clock of the caller's that never goes back.
pub type Millis = u64;
