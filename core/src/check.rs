//! The one list of invariants. Property tests run it after every step; a support tool can run it on a living cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::ipam::{Lease, lease};

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
    /// Two leases overlap.
    Overlapping(Lease, Lease),
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
            Self::Overlapping(one, other) => write!(f, "leases {} and {} overlap", one.name, other.name),
        }
    }
}

/// Everything that must never be and is.
pub fn check(snapshot: &Snapshot) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut holders: BTreeMap<IpAddr, &Held> = BTreeMap::new();
    for held in &snapshot.held {
        if let Some(before) = holders.insert(held.address, held) {
            let (one, other) = (before.container.clone(), held.container.clone());
            violations.push(Violation::HeldTwice { address: held.address, one, other });
        }
        if !leased(snapshot, held) {
            violations.push(Violation::WithoutLease(held.clone()));
        }
    }
    let misnamed =
        snapshot.leases.iter().filter(|(name, lease)| **name != lease::name(&lease.pool, lease.block));
    violations.extend(misnamed.map(|(_, lease)| Violation::Misnamed(lease.clone())));
    violations.extend(overlapping(snapshot));
    violations
}

fn leased(snapshot: &Snapshot, held: &Held) -> bool {
    let Some(pool) = &held.pool else { return true };
    let mut mine = snapshot.leases.values().filter(|lease| lease.node == held.node && lease.pool == *pool);
    mine.any(|lease| lease.block.contains(&held.address))
}

fn overlapping(snapshot: &Snapshot) -> impl Iterator<Item = Violation> + '_ {
    let mut sorted: Vec<_> = snapshot.leases.values().collect();
    sorted.sort_by_key(|lease| (lease.block.network(), lease.block.prefix_len()));
    let pairs: Vec<_> = sorted.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect();
    let overlap = |(one, other): &(&Lease, &Lease)| {
        one.block.contains(&other.block) || other.block.contains(&one.block)
    };
    pairs.into_iter().filter(overlap).map(|(one, other)| Violation::Overlapping(one.clone(), other.clone()))
}

#[cfg(test)]
mod tests;
