//! [`Ranges`]: a set of addresses as sorted, disjoint, merged ranges. One family per range, both in one set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

/// Addresses from one to another, both inclusive, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

impl Range {
    /// A range; `None` where the families differ or the last is before the first.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    /// All addresses of a network.
    pub fn of(net: IpNet) -> Self {
        Self { first: net.network(), last: net.broadcast() }
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// How many addresses; saturates for the whole of IPv6.
    pub fn len(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }

    /// Never: a range has at least one address.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }

    fn same_family(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
    }

    fn intersect(&self, other: &Self) -> Option<Self> {
        if !self.same_family(other) {
            return None;
        }
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.first.is_ipv4();
        (number(self.first)..=number(self.last)).map(move |value| address(value, ipv4))
    }
}

/// A set of addresses, in normal form: equal sets are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl FromIterator<Range> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<Range> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(before) if before.same_family(&range) && touches(before.last, range.first) => {
                    before.last = before.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl FromIterator<IpNet> for Ranges {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        nets.into_iter().map(Range::of).collect()
    }
}

impl Ranges {
    /// The ranges, lowest first, IPv4 before IPv6.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// Whether there is no address in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many addresses; saturates.
    pub fn len(&self) -> u128 {
        self.0.iter().fold(0, |sum, range| sum.saturating_add(range.len()))
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address))
    }

    /// Whether it has an address of this network.
    pub fn meets(&self, net: IpNet) -> bool {
        let net = Range::of(net);
        let from = self.0.partition_point(|range| range.last < net.first);
        self.0.get(from).is_some_and(|range| range.intersect(&net).is_some())
    }

    /// Every address, lowest first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().flat_map(|range| range.addresses())
    }

    /// What both have.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        self.0.iter().flat_map(|one| other.0.iter().filter_map(move |two| one.intersect(two))).collect()
    }

    /// What this one has and the other has not.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        other.0.iter().fold(self.clone(), |left, away| {
            left.0.iter().flat_map(|range| without(range, away)).flatten().collect()
        })
    }

    /// What either has.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }

    /// Takes one address out.
    pub fn remove(&mut self, address: IpAddr) {
        let Some(at) = self.0.iter().position(|range| range.contains(address)) else { return };
        let Some(range) = self.0.get(at).copied() else { return };
        let left = without(&range, &Range { first: address, last: address });
        self.0.splice(at..=at, left.into_iter().flatten());
    }

    /// The smallest set of prefixes with exactly these addresses.
    pub fn prefixes(&self) -> Vec<IpNet> {
        self.0.iter().flat_map(prefixes).collect()
    }
}

fn prefixes(range: &Range) -> Vec<IpNet> {
    match (range.first, range.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let subnets: Vec<Ipv4Net> = Ipv4Subnets::new(first, last, 0).collect();
            Ipv4Net::aggregate(&subnets).into_iter().map(IpNet::V4).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let subnets: Vec<Ipv6Net> = Ipv6Subnets::new(first, last, 0).collect();
            Ipv6Net::aggregate(&subnets).into_iter().map(IpNet::V6).collect()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => vec![],
    }
}

/// What is left of a range on either side of another.
fn without(range: &Range, away: &Range) -> [Option<Range>; 2] {
    let Some(gone) = range.intersect(away) else { return [Some(*range), None] };
    let ipv4 = range.first.is_ipv4();
    let below = (gone.first > range.first)
        .then(|| Range { first: range.first, last: address(number(gone.first) - 1, ipv4) });
    let above = (gone.last < range.last)
        .then(|| Range { first: address(number(gone.last) + 1, ipv4), last: range.last });
    [below, above]
}

/// Whether a range that begins here continues one that ends there.
fn touches(last: IpAddr, first: IpAddr) -> bool {
    number(first) <= number(last).saturating_add(1)
}

/// The next address; `None` after the last of its family.
pub(crate) fn after(this: IpAddr) -> Option<IpAddr> {
    let next = address(number(this).checked_add(1)?, this.is_ipv4());
    (next > this).then_some(next)
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// A number as an address; the upper bits of an IPv4 number do not count.
pub(crate) fn address(number: u128, ipv4: bool) -> IpAddr {
    if ipv4 {
        Ipv4Addr::from((number & u128::from(u32::MAX)) as u32).into()
    } else {
        Ipv6Addr::from(number).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Sets within 10.0.0.0/24, so that a naive model can follow.
    fn small() -> impl Strategy<Value = Vec<(u8, u8)>> {
        prop::collection::vec((any::<u8>(), 0u8..20), 0..6)
    }

    fn ranges(pairs: &[(u8, u8)]) -> Ranges {
        pairs.iter().filter_map(|(at, len)| Range::new(ip(*at), ip(at.saturating_add(*len)))).collect()
    }

    fn model(pairs: &[(u8, u8)]) -> BTreeSet<IpAddr> {
        pairs.iter().flat_map(|(at, len)| (*at..=at.saturating_add(*len)).map(ip)).collect()
    }

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    proptest! {
        #[test]
        fn ranges_behave_as_sets_of_addresses(one in small(), two in small()) {
            let (a, b, ma, mb) = (ranges(&one), ranges(&two), model(&one), model(&two));
            let list = |r: &Ranges| r.addresses().collect::<Vec<_>>();
            prop_assert_eq!(list(&a), ma.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(list(&a.subtract(&b)), ma.difference(&mb).copied().collect::<Vec<_>>());
            prop_assert_eq!(list(&a.intersect(&b)), ma.intersection(&mb).copied().collect::<Vec<_>>());
            prop_assert_eq!(list(&a.union(&b)), ma.union(&mb).copied().collect::<Vec<_>>());
            prop_assert_eq!(a.len(), ma.len() as u128);
            for gone in &mb {
                let (mut rest, mut mrest) = (a.clone(), ma.clone());
                rest.remove(*gone);
                mrest.remove(gone);
                prop_assert_eq!(list(&rest), mrest.into_iter().collect::<Vec<_>>());
            }
            let prefixes = a.prefixes();
            prop_assert_eq!(prefixes.iter().copied().collect::<Ranges>(), a);
        }
    }

    #[test]
    fn single_addresses_and_the_ends_of_both_families_are_ranges() {
        for net in ["10.0.0.1/32", "10.0.0.0/31", "::/128", "ffff::/16", "0.0.0.0/0", "::/0"] {
            let net: IpNet = net.parse().unwrap();
            let set: Ranges = [net].into_iter().collect();
            assert_eq!(set.prefixes(), [net]);
        }
    }
}
