//! Leases: who decides about which addresses.
//!
//! A lease is a block of a pool on a fixed grid, or what of it is in the pool, that one node holds, or a single address, which may lie inside a block:
//! lent by the block's holder to a node that is short, or kept for a workload. One object, one authority; every change to
//! one is a compare-and-swap on the version that was seen.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Owner, Pool};
use crate::address::{Range, Ranges};

/// In [`Lease::asks`]: asks the holder to let go, for nobody in particular. No node may have this name.
pub const LET_GO: &str = "-";

/// A block of a pool, or a single address, and who decides about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    /// The object's name: [`name`] of pool and block.
    pub name: String,
    /// The pool.
    pub pool: String,
    /// The block; of one address where it is a single.
    pub block: IpNet,
    /// The node that decides; nobody where the address waits for its owner's next pod.
    pub node: Option<String>,
    /// The node to which a virtual machine is migrating: its pod there holds the address as well.
    pub second: Option<String>,
    /// The second node uses it no more and is about to take itself out.
    pub leaving: bool,
    /// The workload the address is kept for.
    pub owner: Option<Owner>,
    /// The node gives no more addresses of it and is about to hand it on or to delete it.
    pub released: bool,
    /// Whoever holds a block around it does not use the address and will not while this lease exists: the holder of the
    /// block says so, or this one's own holder where there is no block around it. Who claims one later has seen this.
    pub granted: bool,
    /// Nodes that ask for it, or for single addresses out of it.
    pub asks: BTreeSet<String>,
    /// The version that was seen, for compare-and-swap.
    pub version: Version,
}

/// Which state of which object was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource: String,
}

/// A change to the leases, as the API server is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Claim: succeeds where no object of that name exists.
    Create(Lease),
    /// Replace: succeeds where the object still has the version in it.
    Replace(Lease),
    /// Delete: succeeds where the object still has the version in it.
    Delete(Lease),
}

impl Change {
    /// The lease it is about.
    pub fn lease(&self) -> &Lease {
        match self {
            Self::Create(lease) | Self::Replace(lease) | Self::Delete(lease) => lease,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(lease) => write!(f, "create lease {}", lease.name),
            Self::Replace(lease) => write!(f, "change lease {}", lease.name),
            Self::Delete(lease) => write!(f, "delete lease {}", lease.name),
        }
    }
}

impl Lease {
    /// A lease of this block, claimed by this node.
    pub fn new(pool: &str, block: IpNet, node: &str) -> Self {
        Self {
            name: name(pool, block),
            pool: pool.to_owned(),
            block,
            node: Some(node.to_owned()),
            second: None,
            leaving: false,
            owner: None,
            released: false,
            granted: false,
            asks: BTreeSet::new(),
            version: Version::default(),
        }
    }

    /// A lease of one address, claimed by this node, kept for an owner or not.
    pub fn single(pool: &str, address: IpAddr, node: &str, owner: Option<Owner>) -> Self {
        Self { owner, ..Self::new(pool, address.into(), node) }
    }

    /// Whether this node decides about it.
    pub fn is_of(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node)
    }

    /// Whether it is a block: of more than one address, for anybody. In one, a node may ask for addresses of the pool.
    pub fn is_block(&self) -> bool {
        self.owner.is_none() && !self.is_single()
    }

    /// Whether its addresses are of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.block.network().is_ipv4()
    }

    /// Whether it is smaller than a cell of the pool's grid, so that a block around it may come to be.
    pub fn is_part(&self, pool: &Pool) -> bool {
        let longer = self.block.max_prefix_len() - self.block.prefix_len();
        u32::from(longer) < pool.lease_size.max(1).ilog2()
    }

    /// Whether it is of one address.
    pub fn is_single(&self) -> bool {
        self.block.prefix_len() == self.block.max_prefix_len()
    }

    /// The address of a single; the first one of a block.
    pub fn address(&self) -> IpAddr {
        self.block.network()
    }

    /// The same with one more node that asks.
    #[must_use]
    pub fn asked_by(&self, node: &str) -> Self {
        let mut asked = self.clone();
        asked.asks.insert(node.to_owned());
        asked
    }
}

/// The name of the object that stands for a block: the same on every node, so that creating it is the claim. IPv6 is
/// written without '::', whose colons no object name may have.
pub fn name(pool: &str, block: IpNet) -> String {
    let address = match block.network() {
        IpAddr::V4(address) => address.octets().map(|octet| octet.to_string()).join("-"),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
    };
    format!("{pool}-{address}-{}", block.prefix_len())
}

/// The blocks of a pool: the cells of a grid of `lease_size` addresses, cut to the pool's ranges, that have a usable address
/// in them. The grid depends on nothing but the size, so ranges can be added without moving it.
pub fn blocks(pool: &Pool) -> impl Iterator<Item = IpNet> + '_ {
    let blocks = pool.ranges.ranges().iter().flat_map(|range| {
        cells(range, pool.lease_size).flat_map(|cell| {
            let whole = range.contains(cell.network()) && range.contains(cell.broadcast());
            if whole { vec![cell] } else { cut(cell, *range).prefixes() }
        })
    });
    blocks.filter(|block| pool.usable.meets(*block))
}

fn cut(cell: IpNet, range: Range) -> Ranges {
    let (cell, range): (Ranges, Ranges) = ([cell].into_iter().collect(), [range].into_iter().collect());
    cell.intersect(&range)
}

/// The addresses of a block that pods may get.
pub fn usable(pool: &Pool, block: IpNet) -> Ranges {
    let block: Ranges = [block].into_iter().collect();
    pool.usable.intersect(&block)
}

fn cells(range: &Range, size: u32) -> impl Iterator<Item = IpNet> + use<> {
    let bits = size.max(1).ilog2() as u8;
    let width: u8 = if range.first().is_ipv4() { 32 } else { 128 };
    let length = width.saturating_sub(bits);
    let last = range.last();
    let cell = move |address: IpAddr| IpNet::new(address, length).map(|net| net.trunc()).ok();
    let mut next = cell(range.first());
    std::iter::from_fn(move || {
        let current = next?;
        let after = crate::address::after(current.broadcast());
        next = after.filter(|address| *address <= last).and_then(cell);
        Some(current)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pool(name: &str, nets: &[&str], lease_size: u32) -> Pool {
        let usable = nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect();
        Pool { lease_size, cooldown: 0, ..Pool::new(name, usable) }
    }

    #[test]
    fn blocks_cover_every_address_of_a_pool_once() {
        for (nets, size, count) in [
            (vec!["10.20.0.0/24"], 16, 16),
            (vec!["10.20.0.3/32", "10.20.0.9/32"], 16, 2),
            (vec!["10.20.0.8/29", "10.20.0.16/30"], 16, 2),
            (vec!["10.20.0.0/31"], 1, 2),
            (vec!["fd00::/124"], 16, 1),
            (vec!["255.255.255.240/28"], 16, 1),
        ] {
            let pool = pool("p", &nets, size);
            let found: Vec<_> = blocks(&pool).collect();
            assert_eq!(found.len(), count, "{nets:?}");
            let covered: Ranges = found.iter().flat_map(|b| usable(&pool, *b).ranges().to_vec()).collect();
            assert_eq!(covered, pool.usable);
        }
    }

    #[test]
    fn a_lease_has_a_name_that_kubernetes_takes() {
        assert_eq!(name("erp", "10.20.1.16/28".parse().unwrap()), "erp-10-20-1-16-28");
        assert_eq!(name("erp", "fd00::/124".parse().unwrap()), "erp-fd00-0-0-0-0-0-0-0-124");
    }
}
