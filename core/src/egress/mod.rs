//! Egress: which pods leave the cluster with which address, and which node brings it about.
//!
//! The walk: the controller [`assign`]s ids and addresses; every node [`select`]s for its own pods, computes the same
//! [`owner`]s, and [`node`] says what that means for itself.

pub mod assign;
pub mod node;
pub mod owner;
pub mod select;

use std::net::IpAddr;

use crate::labels::Selector;
use crate::mark::EgressId;

/// An Egress, as the decisions see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Its name.
    pub name: String,
    /// The higher wins.
    pub priority: i32,
    /// When it was created, in seconds since 1970; the older wins.
    pub created: i64,
    /// Selects pods by their own labels.
    pub pods: Option<Selector>,
    /// Selects pods by their namespace's labels.
    pub namespaces: Option<Selector>,
    /// Its id, once assigned.
    pub id: Option<EgressId>,
    /// Its address, once assigned.
    pub address: Option<IpAddr>,
    /// The pool that says on which nodes the address may live; `None`: on any.
    pub pool: Option<String>,
    /// What happens while no node owns the address.
    pub on_unavailable: OnUnavailable,
}

/// What happens to connections of selected pods while no node owns the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnavailable {
    /// They do not leave the cluster.
    #[default]
    Drop,
    /// They leave with the node's address.
    NodeAddress,
}

#[cfg(test)]
pub(crate) fn egress(name: &str) -> Egress {
    Egress {
        name: name.into(),
        priority: 0,
        created: 0,
        pods: None,
        namespaces: Some(Selector::default()),
        id: None,
        address: None,
        pool: None,
        on_unavailable: OnUnavailable::Drop,
    }
}
