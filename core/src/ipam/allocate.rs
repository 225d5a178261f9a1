//! Which address a pod gets, decided by the node alone from what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Lease, Pool, lease, pool};
use crate::address::Ranges;
use crate::labels::Labels;
use crate::rank;

/// What the node knows when it is asked for an address.
#[derive(Debug, Clone, Copy)]
pub struct Knowledge<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's labels.
    pub node_labels: &'a Labels,
    /// The node's own pod CIDRs.
    pub node_cidrs: &'a [IpNet],
    /// Every pool.
    pub pools: &'a BTreeMap<String, Pool>,
    /// Every lease of every node, by name.
    pub leases: &'a BTreeMap<String, Lease>,
    /// Leases that this node must not take from or claim: on their way back, or just lost to another node.
    pub untouchable: &'a BTreeSet<String>,
    /// Addresses held on this node.
    pub held: &'a BTreeSet<IpAddr>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Give this address.
    Take {
        /// The address.
        address: IpAddr,
        /// Its pool; `None` for the node's own pod CIDR.
        pool: Option<String>,
    },
    /// Claim this lease first, then ask again.
    Claim(Lease),
    /// There is no address.
    Refuse(Refusal),
}

/// Every pool that was asked, and why it was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub Vec<PassedOver>);

/// A pool that was asked in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Its name; for the node's own pod CIDR, "node".
    pub pool: String,
    /// Why.
    pub why: Why,
}

/// Why a pool gives no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Every address is held, and every block leased.
    Exhausted,
    /// The pool is disabled.
    Disabled,
    /// The pool's node selector does not match this node.
    NotOnThisNode,
    /// The pool does not exist any more.
    Gone,
    /// The pool has no usable address of a family that is served (IPv4).
    NoFamily,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exhausted => "it has no free address: add a range",
            Self::Disabled => "it is disabled: set spec.disabled to false",
            Self::NotOnThisNode => "its nodeSelector does not match this node",
            Self::Gone => "it does not exist any more",
            Self::NoFamily => "it has no IPv4 address, and IPv6 is not served yet",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|one| format!("pool {}: {}", one.pool, one.why)).collect();
        f.write_str(&parts.join("; "))
    }
}

/// Decides for a pod that may use these pools, in this order; none of them means the node's own pod CIDR.
///
/// The lowest free address is taken. A lease is claimed only when all that the node holds of the pool is given out, and
/// the next pool is asked only when this one has no block left.
pub fn allocate(candidates: &[String], known: Knowledge<'_>) -> Decision {
    if candidates.is_empty() {
        return from_node(known);
    }
    let mut passed_over = Vec::new();
    for name in candidates {
        match from_pool(name, known) {
            Ok(decision) => return decision,
            Err(why) => passed_over.push(PassedOver { pool: name.clone(), why }),
        }
    }
    Decision::Refuse(Refusal(passed_over))
}

fn from_pool(name: &str, known: Knowledge<'_>) -> Result<Decision, Why> {
    let pool = known.pools.get(name).ok_or(Why::Gone)?;
    if !pool.enabled {
        return Err(Why::Disabled);
    }
    if !pool.nodes.matches(known.node_labels) {
        return Err(Why::NotOnThisNode);
    }
    if !pool.usable.ranges().iter().any(|range| range.first().is_ipv4()) {
        return Err(Why::NoFamily);
    }
    let mut mine = known.leases.values().filter(|lease| {
        lease.pool == name
            && lease.node == known.node
            && !lease.released
            && !known.untouchable.contains(&lease.name)
    });
    if let Some(address) = mine.find_map(|lease| free(&lease::usable(pool, lease.block), known.held)) {
        return Ok(Decision::Take { address, pool: Some(name.to_owned()) });
    }
    unclaimed(pool, known).map(Decision::Claim).ok_or(Why::Exhausted)
}

/// A block that nobody holds: for each node another one first, so that nodes that claim at once seldom meet.
fn unclaimed(pool: &Pool, known: Knowledge<'_>) -> Option<Lease> {
    let overlaps = |block: IpNet| {
        let held = known.leases.values().filter(|lease| lease.pool == pool.name);
        held.into_iter().any(|lease| lease.block.contains(&block) || block.contains(&lease.block))
    };
    lease::blocks(pool)
        .filter(|block| block.network().is_ipv4() && !overlaps(*block))
        .map(|block| Lease::new(&pool.name, block, known.node))
        .filter(|lease| !known.untouchable.contains(&lease.name))
        .max_by_key(|lease| rank::weight(known.node, &lease.name))
}

fn from_node(known: Knowledge<'_>) -> Decision {
    let nets = known.node_cidrs.iter().filter(|net| net.network().is_ipv4());
    let address = nets.copied().find_map(|net| {
        let all: Ranges = [net].into_iter().collect();
        free(&all.subtract(&pool::node_special(net)), known.held)
    });
    match address {
        Some(address) => Decision::Take { address, pool: None },
        None => Decision::Refuse(Refusal(vec![PassedOver { pool: "node".into(), why: Why::Exhausted }])),
    }
}

fn free(usable: &Ranges, held: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    usable.addresses().filter(IpAddr::is_ipv4).find(|address| !held.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::lease::tests::pool;

    struct Node {
        pools: BTreeMap<String, Pool>,
        leases: BTreeMap<String, Lease>,
        untouchable: BTreeSet<String>,
        held: BTreeSet<IpAddr>,
    }

    impl Node {
        fn new(pools: &[Pool]) -> Self {
            let pools = pools.iter().map(|pool| (pool.name.clone(), pool.clone())).collect();
            Self { pools, leases: BTreeMap::new(), untouchable: BTreeSet::new(), held: BTreeSet::new() }
        }

        fn ask(&self, candidates: &[&str]) -> Decision {
            let candidates: Vec<_> = candidates.iter().map(|name| (*name).to_owned()).collect();
            let known = Knowledge {
                node: "node-1",
                node_labels: &Labels::new(),
                node_cidrs: &["10.10.1.0/30".parse().unwrap()],
                pools: &self.pools,
                leases: &self.leases,
                untouchable: &self.untouchable,
                held: &self.held,
            };
            allocate(&candidates, known)
        }

        /// Takes until it is refused.
        fn drain(&mut self, candidates: &[&str]) -> (Vec<IpAddr>, Refusal) {
            let mut taken = Vec::new();
            loop {
                match self.ask(candidates) {
                    Decision::Take { address, .. } => {
                        assert!(self.held.insert(address), "{address} was held");
                        taken.push(address);
                    }
                    Decision::Claim(lease) => {
                        assert!(self.leases.insert(lease.name.clone(), lease).is_none());
                    }
                    Decision::Refuse(refusal) => return (taken, refusal),
                }
            }
        }
    }

    #[test]
    fn every_address_of_the_pools_is_given_once_and_in_order_of_the_list() {
        let mut node = Node::new(&[pool("a", &["10.20.0.0/29"], 4), pool("b", &["10.21.0.0/31"], 16)]);
        let (taken, refusal) = node.drain(&["a", "b"]);
        assert_eq!(taken.len(), 10);
        assert!(taken[..8].iter().all(|address| address.to_string().starts_with("10.20.")), "{taken:?}");
        assert!(
            refusal.to_string().contains("pool a: ") && refusal.to_string().contains("pool b: "),
            "{refusal}"
        );
    }

    #[test]
    fn the_lowest_free_address_is_taken_and_a_released_one_comes_back() {
        let mut node = Node::new(&[pool("a", &["10.20.0.0/30"], 4)]);
        let (taken, _) = node.drain(&["a"]);
        node.held.remove(&taken[2]);
        assert_eq!(node.ask(&["a"]), Decision::Take { address: taken[2], pool: Some("a".into()) });
    }

    #[test]
    fn without_a_pool_the_nodes_own_cidr_gives_all_but_its_ends() {
        let mut node = Node::new(&[]);
        let (taken, _) = node.drain(&[]);
        assert_eq!(taken, ["10.10.1.1".parse::<IpAddr>().unwrap(), "10.10.1.2".parse().unwrap()]);
    }

    #[test]
    fn a_lease_that_is_on_its_way_back_gives_nothing_and_is_not_claimed_again() {
        let mut node = Node::new(&[pool("a", &["10.20.0.0/30"], 4)]);
        let Decision::Claim(lease) = node.ask(&["a"]) else { panic!() };
        node.untouchable.insert(lease.name.clone());
        assert!(matches!(node.ask(&["a"]), Decision::Refuse(_)));
        node.leases.insert(lease.name.clone(), lease);
        assert!(matches!(node.ask(&["a"]), Decision::Refuse(_)));
    }

    #[test]
    fn a_released_lease_gives_nothing() {
        let mut node = Node::new(&[pool("a", &["10.20.0.0/30"], 4)]);
        let Decision::Claim(lease) = node.ask(&["a"]) else { panic!() };
        node.leases.insert(lease.name.clone(), Lease { released: true, ..lease });
        assert!(matches!(node.ask(&["a"]), Decision::Refuse(_)));
    }

    #[test]
    fn a_pool_that_is_off_or_elsewhere_says_so() {
        let mut off = pool("off", &["10.20.0.0/30"], 4);
        off.enabled = false;
        let mut elsewhere = pool("elsewhere", &["10.21.0.0/30"], 4);
        elsewhere.nodes.match_labels.insert("rack".into(), "2".into());
        let (_, refusal) = Node::new(&[off, elsewhere]).drain(&["off", "elsewhere", "gone"]);
        let why: Vec<_> = refusal.0.iter().map(|one| one.why).collect();
        assert_eq!(why, [Why::Disabled, Why::NotOnThisNode, Why::Gone]);
    }
}
