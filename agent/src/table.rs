//! The nftables table of a node, rendered: the chains are the same on every node, policy is in elements.
//!
//! | chain | hook | what it does |
//! | --- | --- | --- |
//! | `publish` | prerouting, as destination NAT after kube-proxy's | host ports lead to their pods |
//! | `publish_local` | output, likewise | the same for the node's own connections |
//! | `select` | prerouting, after destination NAT | drops spoofed sources; marks what pods send to the outside with their Egress |
//! | `block` | forward | drops what is marked "no way out" |
//! | `translate` | postrouting, before kube-proxy's | the Egress's address at its owner; else the node's, where the pool says so |
//! | `guard` | postrouting, after all translation | drops what would leave with a source that its Egress or its pool does not name |
//!
//! `guard` makes a wrong source impossible by construction: also for a connection whose translation is older than the
//! policy, and on a node that has not heard of a change yet. For IPv6 it speaks for the pool too: where that says "the
//! node's address" and the node has none, nothing leaves. (IPv4 is translated to the address of whichever device the
//! packet leaves through, and no pod gets an IPv4 address on a node without one.)
//!
//! A Service's port wins over a host port of the same number: kube-proxy's chains come first, and no pod takes what belongs
//! to another tenant's Service. Host ports keep the client's address. They are closed on 127.0.0.0/8 and ::1, where the
//! kernel could not take a pod's answers back, and on egress addresses, which nobody may speak to unasked.
//!
//! Every set exists once per family; its name ends in 4 or 6.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use portolan_core::address::Ranges;
use portolan_core::mark::Mark;
use portolan_core::numbers::{EGRESS_MASK, GATEWAY_MASK, VXLAN_DEVICE};
use portolan_core::ports::{Opening, Protocol};
use portolan_linux::nft::{
    Action, Chain, ChainKind, Compare, Contents, Datum, Element, Family, Hook, Key, Match, Rule, Set,
    SetKind, Table,
};

use crate::kernel::Desired;

/// Destinations that are never translated and never steered: pods, Services, nodes.
const CLUSTER: Named = Named("cluster", SetKind::Networks);
/// Pods that leave with the node's address.
const MASQUERADE: Named = Named("masquerade", SetKind::Networks);
/// The node's IPv6 address, under 0: what no Egress has.
const NODE_IP: Named = Named("node_ip", SetKind::MarkToAddress);
/// Which source an Egress may leave with; only its owner has any.
const PAIRS: Named = Named("egress_pairs", SetKind::MarkedAddresses);
/// A local pod's mark.
const POD_EGRESS: Named = Named("pod_egress", SetKind::AddressToMark);
/// An Egress's address; only its owner has any.
const EGRESS_IP: Named = Named("egress_ip", SetKind::MarkToAddress);
/// Host ports on one address of the node.
const PORTS_AT: Named = Named("hostports_at", SetKind::AddressPortToEndpoint);
/// Host ports on all addresses of the node.
const PORTS: Named = Named("hostports", SetKind::PortToEndpoint);
/// Local pods with host ports, paired with themselves: what one sends to its own host port must seem to come from the node.
const HAIRPIN: Named = Named("hairpin", SetKind::AddressPairs);
/// Addresses of the node on which no host port is open.
const CLOSED: Named = Named("closed", SetKind::Networks);
/// The nodes' ends of pod links.
const POD_LINKS: &str = "ptl";

/// A set or map that each family has one of: the beginning of its name, and its kind.
#[derive(Clone, Copy)]
struct Named(&'static str, fn(Family) -> SetKind);

impl Named {
    fn name(self, family: Family) -> String {
        match family {
            Family::V4 => format!("{}4", self.0),
            Family::V6 => format!("{}6", self.0),
        }
    }

    fn set(self, family: Family) -> Set {
        Set::new(self.name(family), self.1(family))
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// After kube-proxy's, and still as part of the kernel's destination NAT.
const AFTER_SERVICES: i32 = -95;

/// The table, without elements.
pub fn table() -> Table {
    let block = Rule { family: None, ..rule(Family::V4, "no way out exists", vec![blocked()], drop()) };
    Table {
        sets: FAMILIES.into_iter().flat_map(sets).collect(),
        chains: vec![
            chain("publish", ChainKind::Nat, Hook::Prerouting, AFTER_SERVICES, each_family(publish)),
            chain("publish_local", ChainKind::Nat, Hook::Output, AFTER_SERVICES, each_family(publish)),
            chain("select", ChainKind::Filter, Hook::Prerouting, -90, each_family(select)),
            chain("block", ChainKind::Filter, Hook::Forward, -10, vec![block]),
            chain("translate", ChainKind::Nat, Hook::Postrouting, 90, each_family(translate)),
            chain("guard", ChainKind::Filter, Hook::Postrouting, 300, each_family(guard)),
        ],
    }
}

/// What the sets and maps have in them.
pub fn contents(desired: &Desired) -> Contents {
    let mut contents: Contents = table().sets.into_iter().map(|set| (set.name, BTreeSet::new())).collect();
    let mut put = |named: Named, family: Family, element: Element| {
        contents.entry(named.name(family)).or_default().insert(element);
    };
    let networks = |ranges: &Ranges| ranges.prefixes();
    let closed = desired.duty.own.iter().map(|address| IpNet::from(*address)).chain(loopback());
    for (named, nets) in [
        (CLUSTER, networks(&desired.cluster)),
        (MASQUERADE, networks(&desired.masquerade)),
        (CLOSED, closed.collect()),
    ] {
        nets.into_iter().for_each(|net| put(named, family(net.network()), Element::network(net)));
    }
    for (id, address) in &desired.duty.translate {
        let id = u32::from(id.number());
        put(PAIRS, family(*address), Element::pair(id, *address));
        put(EGRESS_IP, family(*address), Element::mark_to_address(id, *address));
    }
    if let Some(address) = desired.addresses.v6 {
        put(NODE_IP, Family::V6, Element::mark_to_address(0, address.into()));
    }
    for (set, elements) in of_pods(&desired.duty.marks, &desired.openings) {
        contents.insert(set.name, elements);
    }
    contents
}

/// What sets and maps have in them for these pods and no others: whatever is here and now must not wait for a whole pass.
pub fn of_pods(
    marks: &BTreeMap<IpAddr, Mark>,
    openings: &BTreeSet<Opening>,
) -> Vec<(Set, BTreeSet<Element>)> {
    let marks =
        marks.iter().map(|(pod, mark)| (POD_EGRESS, *pod, Element::address_to_mark(*pod, mark.value())));
    let ports = openings.iter().flat_map(|opening| {
        let Opening { address, protocol, port, pod, pod_port } = *opening;
        let ports = if address.is_some() { PORTS_AT } else { PORTS };
        let element = Element::port_to_endpoint(address, protocol.number(), port, (pod, pod_port));
        [(ports, pod, element), (HAIRPIN, pod, Element::address_pair(pod, pod))]
    });
    let mut elements = BTreeMap::<Set, BTreeSet<Element>>::new();
    for (named, pod, element) in marks.chain(ports) {
        elements.entry(named.set(family(pod))).or_default().insert(element);
    }
    elements.into_iter().collect()
}

/// The maps of local pods' marks and of host ports.
pub fn pod_maps() -> Vec<Set> {
    FAMILIES
        .into_iter()
        .flat_map(|family| [POD_EGRESS, PORTS_AT, PORTS].map(|named| named.set(family)))
        .collect()
}

/// The pod and the mark that an element of [`pod_maps`] is about.
pub fn mark_of(element: &Element) -> Option<(IpAddr, u32)> {
    match (element.key, element.value?) {
        (Key::Address(pod), Datum::Mark(mark)) => Some((pod, mark)),
        _ => None,
    }
}

/// The host port that an element of [`pod_maps`] is about.
pub fn opening_of(element: &Element) -> Option<Opening> {
    let (Key::Port(address, protocol, port), Datum::Endpoint(pod, pod_port)) = (element.key, element.value?)
    else {
        return None;
    };
    Some(Opening { address, protocol: Protocol::from_number(protocol)?, port, pod, pod_port })
}

fn sets(family: Family) -> Vec<Set> {
    let all = [CLUSTER, MASQUERADE, PAIRS, POD_EGRESS, EGRESS_IP, PORTS_AT, PORTS, HAIRPIN, CLOSED];
    let node_ip = (family == Family::V6).then_some(NODE_IP);
    all.into_iter().chain(node_ip).map(|named| named.set(family)).collect()
}

fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

fn loopback() -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    [v4.into(), Ipv6Net::from(Ipv6Addr::LOCALHOST).into()]
}

fn publish(family: Family) -> Vec<Rule> {
    let here = || vec![Match::ToThisNode, Match::DestinationIn { set: CLOSED.name(family), negate: true }];
    let one = vec![Action::DnatFromAddressAndPort(PORTS_AT.name(family))];
    let all = vec![Action::DnatFromPort(PORTS.name(family))];
    vec![
        rule(family, "a host port on this address", here(), one),
        rule(family, "a host port on every address", here(), all),
    ]
}

fn select(family: Family) -> Vec<Rule> {
    let spoofed = vec![Match::InputDevices(POD_LINKS.into()), Match::ForeignSource];
    let mark = vec![Action::SetMarkFromSource(POD_EGRESS.name(family))];
    let outward = vec![Match::CtOriginal, to_the_outside(family)];
    vec![
        rule(family, "a pod sends with its own address only", spoofed, drop()),
        rule(family, "a pod's connections to the outside get their Egress", outward, mark),
    ]
}

fn translate(family: Family) -> Vec<Rule> {
    let gateway = vec![Match::OutputDevice { name: VXLAN_DEVICE.into(), negate: false }];
    let of_egress = vec![Match::CtOriginal, egress(Compare::IsNot)];
    let to_address = Action::SnatFromMark { mask: EGRESS_MASK, map: EGRESS_IP.name(family) };
    let from_node = vec![masqueraded(family), to_the_outside(family), egress(Compare::Is)];
    let to_node = match family {
        Family::V4 => Action::Masquerade,
        // A device has several IPv6 addresses, of which the kernel could choose one that nobody expects.
        Family::V6 => Action::SnatFromMark { mask: EGRESS_MASK, map: NODE_IP.name(family) },
    };
    let itself = vec![Match::SourceAndDestinationIn(HAIRPIN.name(family))];
    vec![
        rule(family, "translated at the gateway, not here", gateway, vec![Action::Accept]),
        rule(family, "the Egress's own address", of_egress, vec![to_address]),
        rule(family, "without an Egress, the node's address", from_node, vec![to_node]),
        rule(family, "a pod to its own host port", itself, vec![Action::Masquerade]),
    ]
}

fn guard(family: Family) -> Vec<Rule> {
    let wrong_source = vec![
        Match::OutputDevice { name: VXLAN_DEVICE.into(), negate: true },
        egress(Compare::IsNot),
        Match::CtOriginal,
        to_the_outside(family),
        Match::MarkAndSourceIn { mask: EGRESS_MASK, set: PAIRS.name(family), negate: true },
    ];
    let unknown = vec![Match::CtUnknown, to_the_outside(family), Match::SourceInMap(POD_EGRESS.name(family))];
    let mut rules = vec![
        rule(family, "never with a wrong source", wrong_source, drop()),
        rule(family, "of no connection, so never translated", unknown, drop()),
    ];
    if family == Family::V6 {
        for state in [Match::CtOriginal, Match::CtUnknown] {
            let untranslated = vec![state, masqueraded(family), to_the_outside(family)];
            rules.push(rule(family, "with the node's address or not at all", untranslated, drop()));
        }
    }
    rules
}

fn each_family(rules: fn(Family) -> Vec<Rule>) -> Vec<Rule> {
    FAMILIES.into_iter().flat_map(rules).collect()
}

fn to_the_outside(family: Family) -> Match {
    Match::DestinationIn { set: CLUSTER.name(family), negate: true }
}

fn masqueraded(family: Family) -> Match {
    Match::SourceIn { set: MASQUERADE.name(family), negate: false }
}

fn egress(compare: Compare) -> Match {
    Match::Mark { mask: EGRESS_MASK, compare, value: 0 }
}

fn blocked() -> Match {
    Match::Mark { mask: GATEWAY_MASK, compare: Compare::Is, value: GATEWAY_MASK }
}

fn drop() -> Vec<Action> {
    vec![Action::Counter, Action::Drop]
}

fn rule(family: Family, comment: &str, matches: Vec<Match>, actions: Vec<Action>) -> Rule {
    Rule { comment: comment.into(), family: Some(family), matches, actions }
}

fn chain(name: &str, kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), kind, hook, priority, rules }
}
