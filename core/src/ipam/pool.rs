//! A pool of pod addresses, as the decisions see it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Millis;
use crate::address::{Range, Ranges};
use crate::labels::Selector;

/// How many addresses a block has where the pool does not say.
pub const LEASE_SIZE: u32 = 16;

/// How long an address rests where the pool does not say: longer than a peer's connection attempt or a cached answer of a
/// name server usually lives.
pub const COOLDOWN: Millis = 5_000;

/// A pool of pod addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The pool's ranges; blocks lie inside them, so that those of pools that share a cell of the grid never meet.
    pub ranges: Ranges,
    /// Of these, the addresses that pods may get.
    pub usable: Ranges,
    /// Addresses in a block; a power of two, 1 to 65536.
    pub lease_size: u32,
    /// Nodes that may hold blocks.
    pub nodes: Selector,
    /// Namespaces that may use the pool, and that get it without naming it unless it is `on_request`.
    pub namespaces: Option<Selector>,
    /// Only who names the pool gets it.
    pub on_request: bool,
    /// With which source address connections leave the cluster.
    pub outbound: Outbound,
    /// Whether it gives addresses.
    pub enabled: bool,
    /// Whether StatefulSets and virtual machines keep their addresses.
    pub keeps: bool,
    /// How long an address is not given again after its release, in milliseconds.
    pub cooldown: Millis,
    /// How long an address is kept after its owner is gone, in milliseconds.
    pub retention: Millis,
    /// When it was created, in seconds since 1970: of two pools with one address the older gives it.
    pub created: i64,
    /// Gateway and prefix length of the subnet, where the addresses are part of one that others share.
    pub subnet: Option<(IpAddr, u8)>,
}

impl Pool {
    /// A pool of these addresses with every default.
    pub fn new(name: &str, usable: Ranges) -> Self {
        Self {
            name: name.to_owned(),
            ranges: usable.clone(),
            usable,
            lease_size: LEASE_SIZE,
            nodes: Selector::default(),
            namespaces: None,
            on_request: false,
            outbound: Outbound::default(),
            enabled: true,
            keeps: true,
            cooldown: COOLDOWN,
            retention: 0,
            created: 0,
            subnet: None,
        }
    }

    /// Whether it has an address of that family.
    pub fn serves(&self, ipv4: bool) -> bool {
        self.usable.ranges().iter().any(|range| range.first().is_ipv4() == ipv4)
    }
}

/// With which source address connections leave the cluster where no Egress selects the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outbound {
    /// The node's.
    #[default]
    NodeAddress,
    /// The pod's own.
    PodAddress,
}

/// What of a pool's ranges pods may get: all but the exclusions and, where the addresses belong to a subnet that others
/// share, that subnet's network, broadcast and gateway address. Without a subnet nothing is special: a pod holds its
/// address alone (/32), and /31 and /32 pools are as good as others.
pub fn usable(ranges: &Ranges, exclusions: &Ranges, subnet: Option<(IpAddr, u8)>) -> Ranges {
    let special: Ranges = subnet.map(|(gateway, length)| special(gateway, length)).unwrap_or_default();
    ranges.subtract(exclusions).subtract(&special)
}

fn special(gateway: IpAddr, length: u8) -> Ranges {
    let net = IpNet::new(gateway, length).unwrap_or_else(|_| IpNet::from(gateway));
    let ends = node_special(net);
    ends.union(&Range::new(gateway, gateway).into_iter().collect())
}

/// The addresses of a node's own pod CIDR that no pod gets: network and, for IPv4, broadcast, where the network is large
/// enough to have them (the reference plugin `host-local` does the same).
pub fn node_special(net: IpNet) -> Ranges {
    let (first, last) = (net.network(), net.broadcast());
    match net {
        IpNet::V4(v4) if v4.prefix_len() <= 30 => {
            Range::new(first, first).into_iter().chain(Range::new(last, last)).collect()
        }
        IpNet::V6(v6) if v6.prefix_len() <= 126 => Range::new(first, first).into_iter().collect(),
        IpNet::V4(_) | IpNet::V6(_) => Ranges::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Ranges {
        [text.parse::<IpNet>().unwrap()].into_iter().collect()
    }

    #[test]
    fn a_gateway_is_never_given_out_and_small_pools_are_usable() {
        let gateway = Some(("10.0.0.1".parse().unwrap(), 24));
        assert_eq!(usable(&set("10.0.0.0/24"), &Ranges::default(), gateway).len(), 253);
        assert_eq!(usable(&set("10.0.0.0/24"), &Ranges::default(), None).len(), 256);
        assert_eq!(usable(&set("10.0.0.4/31"), &Ranges::default(), gateway).len(), 2);
        assert_eq!(usable(&set("10.0.0.0/30"), &set("10.0.0.0/31"), None).len(), 2);
        assert_eq!(node_special("10.10.1.0/24".parse().unwrap()).len(), 2);
    }
}
