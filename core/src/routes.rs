//! Which prefix is reached through which node: one table for agents, engines and, later, routers.
//!
//! A prefix of a node that has no address of its family is reached over VXLAN alone, whose outer packets are IPv4: an
//! IPv6 pod needs no IPv6 between the nodes. Everybody can compute the next hop there ([`vxlan_link_local`]) and its hardware
//! address ([`vxlan_mac`]), so no node has to ask another.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::ipam::View;

/// A node, as far as routes are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address in the data centre (the first InternalIP); without one nothing is routed to it.
    pub address: Option<IpAddr>,
    /// Its first InternalIP of the other family, where it has one.
    pub second: Option<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

impl Node {
    /// Its addresses, the first InternalIP first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.address.into_iter().chain(self.second)
    }

    /// The way to a prefix of this node, where there is one.
    fn hop(&self, prefix: IpNet) -> Option<Hop> {
        let via = self.addresses().find(|address| address.is_ipv4() == prefix.network().is_ipv4());
        let tunnel = self.addresses().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        (via.is_some() || tunnel.is_some()).then(|| Hop { node: self.name.clone(), via, tunnel })
    }
}

/// Where a prefix is. At least one of the two ways exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The node.
    pub node: String,
    /// Its address of the prefix's family: the next hop of a direct route.
    pub via: Option<IpAddr>,
    /// Where VXLAN's outer packets go.
    pub tunnel: Option<Ipv4Addr>,
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

/// The table. Node CIDRs come before leases, and of leases of two pools the wider one, so the answer is the same everywhere;
/// a conflict costs the one prefix and no other.
///
/// A lease inside another one of its pool is routed to its own node once the other's holder has granted it; before that,
/// a pod of the holder's may still have the address.
pub fn table(nodes: &[Node], view: &View) -> Table {
    let nodes: BTreeMap<&str, &Node> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut table = Table::default();
    for node in nodes.values() {
        for cidr in &node.pod_cidrs {
            table.add(*cidr, node, |_| true);
        }
    }
    let mut leases: Vec<_> = view.iter().collect();
    leases.sort_unstable_by(|one, other| (one.block, &one.name).cmp(&(other.block, &other.name)));
    for lease in leases {
        let Some(node) = lease.node.as_deref().and_then(|name| nodes.get(name)) else { continue };
        let cover = view.cover(lease).map(|cover| (cover.block, cover.node.as_deref()));
        match cover {
            Some((_, Some(holder))) if holder == node.name || !lease.granted => {}
            _ => table.add(lease.block, node, |with| cover.is_none_or(|(block, _)| block != with)),
        }
    }
    table
}

impl Table {
    fn add(&mut self, prefix: IpNet, node: &Node, conflicts: impl Fn(IpNet) -> bool) {
        let Some(hop) = node.hop(prefix) else { return };
        let other = |(with, held): &(IpNet, &Hop)| held.node != node.name && conflicts(*with);
        let other = self.overlapping(prefix).find(other).map(|(with, held)| (with, held.node.clone()));
        match other {
            Some((with, holder)) => {
                self.conflicts.push(Conflict { prefix, node: node.name.clone(), with, holder });
            }
            None => {
                self.routes.insert(prefix, hop);
            }
        }
    }

    fn overlapping(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &Hop)> {
        let around =
            (0..=prefix.prefix_len()).filter_map(move |length| IpNet::new(prefix.network(), length).ok());
        let around = around.filter_map(|net| self.routes.get_key_value(&net.trunc()));
        let last = IpNet::new(prefix.broadcast(), prefix.max_prefix_len()).unwrap_or(prefix);
        around.chain(self.routes.range(prefix..=last)).map(|(net, hop)| (*net, hop))
    }
}

/// The way to a prefix of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The node is in one of our subnets.
    Direct,
    /// It is not: over VXLAN.
    Vxlan,
}

/// The routes of one node to all others, each with its next hop: direct where it shares a subnet with the other, VXLAN
/// where not.
pub fn for_node(table: &Table, me: &str, subnets: &[IpNet]) -> BTreeMap<IpNet, (IpAddr, Path)> {
    let others = table.routes.iter().filter(|(_, hop)| hop.node != me);
    others.filter_map(|(prefix, hop)| Some((*prefix, way(*prefix, hop, subnets)?))).collect()
}

fn way(prefix: IpNet, hop: &Hop, subnets: &[IpNet]) -> Option<(IpAddr, Path)> {
    let near = hop.via.filter(|via| subnets.iter().any(|subnet| subnet.contains(via)));
    let direct = near.map(|via| (via, Path::Direct));
    direct.or_else(|| Some((vxlan_hop(hop.tunnel?, prefix), Path::Vxlan)))
}

/// The next hop to a node over VXLAN: its address, and for an IPv6 prefix a link-local address that is a function of it
/// (fe80:: and the 32 bits of the IPv4 address). Nobody needs to hold it: permanent neighbour entries answer for it.
fn vxlan_hop(node: Ipv4Addr, prefix: IpNet) -> IpAddr {
    if prefix.network().is_ipv4() { node.into() } else { vxlan_link_local(node).into() }
}

/// The link-local address that stands for a node on the VXLAN devices of the others.
pub fn vxlan_link_local(node: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(node.to_bits()))
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
    use crate::ipam::Lease;

    fn node(name: &str, address: Option<&str>, cidr: &str) -> Node {
        let pod_cidrs = vec![cidr.parse().unwrap()];
        Node { name: name.into(), address: address.map(|a| a.parse().unwrap()), second: None, pod_cidrs }
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
        let table = table(&[worker(1), worker(2)], &View::default());
        let lines: Vec<_> =
            table.routes.iter().map(|(prefix, hop)| format!("{prefix} via {}", hop.via.unwrap())).collect();
        assert_eq!(lines, ["192.168.101.0/24 via 10.100.1.101", "192.168.102.0/24 via 10.100.1.102"]);
    }

    #[test]
    fn a_conflict_costs_one_prefix_and_the_winner_does_not_depend_on_the_order() {
        let lease = |block: &str, node: &str| Lease::new("p", block.parse().unwrap(), node);
        let leases = [lease("192.168.101.16/28", "w2"), lease("10.20.0.0/28", "w2")];
        let one = table(&[worker(1), worker(2)], &leases.iter().cloned().collect());
        let two = table(&[worker(2), worker(1)], &leases.iter().rev().cloned().collect());
        assert_eq!(one, two);
        assert_eq!((one.routes.len(), one.conflicts.len()), (3, 1));
        assert_eq!((one.conflicts[0].node.as_str(), one.conflicts[0].holder.as_str()), ("w2", "w1"));
    }

    #[test]
    fn what_is_lent_out_of_a_block_is_routed_to_the_borrower_once_it_is_granted() {
        let block = Lease::new("p", "10.20.0.0/28".parse().unwrap(), "w1");
        let lent = Lease::single("p", "10.20.0.3".parse().unwrap(), "w2", None);
        let own = Lease { granted: true, ..Lease::single("p", "10.20.0.4".parse().unwrap(), "w1", None) };
        let nobodys = Lease { node: None, ..Lease::single("p", "10.30.0.1".parse().unwrap(), "w1", None) };
        let leased = |lent: &Lease| {
            let view = [&block, lent, &own, &nobodys].into_iter().cloned().collect();
            let table = table(&[worker(1), worker(2)], &view);
            assert!(table.conflicts.is_empty(), "{:?}", table.conflicts);
            let leased = table.routes.iter().filter(|(prefix, _)| prefix.to_string().starts_with("10."));
            leased.map(|(prefix, hop)| format!("{prefix} {}", hop.node)).collect::<Vec<_>>()
        };
        assert_eq!(leased(&lent), ["10.20.0.0/28 w1"]);
        assert_eq!(leased(&Lease { granted: true, ..lent.clone() }), ["10.20.0.0/28 w1", "10.20.0.3/32 w2"]);
    }

    #[test]
    fn a_node_without_an_address_costs_its_own_routes_only() {
        let table = table(&[worker(1), node("w2", None, "192.168.102.0/24")], &View::default());
        assert_eq!(table.routes.len(), 1);
    }

    #[test]
    fn a_node_reaches_its_own_subnet_directly_and_others_over_vxlan() {
        let far = node("w3", Some("10.200.1.101"), "192.168.103.0/24");
        let table = table(&[worker(1), worker(2), far], &View::default());
        let routes = for_node(&table, "w1", &["10.100.1.0/24".parse().unwrap()]);
        let paths: Vec<_> = routes.values().map(|(_, path)| *path).collect();
        assert_eq!(paths, [Path::Direct, Path::Vxlan]);
        assert_eq!(vxlan_mac(Ipv4Addr::new(10, 0, 0, 1)), [2, 0x50, 10, 0, 0, 1]);
    }

    #[test]
    fn an_ipv6_prefix_needs_no_ipv6_between_the_nodes_and_uses_it_where_it_is() {
        let six = |name: &str, address, second: Option<&str>, cidr| Node {
            second: second.map(|a| a.parse().unwrap()),
            ..node(name, address, cidr)
        };
        let table = table(
            &[
                six("w1", Some("10.100.1.101"), Some("2001:db8:1::101"), "fd20:0:0:1::/64"),
                six("w2", Some("10.100.1.102"), None, "fd20:0:0:2::/64"),
                six("w3", Some("2001:db8:1::103"), Some("10.100.1.103"), "fd20:0:0:3::/64"),
                six("w4", Some("10.200.1.101"), Some("2001:db8:2::101"), "fd20:0:0:4::/64"),
            ],
            &View::default(),
        );
        let subnets = ["10.100.1.0/24", "2001:db8:1::/64", "fe80::/64"].map(|net| net.parse().unwrap());
        let ways: Vec<_> = for_node(&table, "w1", &subnets).into_values().collect();
        let hop = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            ways,
            [
                (hop("fe80::10.100.1.102"), Path::Vxlan),
                (hop("2001:db8:1::103"), Path::Direct),
                (hop("fe80::10.200.1.101"), Path::Vxlan),
            ]
        );
    }

    #[test]
    fn an_ipv4_prefix_of_a_node_without_an_ipv4_address_is_not_routed() {
        let table = table(&[node("w1", Some("2001:db8::1"), "192.168.101.0/24")], &View::default());
        assert!(table.routes.is_empty());
    }
}
