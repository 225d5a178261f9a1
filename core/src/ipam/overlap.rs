//! Which sets of addresses overlap that must not: pools with each other, with node and Service CIDRs, with node addresses;
//! and who gives an address where they do.

use std::collections::BTreeMap;

use super::Pool;
use crate::address::Ranges;

/// A set of addresses and what it belongs to, in words: `IPPool erp`, `Service CIDR 10.96.0.0/12`.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose it is.
    pub owner: String,
    /// The addresses.
    pub ranges: Ranges,
}

/// What of a claim others claim too: the other owner and the first range they share.
pub fn overlaps<'a>(claim: &Claim, others: impl IntoIterator<Item = &'a Claim>) -> Vec<(&'a str, String)> {
    let others = others.into_iter().filter(|other| other.owner != claim.owner);
    others
        .filter_map(|other| {
            let shared = claim.ranges.intersect(&other.ranges);
            let first = shared.ranges().first()?;
            Some((other.owner.as_str(), format!("{} to {}", first.first(), first.last())))
        })
        .collect()
}

/// The pools without what is not theirs to give: addresses that somebody else has (`taken`: nodes, Services, external
/// pools), and those of an older pool; of two pools of one age, the one whose name comes first.
pub fn effective(pools: impl IntoIterator<Item = Pool>, taken: &Ranges) -> BTreeMap<String, Pool> {
    let mut pools: Vec<_> = pools.into_iter().collect();
    pools.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
    let mut taken = taken.clone();
    let mut effective = BTreeMap::new();
    for mut pool in pools {
        let (ranges, usable) = (pool.ranges.subtract(&taken), pool.usable.subtract(&taken));
        taken = taken.union(&pool.usable);
        (pool.ranges, pool.usable) = (ranges, usable);
        effective.insert(pool.name.clone(), pool);
    }
    effective
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::lease::tests::pool;

    #[test]
    fn an_address_is_given_by_the_oldest_pool_that_has_it_and_by_none_where_it_is_somebodys() {
        let young = Pool { created: 9, ..pool("a", &["10.20.0.0/28"], 16) };
        let old = Pool { created: 1, ..pool("b", &["10.20.0.0/29"], 8) };
        let taken = [("10.20.0.0/31").parse::<ipnet::IpNet>().unwrap()].into_iter().collect();
        let pools = effective([young, old], &taken);
        assert_eq!((pools["a"].usable.len(), pools["b"].usable.len()), (8, 6));
    }

    fn claim(owner: &str, net: &str) -> Claim {
        Claim { owner: owner.into(), ranges: [net.parse::<ipnet::IpNet>().unwrap()].into_iter().collect() }
    }

    #[test]
    fn an_overlap_names_the_other_and_what_is_shared() {
        let all = [
            claim("IPPool erp", "10.20.0.0/24"),
            claim("IPPool crm", "10.20.0.128/25"),
            claim("node", "10.10.0.0/16"),
        ];
        assert_eq!(overlaps(&all[0], &all), [("IPPool crm", "10.20.0.128 to 10.20.0.255".to_owned())]);
        assert!(overlaps(&all[2], &all).is_empty());
    }
}
