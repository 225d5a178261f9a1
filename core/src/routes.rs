//! Which prefix is reached through which node: one table for agents, engines and, later, routers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::ipam::Lease;

/// A node, as far as routes are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address in the data centre (the first InternalIP); without one nothing is routed to it.
    pub address: Option<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// Where a prefix is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The node.
    pub node: String,
    /// Its address.
    pub via: IpAddr,
}

/// All prefixes, and what could not be among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Prefix to node.
    pub routes: BTreeMap<IpNet, Hop>,
    /// Prefixes that were left out.
    pub conflicts: Vec<Conflict>,
}

/// A prefix that was left out because another node holds (part of) it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The prefix.
    pub prefix: IpNet,
    /// The node that does not get it.
    pub node: String,
    /// The prefix that was there first.
    pub with: IpNet,
    /// Its node.
    pub holder: String,
}

/// The table. Node CIDRs come before leases and names decide between equals, so the answer is the same everywhere; a
/// conflict costs the one prefix and no other.
pub fn table<'a>(nodes: &[Node], leases: impl IntoIterator<Item = &'a Lease>) -> Table {
    let nodes: BTreeMap<&str, &Node> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let cidrs = nodes.values().flat_map(|node| node.pod_cidrs.iter().map(|cidr| (*cidr, node.name.as_str())));
    let mut leased: Vec<_> = leases.into_iter().map(|lease| (lease.block, lease.node.as_str())).collect();
    leased.sort_unstable();
    let mut table = Table::default();
    for (prefix, name) in cidrs.chain(leased) {
        let Some(via) = nodes.get(name).and_then(|node| node.address) else { continue };
        if prefix.network().is_ipv4() != via.is_ipv4() {
            continue;
        }
        let overlaps = |other: &IpNet| other.contains(&prefix) || prefix.contains(other);
        match table.routes.iter().find(|(other, hop)| overlaps(other) && hop.node != name) {
            Some((with, hop)) => {
                let (with, holder) = (*with, hop.node.clone());
                table.conflicts.push(Conflict { prefix, node: name.to_owned(), with, holder });
            }
            None => {
                table.routes.insert(prefix, Hop { node: name.to_owned(), via });
            }
        }
    }
    table
}

/// The way to a prefix of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The node is in one of our subnets.
    Direct,
    /// It is not: over VXLAN.
    Vxlan,
}

/// The routes of one node to all others: direct where it shares a subnet with the other, VXLAN where not.
pub fn for_node(table: &Table, me: &str, subnets: &[IpNet]) -> BTreeMap<IpNet, (IpAddr, Path)> {
    let others = table.routes.iter().filter(|(_, hop)| hop.node != me);
    others
        .map(|(prefix, hop)| {
            let near = subnets.iter().any(|subnet| subnet.contains(&hop.via));
            (*prefix, (hop.via, if near { Path::Direct } else { Path::Vxlan }))
        })
        .collect()
}

/// The hardware address of a node's VXLAN device: locally administered, and a function of the node's address, so that no
/// node has to ask another.
pub fn vxlan_mac(node: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = node.octets();
    [0x02, 0x50, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: Option<&str>, cidr: &str) -> Node {
        let pod_cidrs = vec![cidr.parse().unwrap()];
        Node { name: name.into(), address: address.map(|a| a.parse().unwrap()), pod_cidrs }
    }

    fn worker(number: u8) -> Node {
        node(
            &format!("w{number}"),
            Some(&format!("10.100.1.10{number}")),
            &format!("192.168.10{number}.0/24"),
        )
    }

    #[test]
    fn the_table_of_scenario_2() {
        let table = table(&[worker(1), worker(2)], []);
        let lines: Vec<_> =
            table.routes.iter().map(|(prefix, hop)| format!("{prefix} via {}", hop.via)).collect();
        assert_eq!(lines, ["192.168.101.0/24 via 10.100.1.101", "192.168.102.0/24 via 10.100.1.102"]);
    }

    #[test]
    fn a_conflict_costs_one_prefix_and_the_winner_does_not_depend_on_the_order() {
        let lease = |block: &str, node: &str| Lease::new("p", block.parse().unwrap(), node);
        let leases = [lease("192.168.101.16/28", "w2"), lease("10.20.0.0/28", "w2")];
        let one = table(&[worker(1), worker(2)], &leases);
        let two = table(&[worker(2), worker(1)], leases.iter().rev());
        assert_eq!(one, two);
        assert_eq!((one.routes.len(), one.conflicts.len()), (3, 1));
        assert_eq!((one.conflicts[0].node.as_str(), one.conflicts[0].holder.as_str()), ("w2", "w1"));
    }

    #[test]
    fn a_node_without_an_address_costs_its_own_routes_only() {
        let table = table(&[worker(1), node("w2", None, "192.168.102.0/24")], []);
        assert_eq!(table.routes.len(), 1);
    }

    #[test]
    fn a_node_reaches_its_own_subnet_directly_and_others_over_vxlan() {
        let far = node("w3", Some("10.200.1.101"), "192.168.103.0/24");
        let table = table(&[worker(1), worker(2), far], []);
        let routes = for_node(&table, "w1", &["10.100.1.0/24".parse().unwrap()]);
        let paths: Vec<_> = routes.values().map(|(_, path)| *path).collect();
        assert_eq!(paths, [Path::Direct, Path::Vxlan]);
        assert_eq!(vxlan_mac(Ipv4Addr::new(10, 0, 0, 1)), [2, 0x50, 10, 0, 0, 1]);
    }
}
