//! Which sets of addresses overlap that must not: pools with each other, with node and Service CIDRs, with node addresses.

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

#[cfg(test)]
mod tests {
    use super::*;

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
