//! Which leases go back: the controller's for nodes that are gone, the node's own that it does not use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Lease;

/// Leases of nodes that do not exist any more. Only when the Node object is gone: a node that is merely NotReady may
/// still run its pods.
pub fn orphaned<'a>(leases: &'a BTreeMap<String, Lease>, nodes: &BTreeSet<String>) -> Vec<&'a Lease> {
    leases.values().filter(|lease| !nodes.contains(&lease.node)).collect()
}

/// Leases of this node in which no address is held. The node gives them back after a while: what one node does not use,
/// a pod on another may be waiting for.
pub fn unused<'a>(
    node: &str,
    leases: &'a BTreeMap<String, Lease>,
    held: &BTreeSet<IpAddr>,
) -> Vec<&'a Lease> {
    let mine = leases.values().filter(|lease| lease.node == node);
    mine.filter(|lease| !held.iter().any(|address| lease.block.contains(address))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases() -> BTreeMap<String, Lease> {
        [("10.0.0.0/30", "n1"), ("10.0.0.4/30", "n1"), ("10.0.0.8/30", "n1"), ("10.0.0.12/30", "n2")]
            .map(|(block, node)| Lease::new("p", block.parse().unwrap(), node))
            .into_iter()
            .map(|lease| (lease.name.clone(), lease))
            .collect()
    }

    #[test]
    fn a_node_keeps_what_it_uses_and_nothing_else() {
        let (leases, held) = (leases(), ["10.0.0.5".parse().unwrap()].into());
        let blocks: Vec<_> =
            unused("n1", &leases, &held).iter().map(|lease| lease.block.to_string()).collect();
        assert_eq!(blocks, ["10.0.0.0/30", "10.0.0.8/30"]);
    }

    #[test]
    fn only_leases_of_nodes_that_are_gone_are_orphaned() {
        let leases = leases();
        let orphans = orphaned(&leases, &["n1".to_owned()].into());
        assert_eq!(orphans.iter().map(|lease| lease.node.as_str()).collect::<Vec<_>>(), ["n2"]);
    }
}
