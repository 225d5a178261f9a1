//! How one of Portolan's processes lives, the same for agent, controller and service engine.
//!
//! * [`log`]: what is written to standard error, and [`flood`]: how often the same thing is.
//! * [`ready`]: readiness is a set of guards; [`drain`]: the end is a watch; [`tasks`]: who runs in between.
//! * [`admin`]: `/healthz`, `/readyz`, `/metrics`.
//! * [`reconcile`]: the one loop of all reconcilers, with [`backoff`] between failures.
//! * `lease` (feature `kube`): one leader among many replicas; `follow`: one kind of the API server, kept current.
//!
//! Knows nothing of networks, pods or any other crate of ours. Guarantees: nothing here panics, and every decision
//! about time takes time as an argument.

pub mod admin;
pub mod backoff;
pub mod drain;
pub mod flood;
#[cfg(feature = "kube")]
pub mod follow;
#[cfg(feature = "kube")]
pub mod lease;
pub mod log;
pub mod ready;
pub mod reconcile;
pub mod tasks;
