//! The one list of invariants. Property tests run it after every step; a support tool can run it on a living cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::ipam::owner::Kind;
use crate::ipam::{Lease, View, lease};

/// All that is known about pod addresses at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Every lease, by name.
    pub leases: BTreeMap<String, Lease>,
    /// Every address that a node believes a pod of its holds.
    pub held: Vec<Held>,
}

/// An address that a pod holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The node.
    pub node: String,
    /// The container.
    pub container: String,
    /// The address.
    pub address: IpAddr,
    /// Its pool; `None` for the node's own pod CIDR.
    pub pool: Option<String>,
}

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Two containers hold one address.
    HeldTwice {
        /// The address.
        address: IpAddr,
        /// One holder.
        one: String,
        /// The other.
        other: String,
    },
    /// A pod of a pool holds an address that its node has no lease for.
    WithoutLease(Held),
    /// A lease's name is not that of its pool and block.
    Misnamed(Lease),
    /// A pod holds an address that its node has granted to another.
    GrantedAway(Held, Lease),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeldTwice { address, one, other } => write!(f, "{address} is held by {one} and by {other}"),
            Self::WithoutLease(held) => {
                write!(
                    f,
                    "{} is held by {} on {}, which has no lease for it",
                    held.address, held.container, held.node
                )
            }
            Self::Misnamed(lease) => {
                write!(f, "lease {} does not stand for {} of {}", lease.name, lease.block, lease.pool)
            }
            Self::GrantedAway(held, lease) => {
                let to = lease.node.as_deref().unwrap_or("nobody");
                write!(
                    f,
                    "{} is held by {} on {}, but granted to {to}",
                    held.address, held.container, held.node
                )
            }
        }
    }
}

/// Everything that must never be and is.
pub fn check(snapshot: &Snapshot) -> Vec<Violation> {
    let view: View = snapshot.leases.values().cloned().collect();
    let mut violations = Vec::new();
    let mut holders: BTreeMap<IpAddr, &Held> = BTreeMap::new();
    for held in &snapshot.held {
        if let Some(before) =
            holders.insert(held.address, held).filter(|before| !migrates(&view, before, held))
        {
            let (one, other) = (before.container.clone(), held.container.clone());
            violations.push(Violation::HeldTwice { address: held.address, one, other });
        }
        violations.extend(authority(&view, held));
    }
    let misnamed =
        snapshot.leases.iter().filter(|(name, lease)| **name != lease::name(&lease.pool, lease.block));
    violations.extend(misnamed.map(|(_, lease)| Violation::Misnamed(lease.clone())));
    violations
}

/// Whether the two are one virtual machine on the two nodes of its migration.
fn migrates(view: &View, one: &Held, other: &Held) -> bool {
    let Some(lease) = one.pool.as_ref().and_then(|pool| view.single(pool, one.address)) else { return false };
    let machine = lease.owner.as_ref().is_some_and(|owner| owner.kind == Kind::VirtualMachine);
    let nodes = [lease.node.as_ref(), lease.second.as_ref()];
    machine
        && one.node != other.node
        && [&one.node, &other.node].iter().all(|node| nodes.contains(&Some(*node)))
}

/// What is wrong with the right of this node to let its pod have the address.
fn authority(view: &View, held: &Held) -> Option<Violation> {
    let pool = held.pool.as_ref()?;
    let mine = |lease: &&Lease| {
        lease.pool == *pool && (lease.is_of(&held.node) || lease.second.as_ref() == Some(&held.node))
    };
    let around: Vec<_> = view.around(held.address.into()).collect();
    if !around.iter().any(&mine) {
        return Some(Violation::WithoutLease(held.clone()));
    }
    // The smallest one first: who has been granted an address inside a block is its holder.
    let away = around
        .into_iter()
        .take_while(|lease| !mine(lease))
        .find(|lease| lease.granted && lease.node.is_some());
    away.map(|lease| Violation::GrantedAway(held.clone(), lease.clone()))
}

#[cfg(test)]
mod model;
