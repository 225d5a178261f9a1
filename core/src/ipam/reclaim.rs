//! Which leases go back because somebody is gone: nodes, and workloads that addresses were kept for. The controller asks.

use std::collections::BTreeSet;

use super::lease::{Change, LET_GO};
use super::{Lease, Owner, View};

/// Who is gone, for as long as it takes to be sure.
#[derive(Debug, Clone, Copy)]
pub struct Gone<'a> {
    /// Nodes that do not exist any more, or are known to be powered off. Not a node that is merely NotReady: it may still
    /// run its pods.
    pub nodes: &'a BTreeSet<String>,
    /// Workloads that do not exist any more, for longer than the retention of the pool that their address is from.
    pub owners: &'a BTreeSet<Owner>,
}

/// What is to be asked of the API server. Each lease is marked as released before it changes hands or goes, as its own node
/// would do it: a node that comes back in time sees the mark and takes it off.
pub fn reclaim(view: &View, gone: Gone<'_>) -> Vec<Change> {
    view.iter().filter_map(|lease| of_lease(lease, gone)).collect()
}

fn of_lease(lease: &Lease, gone: Gone<'_>) -> Option<Change> {
    let orphan = lease.owner.as_ref().is_some_and(|owner| gone.owners.contains(owner));
    match lease.node.as_deref() {
        Some(node) if gone.nodes.contains(node) => Some(from_gone_node(lease)),
        Some(_) if orphan && !lease.asks.contains(LET_GO) => Some(Change::Replace(lease.asked_by(LET_GO))),
        None if orphan || lease.owner.is_none() => Some(Change::Delete(lease.clone())),
        Some(_) | None if lease.second.as_ref().is_some_and(|node| gone.nodes.contains(node)) => {
            let (second, leaving) = (lease.second.clone().filter(|_| !lease.leaving), !lease.leaving);
            Some(Change::Replace(Lease { second, leaving, ..lease.clone() }))
        }
        Some(_) | None => None,
    }
}

fn from_gone_node(lease: &Lease) -> Change {
    if !lease.released {
        return Change::Replace(Lease { released: true, ..lease.clone() });
    }
    if lease.owner.is_some() {
        let (node, second) = (lease.second.clone(), None);
        return Change::Replace(Lease { node, second, leaving: false, released: false, ..lease.clone() });
    }
    Change::Delete(lease.clone())
}

/// Workloads whose existence has to be looked up: an address is kept for them, and no node has a pod of theirs for sure.
pub fn owners(view: &View) -> BTreeSet<Owner> {
    view.iter().filter_map(|lease| lease.owner.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::owner::Kind;

    fn owner() -> Owner {
        Owner {
            kind: Kind::StatefulSet,
            namespace: "erp".into(),
            name: "db".into(),
            pod: Some("db-0".into()),
        }
    }

    fn gone(lease: &Lease, nodes: &[&str], owners: &[Owner]) -> Option<Change> {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        let owners = owners.iter().cloned().collect();
        let view = [lease.clone()].into_iter().collect();
        reclaim(&view, Gone { nodes: &nodes, owners: &owners }).pop()
    }

    #[test]
    fn a_block_of_a_node_that_is_gone_is_marked_and_then_deleted() {
        let block = Lease::new("p", "10.0.0.0/30".parse().unwrap(), "n1");
        assert_eq!(gone(&block, &[], &[]), None);
        let marked = Lease { released: true, ..block.clone() };
        assert_eq!(gone(&block, &["n1"], &[]), Some(Change::Replace(marked.clone())));
        assert_eq!(gone(&marked, &["n1"], &[]), Some(Change::Delete(marked)));
    }

    #[test]
    fn a_kept_address_outlives_its_node_and_not_its_owner() {
        let kept = Lease::single("p", "10.0.0.1".parse().unwrap(), "n1", Some(owner()));
        let marked = Lease { released: true, ..kept.clone() };
        let nobodys = Lease { node: None, ..kept.clone() };
        assert_eq!(gone(&marked, &["n1"], &[]), Some(Change::Replace(nobodys.clone())));
        assert_eq!(gone(&nobodys, &["n1"], &[]), None);
        assert_eq!(gone(&nobodys, &[], &[owner()]), Some(Change::Delete(nobodys)));
        assert_eq!(gone(&kept, &[], &[owner()]), Some(Change::Replace(kept.asked_by(LET_GO))));
    }
}
