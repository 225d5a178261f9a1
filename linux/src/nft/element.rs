//! Elements of sets and maps: as values, as the kernel's bytes, and in the one normal form.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{Family, Set, SetKind};
use crate::{Error, Result};

/// One element: a key, and in a map its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// What is looked up.
    pub key: Key,
    /// What a map answers.
    pub value: Option<Datum>,
}

/// What is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A single address.
    Address(IpAddr),
    /// A mark.
    Mark(u32),
    /// A mark and an address.
    MarkedAddress(u32, IpAddr),
    /// All addresses from the first to the last, both included.
    Range(IpAddr, IpAddr),
    /// Two addresses: source and destination.
    Pair(IpAddr, IpAddr),
    /// A protocol's number and its port, on one address of the node or on all.
    Port(Option<IpAddr>, u8, u16),
}

/// What a map answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Datum {
    /// A mark.
    Mark(u32),
    /// An address.
    Address(IpAddr),
    /// An address and a port.
    Endpoint(IpAddr, u16),
}

impl Element {
    /// For [`SetKind::Networks`].
    #[must_use]
    pub fn network(network: IpNet) -> Self {
        let last = match network {
            IpNet::V4(net) => IpAddr::V4(net.broadcast()),
            IpNet::V6(net) => IpAddr::V6(net.broadcast()),
        };
        Self { key: Key::Range(network.network(), last), value: None }
    }

    /// For [`SetKind::Addresses`].
    #[must_use]
    pub fn address(ip: IpAddr) -> Self {
        Self { key: Key::Address(ip), value: None }
    }

    /// For [`SetKind::MarkedAddresses`].
    #[must_use]
    pub fn pair(mark: u32, ip: IpAddr) -> Self {
        Self { key: Key::MarkedAddress(mark, ip), value: None }
    }

    /// For [`SetKind::AddressToMark`].
    #[must_use]
    pub fn address_to_mark(ip: IpAddr, mark: u32) -> Self {
        Self { key: Key::Address(ip), value: Some(Datum::Mark(mark)) }
    }

    /// For [`SetKind::MarkToAddress`].
    #[must_use]
    pub fn mark_to_address(mark: u32, ip: IpAddr) -> Self {
        Self { key: Key::Mark(mark), value: Some(Datum::Address(ip)) }
    }

    /// For [`SetKind::AddressPairs`].
    #[must_use]
    pub fn address_pair(source: IpAddr, destination: IpAddr) -> Self {
        Self { key: Key::Pair(source, destination), value: None }
    }

    /// For [`SetKind::PortToEndpoint`] without `at`, for [`SetKind::AddressPortToEndpoint`] with it. The protocol is its
    /// number in IP headers.
    #[must_use]
    pub fn port_to_endpoint(at: Option<IpAddr>, protocol: u8, port: u16, to: (IpAddr, u16)) -> Self {
        Self { key: Key::Port(at, protocol, port), value: Some(Datum::Endpoint(to.0, to.1)) }
    }
}

impl Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Key::Address(ip) => write!(f, "{ip}")?,
            Key::Mark(mark) => write!(f, "{mark:#x}")?,
            Key::MarkedAddress(mark, ip) => write!(f, "{mark:#x} . {ip}")?,
            Key::Range(from, to) => write!(f, "{from}-{to}")?,
            Key::Pair(source, destination) => write!(f, "{source} . {destination}")?,
            Key::Port(None, protocol, port) => write!(f, "{protocol} . {port}")?,
            Key::Port(Some(at), protocol, port) => write!(f, "{at} . {protocol} . {port}")?,
        }
        match self.value {
            None => Ok(()),
            Some(Datum::Mark(mark)) => write!(f, " : {mark:#x}"),
            Some(Datum::Address(ip)) => write!(f, " : {ip}"),
            Some(Datum::Endpoint(ip, port)) => write!(f, " : {ip} . {port}"),
        }
    }
}

/// An element as the kernel knows it. A range is two of them, its first address and, flagged, the one
/// after its last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawElement {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
    pub ends_range: bool,
}

/// Into the kernel's bytes; an element that does not fit the set's kind is refused.
pub(super) fn encode(set: &Set, element: &Element) -> Result<Vec<RawElement>> {
    let fits = |ip: &IpAddr, family: Family| ip.is_ipv4() == (family == Family::V4);
    let one = |key, value| Ok(vec![RawElement { key, value, ends_range: false }]);
    match (set.kind, element.key, element.value) {
        (SetKind::Networks(family), Key::Range(from, to), None)
            if fits(&from, family) && fits(&to, family) =>
        {
            let mut ends = vec![RawElement { key: octets(from), value: None, ends_range: false }];
            let after = next(to).map(|ip| RawElement { key: octets(ip), value: None, ends_range: true });
            ends.extend(after);
            Ok(ends)
        }
        (SetKind::Addresses(family), Key::Address(ip), None) if fits(&ip, family) => one(octets(ip), None),
        (SetKind::MarkedAddresses(family), Key::MarkedAddress(mark, ip), None) if fits(&ip, family) => {
            one([mark.to_ne_bytes().to_vec(), octets(ip)].concat(), None)
        }
        (SetKind::AddressToMark(family), Key::Address(ip), Some(Datum::Mark(mark))) if fits(&ip, family) => {
            one(octets(ip), Some(mark.to_ne_bytes().to_vec()))
        }
        (SetKind::MarkToAddress(family), Key::Mark(mark), Some(Datum::Address(ip))) if fits(&ip, family) => {
            one(mark.to_ne_bytes().to_vec(), Some(octets(ip)))
        }
        (SetKind::AddressPairs(family), Key::Pair(from, to), None)
            if fits(&from, family) && fits(&to, family) =>
        {
            one([octets(from), octets(to)].concat(), None)
        }
        (
            SetKind::PortToEndpoint(family),
            Key::Port(None, protocol, port),
            Some(Datum::Endpoint(ip, to_port)),
        ) if fits(&ip, family) => {
            let key = [protocol_word(protocol), port_word(port)].concat();
            one(key, Some([octets(ip), port_word(to_port)].concat()))
        }
        (
            SetKind::AddressPortToEndpoint(family),
            Key::Port(Some(at), protocol, port),
            Some(Datum::Endpoint(ip, to_port)),
        ) if fits(&at, family) && fits(&ip, family) => {
            let key = [octets(at), protocol_word(protocol), port_word(port)].concat();
            one(key, Some([octets(ip), port_word(to_port)].concat()))
        }
        _ => {
            let reason = format!("{element} is no element of {:?}", set.kind);
            Err(Error::Unsuitable { what: format!("set {}", set.name), reason })
        }
    }
}

/// Out of the kernel's bytes. What nobody could have put there through us is left out.
pub(super) fn decode(kind: SetKind, raw: Vec<RawElement>) -> BTreeSet<Element> {
    match kind {
        SetKind::Networks(_) => ranges(raw),
        SetKind::Addresses(_)
        | SetKind::MarkedAddresses(_)
        | SetKind::AddressToMark(_)
        | SetKind::MarkToAddress(_)
        | SetKind::AddressPairs(_)
        | SetKind::PortToEndpoint(_)
        | SetKind::AddressPortToEndpoint(_) => raw.iter().filter_map(|raw| single(kind, raw)).collect(),
    }
}

fn single(kind: SetKind, raw: &RawElement) -> Option<Element> {
    let value = raw.value.as_deref();
    match kind {
        SetKind::Networks(_) => None,
        SetKind::Addresses(_) => Some(Element::address(ip(&raw.key)?)),
        SetKind::MarkedAddresses(_) => {
            let (mark, rest) = raw.key.split_first_chunk::<4>()?;
            Some(Element::pair(u32::from_ne_bytes(*mark), ip(rest)?))
        }
        SetKind::AddressToMark(_) => Some(Element::address_to_mark(ip(&raw.key)?, mark(value?)?)),
        SetKind::MarkToAddress(_) => Some(Element::mark_to_address(mark(&raw.key)?, ip(value?)?)),
        SetKind::AddressPairs(_) => {
            let (source, destination) = raw.key.split_at_checked(raw.key.len() / 2)?;
            Some(Element::address_pair(ip(source)?, ip(destination)?))
        }
        SetKind::PortToEndpoint(_) => {
            let (protocol, number) = port(&raw.key)?;
            Some(Element::port_to_endpoint(None, protocol, number, endpoint(value?)?))
        }
        SetKind::AddressPortToEndpoint(_) => {
            let (at, rest) = raw.key.split_at_checked(raw.key.len().checked_sub(8)?)?;
            let (protocol, number) = port(rest)?;
            Some(Element::port_to_endpoint(Some(ip(at)?), protocol, number, endpoint(value?)?))
        }
    }
}

/// Each part of a concatenation begins on a word of its own: a protocol's number is one byte of it, a port two.
fn protocol_word(protocol: u8) -> Vec<u8> {
    vec![protocol, 0, 0, 0]
}

fn port_word(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![high, low, 0, 0]
}

/// A protocol's number and its port.
fn port(words: &[u8]) -> Option<(u8, u16)> {
    let [protocol, _, _, _, high, low, _, _] = <[u8; 8]>::try_from(words).ok()?;
    Some((protocol, u16::from_be_bytes([high, low])))
}

fn endpoint(words: &[u8]) -> Option<(IpAddr, u16)> {
    let (address, [high, low, _, _]) = words.split_last_chunk::<4>()?;
    Some((ip(address)?, u16::from_be_bytes([*high, *low])))
}

fn ranges(mut raw: Vec<RawElement>) -> BTreeSet<Element> {
    // Where one range ends and the next begins, the end comes first.
    raw.sort_by(|a, b| (&a.key, !a.ends_range).cmp(&(&b.key, !b.ends_range)));
    let (mut found, mut open): (BTreeSet<Element>, Option<IpAddr>) = (BTreeSet::new(), None);
    let mut close =
        |from: IpAddr, to: IpAddr| found.insert(Element { key: Key::Range(from, to), value: None });
    for end in &raw {
        let Some(at) = ip(&end.key) else { continue };
        if !end.ends_range {
            open = open.or(Some(at));
        } else if let (Some(from), Some(to)) = (open.take(), previous(at)) {
            close(from, to);
        }
    }
    if let Some(from) = open {
        let last = match from {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(u128::MAX)),
        };
        close(from, last);
    }
    found
}

/// The one form in which desired and observed are compared: ranges that overlap or touch become one.
pub(super) fn normal(kind: SetKind, elements: &BTreeSet<Element>) -> BTreeSet<Element> {
    if !matches!(kind, SetKind::Networks(_)) {
        return elements.clone();
    }
    let (mut whole, mut other): (Vec<(IpAddr, IpAddr)>, BTreeSet<Element>) = (Vec::new(), BTreeSet::new());
    for element in elements {
        let Key::Range(from, to) = element.key else {
            other.insert(*element); // refused later, when it is encoded
            continue;
        };
        match whole.last_mut() {
            Some((_, last))
                if last.is_ipv4() == from.is_ipv4() && next(*last).is_none_or(|after| from <= after) =>
            {
                *last = (*last).max(to);
            }
            _ => whole.push((from, to)),
        }
    }
    other.extend(whole.into_iter().map(|(from, to)| Element { key: Key::Range(from, to), value: None }));
    other
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    four().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

fn mark(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn next(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn previous(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORKS: SetKind = SetKind::Networks(Family::V4);

    fn networks(of: &[&str]) -> BTreeSet<Element> {
        of.iter().map(|net| Element::network(net.parse().unwrap())).collect()
    }

    fn through_the_kernel(elements: &BTreeSet<Element>) -> BTreeSet<Element> {
        let set = Set::new("s", NETWORKS);
        decode(NETWORKS, elements.iter().flat_map(|one| encode(&set, one).unwrap()).collect())
    }

    #[test]
    fn networks_that_touch_or_overlap_become_one_range() {
        let merged =
            normal(NETWORKS, &networks(&["10.0.1.0/24", "10.0.2.0/24", "10.0.1.128/25", "10.0.4.0/24"]));
        let text: Vec<_> = merged.iter().map(Element::to_string).collect();
        assert_eq!(text, ["10.0.1.0-10.0.2.255", "10.0.4.0-10.0.4.255"]);
    }

    #[test]
    fn ranges_survive_the_way_through_the_kernels_form() {
        for of in
            [&["0.0.0.0/0"][..], &["10.0.0.0/8", "192.168.0.0/16"], &["255.255.255.255/32", "0.0.0.0/32"]]
        {
            assert_eq!(through_the_kernel(&networks(of)), networks(of));
        }
    }

    #[test]
    fn an_end_without_a_beginning_is_ignored() {
        let lone = RawElement { key: vec![0, 0, 0, 0], value: None, ends_range: true };
        assert!(decode(NETWORKS, vec![lone]).is_empty());
    }

    #[test]
    fn ports_and_pairs_survive_the_way_through_the_kernels_form() {
        let (four, six): (IpAddr, IpAddr) = ("10.244.0.5".parse().unwrap(), "fd20::5".parse().unwrap());
        for (family, at, other) in [(Family::V4, four, six), (Family::V6, six, four)] {
            for (kind, element, wrong) in [
                (
                    SetKind::AddressPairs(family),
                    Element::address_pair(at, at),
                    Element::address_pair(at, other),
                ),
                (
                    SetKind::PortToEndpoint(family),
                    Element::port_to_endpoint(None, 6, 80, (at, 8080)),
                    Element::port_to_endpoint(None, 6, 80, (other, 8080)),
                ),
                (
                    SetKind::AddressPortToEndpoint(family),
                    Element::port_to_endpoint(Some(at), 17, 53, (at, 5353)),
                    Element::port_to_endpoint(None, 17, 53, (at, 5353)),
                ),
            ] {
                let set = Set::new("s", kind);
                assert_eq!(decode(kind, encode(&set, &element).unwrap()), [element].into());
                assert!(encode(&set, &wrong).is_err(), "{wrong}");
            }
        }
    }

    #[test]
    fn an_element_of_another_kind_is_refused() {
        let set = Set::new("pod_egress4", SetKind::AddressToMark(Family::V4));
        let wrong = Element::mark_to_address(1, Ipv4Addr::LOCALHOST.into());
        assert!(encode(&set, &wrong).unwrap_err().to_string().contains("pod_egress4"));
    }
}
