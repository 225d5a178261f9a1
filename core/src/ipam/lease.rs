//! Leases: blocks of a pool on a fixed grid, each held by one node.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Pool;
use crate::address::{Range, Ranges};

/// A block of a pool, held by a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    /// The object's name: [`name`] of pool and block.
    pub name: String,
    /// The pool.
    pub pool: String,
    /// The block.
    pub block: IpNet,
    /// The node that holds it.
    pub node: String,
    /// The node gives no more addresses of it; it is about to be deleted.
    pub released: bool,
}

impl Lease {
    /// A lease of this block.
    pub fn new(pool: &str, block: IpNet, node: &str) -> Self {
        Self { name: name(pool, block), pool: pool.to_owned(), block, node: node.to_owned(), released: false }
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

/// The blocks of a pool: the cells of a grid of `lease_size` addresses that have a usable address in them. The grid
/// depends on nothing but the size, so ranges can be added without moving it.
pub fn blocks(pool: &Pool) -> impl Iterator<Item = IpNet> + '_ {
    let mut last = None;
    pool.usable.ranges().iter().flat_map(move |range| cells(range, pool.lease_size)).filter(move |block| {
        // Two ranges can share a cell; they are sorted, so it comes twice in a row.
        let fresh = last != Some(*block);
        last = Some(*block);
        fresh
    })
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
    use crate::ipam::Outbound;
    use crate::labels::Selector;

    pub(crate) fn pool(name: &str, nets: &[&str], lease_size: u32) -> Pool {
        Pool {
            name: name.into(),
            usable: nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect(),
            lease_size,
            nodes: Selector::default(),
            namespaces: None,
            outbound: Outbound::NodeAddress,
            enabled: true,
        }
    }

    #[test]
    fn blocks_cover_every_address_of_a_pool_once() {
        for (nets, size, count) in [
            (vec!["10.20.0.0/24"], 16, 16),
            (vec!["10.20.0.3/32", "10.20.0.9/32"], 16, 1),
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
