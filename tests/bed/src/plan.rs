//! What a data centre consists of, as data. The addresses are those of the scenarios.

/// A data centre to be built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The cluster's nodes.
    pub nodes: Vec<NodePlan>,
    /// Service engine hosts: `se-1`, `se-2`, …
    pub engines: u8,
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
    /// Its pod CIDR.
    pub pod_cidr: String,
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
            pod_cidr: format!("10.10.{number}.0/24"),
        };
        Self { nodes: (1..=nodes).map(node).collect(), engines: 1 }
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

/// The cluster's Service addresses.
pub const SERVICES: &str = "10.96.0.0/12";
/// Where the API server listens.
pub const CONTROL: &str = "172.16.11.5";
