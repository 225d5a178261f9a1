//! What a data centre consists of, as data. The addresses are those of the scenarios.

/// A data centre to be built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The cluster's nodes.
    pub nodes: Vec<NodePlan>,
    /// Service engine hosts: `se-1`, `se-2`, …
    pub engines: u8,
    /// Every host has an IPv6 address beside its IPv4 one, the cluster's pods and Services are of both families.
    pub dual_stack: bool,
}

/// A node to be built.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Its rack, 1 or 2: 172.16.11.0/24 or 172.16.12.0/24.
    pub rack: u8,
    /// The last byte of its address.
    pub last: u8,
    /// Its pod CIDRs: IPv4, and in a dual-stack cluster IPv6.
    pub pod_cidrs: Vec<String>,
}

impl NodePlan {
    /// Its address.
    pub fn address(&self) -> String {
        format!("172.16.{}.{}", 10 + self.rack, self.last)
    }
}

impl Plan {
    /// The bank of scenario 1: nodes in rack 1, node-1 is 172.16.11.11 with pods 10.10.1.0/24.
    pub fn bank(nodes: u8) -> Self {
        let node = |number| NodePlan {
            name: format!("node-{number}"),
            rack: 1,
            last: 10 + number,
            pod_cidrs: vec![format!("10.10.{number}.0/24")],
        };
        Self { nodes: (1..=nodes).map(node).collect(), engines: 1, dual_stack: false }
    }

    /// The same with IPv6 beside IPv4: node-1 is 2001:db8:11::11 too, with pods fd10:10:1::/64.
    #[must_use]
    pub fn with_both_families(mut self) -> Self {
        self.dual_stack = true;
        for (node, number) in self.nodes.iter_mut().zip(1..) {
            node.pod_cidrs.push(format!("fd10:10:{number}::/64"));
        }
        self
    }

    /// The addresses of a host that has this IPv4 address.
    pub fn addresses(&self, v4: &str) -> Vec<String> {
        let v6 = self.dual_stack.then(|| ipv6(v4)).flatten();
        std::iter::once(v4.to_owned()).chain(v6).collect()
    }

    /// The cluster's Service addresses, as the API server takes them.
    pub fn services(&self) -> String {
        if self.dual_stack { format!("{SERVICES},{SERVICES_V6}") } else { SERVICES.to_owned() }
    }

    /// The same with the last node in another rack, behind the router.
    #[must_use]
    pub fn with_second_rack(mut self) -> Self {
        if let Some(last) = self.nodes.last_mut() {
            last.rack = 2;
        }
        self
    }
}

/// The IPv6 address of a host whose IPv4 address is 172.16.network.last: 2001:db8:network::last, written with the same
/// decimal figures.
pub fn ipv6(v4: &str) -> Option<String> {
    let (network, last) = v4.strip_prefix("172.16.")?.split_once('.')?;
    Some(format!("2001:db8:{network}::{last}"))
}

/// The cluster's Service addresses of IPv6, in a dual-stack cluster.
pub const SERVICES_V6: &str = "fd96::/108";
/// The cluster's Service addresses.
pub const SERVICES: &str = "10.96.0.0/12";
/// Where the API server listens.
pub const CONTROL: &str = "172.16.11.5";
