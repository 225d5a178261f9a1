//! Rendezvous ranking: every node gives the same candidates the same order, with nothing shared but the names.
//!
//! The hash is part of the contract between nodes of different versions: FNV-1a over the parts, then the finaliser of
//! SplitMix64, because FNV alone spreads names that differ in the last letter badly.

/// The weight of a candidate for a subject. The highest wins.
pub fn weight(subject: &str, candidate: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in subject.bytes().chain([0]).chain(candidate.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Candidates in the order in which they are to be asked, best first.
pub fn order<'a>(subject: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut ranked: Vec<_> = candidates.into_iter().map(|name| (weight(subject, name), name)).collect();
    ranked.sort_unstable_by(|one, other| other.cmp(one));
    ranked.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_part_of_the_contract_between_versions() {
        assert_eq!(weight("172.16.11.200", "node-1"), weight("172.16.11.200", "node-1"));
        assert_ne!(weight("172.16.11.200", "node-1"), weight("172.16.11.200", "node-2"));
        assert_ne!(weight("a", "bc"), weight("ab", "c"));
    }

    #[test]
    fn the_order_does_not_depend_on_how_the_candidates_come() {
        assert_eq!(order("x", ["a", "b", "c"]), order("x", ["c", "a", "b"]));
    }
}
