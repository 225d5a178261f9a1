//! Which leases go back: the controller's for nodes that are gone, the node's own that it does not use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Lease, Pool};

/// Leases of nodes that do not exist any more. Only when the Node object is gone: a node that is merely NotReady may
/// still run its pods.
pub fn orphaned<'a>(leases: &'a BTreeMap<String, Lease>, nodes: &BTreeSet<String>) -> Vec<&'a Lease> {
    leases.values().filter(|lease| !nodes.contains(&lease.node)).collect()
}

/// Leases that this node can give back: nothing in them is held, and either their pool is gone, or another lease of the
/// same pool is empty as well (one stays as headroom, so that the next pod need not wait for a claim).
pub fn unused<'a>(
    node: &str,
    leases: &'a BTreeMap<String, Lease>,
    pools: &BTreeMap<String, Pool>,
    held: &BTreeSet<IpAddr>,
) -> Vec<&'a Lease> {
    let mut headroom = BTreeSet::new();
    let mine = leases.values().filter(|lease| lease.node == node);
    let empty = mine.filter(|lease| !held.iter().any(|address| lease.block.contains(address)));
    empty.filter(|lease| !pools.contains_key(&lease.pool) || !headroom.insert(lease.pool.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::lease::tests::pool;

    fn leases() -> BTreeMap<String, Lease> {
        [("10.0.0.0/30", "n1"), ("10.0.0.4/30", "n1"), ("10.0.0.8/30", "n1"), ("10.0.0.12/30", "n2")]
            .map(|(block, node)| Lease::new("p", block.parse().unwrap(), node))
            .into_iter()
            .map(|lease| (lease.name.clone(), lease))
            .collect()
    }

    #[test]
    fn a_node_keeps_what_it_uses_and_one_empty_lease() {
        let pools = [("p".to_owned(), pool("p", &["10.0.0.0/24"], 4))].into();
        let held = ["10.0.0.5".parse().unwrap()].into();
        let (leases, none) = (leases(), BTreeMap::new());
        assert_eq!(unused("n1", &leases, &pools, &held).len(), 1);
        assert_eq!(unused("n1", &leases, &none, &held).len(), 2);
        assert!(
            unused("n1", &leases, &none, &held)
                .iter()
                .all(|lease| !lease.block.contains(&"10.0.0.5".parse::<IpAddr>().unwrap()))
        );
    }

    #[test]
    fn only_leases_of_nodes_that_are_gone_are_orphaned() {
        let leases = leases();
        let orphans = orphaned(&leases, &["n1".to_owned()].into());
        assert_eq!(orphans.iter().map(|lease| lease.node.as_str()).collect::<Vec<_>>(), ["n2"]);
    }
}
