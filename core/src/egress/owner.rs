//! Which node owns which egress address: the same answer on every node, with nothing shared but the facts.
//!
//! Rendezvous hashing with bounded load: each address goes to the best-ranked node that still has room; no node holds
//! more than the ceiling of the mean plus one, unless the pools' node selectors leave it no choice.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::labels::{Labels, Selector};
use crate::rank;

/// A node that could own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: String,
    /// Its labels.
    pub labels: Labels,
    /// Ready, and neither cordoned nor on its way out.
    pub eligible: bool,
}

/// The owner of each address. An address whose selector matches no eligible member has none.
///
/// An address that two Egresses share has one owner; the last selector given for it counts, so give them in a fixed
/// order.
pub fn owners(addresses: &BTreeMap<IpAddr, Selector>, members: &[Member]) -> BTreeMap<IpAddr, String> {
    let eligible: Vec<_> = members.iter().filter(|member| member.eligible).collect();
    if eligible.is_empty() {
        return BTreeMap::new();
    }
    let ceiling = addresses.len().div_ceil(eligible.len()) + 1;
    let mut load: BTreeMap<&str, usize> = BTreeMap::new();
    let mut owners = BTreeMap::new();
    for (address, nodes) in addresses {
        let candidates =
            eligible.iter().filter(|member| nodes.matches(&member.labels)).map(|m| m.node.as_str());
        let ranked = rank::order(&address.to_string(), candidates);
        let has_room = |node: &&&str| load.get(**node).copied().unwrap_or_default() < ceiling;
        // Where selectors crowd addresses onto few nodes the bound cannot hold, and the best-ranked node takes it.
        if let Some(node) = ranked.iter().find(has_room).or(ranked.first()).copied() {
            *load.entry(node).or_default() += 1;
            owners.insert(*address, node.to_owned());
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn member(number: usize) -> Member {
        Member { node: format!("node-{number}"), labels: Labels::new(), eligible: true }
    }

    fn addresses(count: u8) -> BTreeMap<IpAddr, Selector> {
        (0..count).map(|last| (IpAddr::from([172, 16, 11, last]), Selector::default())).collect()
    }

    proptest! {
        #[test]
        fn every_node_computes_the_same_owners_within_the_bound(
            count in 0u8..60, nodes in 1usize..12, seed in any::<usize>(), dead in prop::collection::btree_set(0usize..12, 0..6)
        ) {
            let mut members: Vec<_> = (0..nodes).map(member).collect();
            for number in &dead {
                if let Some(member) = members.get_mut(*number) { member.eligible = false; }
            }
            let given = owners(&addresses(count), &members);
            members.rotate_left(seed % nodes);
            prop_assert_eq!(&given, &owners(&addresses(count), &members));
            let alive: BTreeSet<_> = members.iter().filter(|m| m.eligible).map(|m| m.node.clone()).collect();
            if alive.is_empty() {
                prop_assert!(given.is_empty());
            } else {
                prop_assert_eq!(given.len(), usize::from(count));
                prop_assert!(given.values().all(|node| alive.contains(node)));
                let most = alive.iter().map(|node| given.values().filter(|owner| *owner == node).count()).max();
                prop_assert!(most.unwrap() <= usize::from(count).div_ceil(alive.len()) + 1);
            }
        }
    }

    #[test]
    fn when_a_node_dies_few_other_addresses_move() {
        let members: Vec<_> = (0..5).map(member).collect();
        let before = owners(&addresses(50), &members);
        let after = owners(&addresses(50), &members[..4]);
        let moved =
            before.iter().filter(|(ip, node)| *node != "node-4" && after.get(*ip) != Some(*node)).count();
        assert!(moved <= 5, "{moved} of 40 addresses moved without need");
    }

    #[test]
    fn an_address_that_no_node_may_hold_has_no_owner() {
        let nowhere = Selector { match_labels: [("rack".into(), "9".into())].into(), ..Selector::default() };
        assert!(owners(&[(IpAddr::from([1, 1, 1, 1]), nowhere)].into(), &[member(1)]).is_empty());
    }
}
