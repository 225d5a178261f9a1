//! All leases of the cluster as one watch shows them, with what lies around and inside each.
//!
//! A watch shows changes in the order in which the API server made them. Whoever sees a lease of his own therefore sees
//! everything that was there before it; this is what the rules here rest on, and why a claim counts only once the watch
//! shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Lease, Pool, lease};
use crate::address::Ranges;

/// A block has at most 65536 addresses, so nothing around an address is more than this many bits shorter.
const WIDEST: u8 = 16;

/// All leases, by name and by block.
#[derive(Debug, Clone, Default)]
pub struct View {
    leases: BTreeMap<String, Lease>,
    blocks: BTreeMap<IpNet, Vec<String>>,
}

impl FromIterator<Lease> for View {
    fn from_iter<I: IntoIterator<Item = Lease>>(leases: I) -> Self {
        let mut view = Self::default();
        for lease in leases {
            view.blocks.entry(lease.block).or_default().push(lease.name.clone());
            view.leases.insert(lease.name.clone(), lease);
        }
        view
    }
}

impl View {
    /// Every lease, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The lease of this name.
    pub fn get(&self, name: &str) -> Option<&Lease> {
        self.leases.get(name)
    }

    /// The lease of this one address.
    pub fn single(&self, pool: &str, address: IpAddr) -> Option<&Lease> {
        self.get(&lease::name(pool, address.into()))
    }

    /// The leases that a node decides about.
    pub fn of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Lease> {
        self.iter().filter(move |lease| lease.is_of(node))
    }

    /// Leases whose block is this one or lies around it.
    pub fn around(&self, block: IpNet) -> impl Iterator<Item = &Lease> {
        let shortest = block.max_prefix_len().saturating_sub(WIDEST).min(block.prefix_len());
        let lengths = (shortest..=block.prefix_len()).rev();
        let wider = lengths.filter_map(move |length| IpNet::new(block.network(), length).ok());
        wider.filter_map(|net| self.blocks.get(&net.trunc())).flatten().filter_map(|name| self.get(name))
    }

    /// Leases whose block lies inside this one and is smaller.
    pub fn inside(&self, block: IpNet) -> impl Iterator<Item = &Lease> {
        let last = IpNet::new(block.broadcast(), block.max_prefix_len()).unwrap_or(block);
        let names = self.blocks.range(block..=last).filter(move |(other, _)| **other != block);
        names.flat_map(|(_, names)| names).filter_map(|name| self.get(name))
    }

    /// The lease of the same pool around this one, whose holder had the address before.
    pub fn cover(&self, of: &Lease) -> Option<&Lease> {
        self.around(of.block).find(|lease| lease.name != of.name && lease.pool == of.pool)
    }

    /// The addresses of a lease that its holder may give. Empty while it may not use the lease at all.
    ///
    /// What others hold inside a block is theirs. A lease inside a block of another node counts once that node has granted
    /// it. Of leases of two pools that overlap, neither counts where they do: the later claimer has seen the earlier one.
    pub fn usable(&self, lease: &Lease, pool: &Pool) -> Ranges {
        let foreign = |other: &Lease| other.name != lease.name && other.pool != lease.pool;
        if lease.released || self.around(lease.block).any(foreign) {
            return Ranges::default();
        }
        let waits = |cover: &Lease| cover.node.is_some() && cover.node != lease.node && !lease.granted;
        if self.cover(lease).is_some_and(waits) {
            return Ranges::default();
        }
        let inside: Ranges = self.inside(lease.block).map(|other| other.block).collect();
        lease::usable(pool, lease.block).subtract(&inside)
    }

    /// Whether a block can be claimed: nobody holds it or anything around it, and it has an address that nobody holds. What
    /// others hold inside has been granted, so that their pods are reached without a break.
    pub fn is_unclaimed(&self, block: IpNet, pool: &Pool) -> bool {
        let settled = |other: &Lease| other.granted || other.node.is_none();
        if self.around(block).next().is_some() || !self.inside(block).all(settled) {
            return false;
        }
        let inside: Ranges = self.inside(block).map(|other| other.block).collect();
        inside.is_empty() || !lease::usable(pool, block).subtract(&inside).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::lease::tests::pool;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn single(address: &str, node: &str) -> Lease {
        Lease::single("p", address.parse().unwrap(), node, None)
    }

    #[test]
    fn what_lies_around_and_inside_a_block_is_found() {
        let leases = [
            Lease::new("p", net("10.0.0.0/28"), "n1"),
            single("10.0.0.3", "n2"),
            Lease::new("p", net("10.0.0.16/28"), "n1"),
        ];
        let view: View = leases.clone().into_iter().collect();
        assert_eq!(view.cover(&leases[1]), Some(&leases[0]));
        assert_eq!(view.inside(leases[0].block).collect::<Vec<_>>(), [&leases[1]]);
        assert_eq!(view.inside(leases[2].block).count(), 0);
        assert!(!view.is_unclaimed(net("10.0.0.0/29"), &pool("p", &["10.0.0.0/24"], 8)));
        assert!(view.is_unclaimed(net("10.0.0.32/28"), &pool("p", &["10.0.0.0/24"], 16)));
    }

    #[test]
    fn a_single_in_a_block_of_another_counts_once_it_is_granted_and_is_never_the_blocks() {
        let pool = pool("p", &["10.0.0.0/28"], 16);
        let (block, asked) = (Lease::new("p", net("10.0.0.0/28"), "n1"), single("10.0.0.3", "n2"));
        let view: View = [block.clone(), asked.clone()].into_iter().collect();
        assert_eq!((view.usable(&block, &pool).len(), view.usable(&asked, &pool).len()), (15, 0));
        let granted = Lease { granted: true, ..asked };
        let view: View = [block, granted.clone()].into_iter().collect();
        assert_eq!(view.usable(&granted, &pool).len(), 1);
    }

    #[test]
    fn pools_that_share_a_cell_of_the_grid_do_not_stand_in_each_others_way() {
        let (p, q) = (pool("p", &["10.0.0.0/31"], 16), pool("q", &["10.0.0.2/31"], 16));
        let claim = |pool: &Pool| Lease::new(&pool.name, lease::blocks(pool).next().unwrap(), "n1");
        let view: View = [claim(&p)].into_iter().collect();
        assert!(view.is_unclaimed(claim(&q).block, &q));
        let view: View = [claim(&p), claim(&q)].into_iter().collect();
        assert_eq!((view.usable(&claim(&p), &p).len(), view.usable(&claim(&q), &q).len()), (2, 2));
    }

    #[test]
    fn leases_of_two_pools_that_overlap_give_no_address_twice() {
        let (p, q) = (pool("p", &["10.0.0.0/28"], 16), pool("q", &["10.0.0.0/29"], 8));
        let one = Lease::new("p", net("10.0.0.0/28"), "n1");
        let other = Lease::new("q", net("10.0.0.0/29"), "n2");
        let view: View = [one.clone(), other.clone()].into_iter().collect();
        assert_eq!((view.usable(&one, &p).len(), view.usable(&other, &q).len()), (8, 0));
    }
}
