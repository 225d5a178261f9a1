//! The kernel as typed desired state: observe, plan, apply.
//!
//! One folder per kernel object. Each has `observe` (a dump, parsed into values), a plan (the pure
//! difference of two sorted sets, `plan.rs`) and `apply` (values into messages, and the acknowledgements
//! back into words). `own.rs` says for every kind of object how we know after a restart that it is
//! ours; what is not ours is never changed.
//!
//! Everything goes through one [`Kernel`] (routing netlink) and, with the feature `nft`, one
//! [`nft::Nft`] (nftables); connections ([`conntrack::Conntrack`]) through a socket that is opened when
//! they are looked at. All are synchronous and bound to the network namespace of the thread that created
//! them: give them a thread of their own. There is no handle to share, so two dumps can never run into
//! each other, and a batch is one system call.
//!
//! Values carry no kernel numbers that change over a restart: devices are named, not indexed.

pub mod addresses;
pub mod announce;
pub mod conntrack;
mod error;
mod kernel;
pub mod links;
pub mod neighbours;
mod netlink;
pub mod netns;
#[cfg(feature = "nft")]
pub mod nft;
pub mod own;
mod plan;
pub mod pods;
pub mod routes;
pub mod rules;
pub mod sysctl;

pub use addresses::Address;
pub use error::{Error, Result};
pub use kernel::Kernel;
pub use links::{Ensured, Link, Mac, Vxlan};
pub use neighbours::{Fdb, Neighbour};
pub use plan::{Plan, Report, StepError};
pub use pods::{PodLink, PodView};
pub use routes::{Route, RouteKind};
pub use rules::Rule;
