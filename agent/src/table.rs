//! The nftables table of a node, rendered: the chains are the same on every node, policy is in elements.
//!
//! | chain | hook | what it does |
//! | --- | --- | --- |
//! | `select` | prerouting, after destination NAT | drops spoofed sources; marks what pods send to the outside with their Egress |
//! | `block` | forward | drops what is marked "no way out" |
//! | `translate` | postrouting, before kube-proxy's | the Egress's address at its owner; else the node's, where the pool says so |
//! | `guard` | postrouting, after all translation | drops what would leave with a source its Egress does not name |
//!
//! `guard` makes a wrong source impossible by construction: also for a connection whose translation is older than the
//! policy, and on a node that has not heard of a change yet.

use std::collections::BTreeSet;

use portolan_core::address::Ranges;
use portolan_core::egress::node::Duty;
use portolan_core::numbers::{EGRESS_MASK, GATEWAY_MASK, VXLAN_DEVICE};
use portolan_linux::nft::{
    Action, Chain, ChainKind, Compare, Contents, Element, Family, Hook, Match, Rule, Set, SetKind, Table,
};

/// Destinations that are never translated and never steered: pods, Services, nodes.
const CLUSTER: &str = "cluster4";
/// Pods that leave with the node's address.
const MASQUERADE: &str = "masquerade4";
/// Which source an Egress may leave with; only its owner has any.
const PAIRS: &str = "egress_pairs4";
/// A local pod's mark.
const POD_EGRESS: &str = "pod_egress4";
/// An Egress's address; only its owner has any.
const EGRESS_IP: &str = "egress_ip4";
/// The nodes' ends of pod links.
const POD_LINKS: &str = "ptl";

/// The map of local pods' marks.
pub fn pod_egress() -> Set {
    Set::new(POD_EGRESS, SetKind::AddressToMark(Family::V4))
}

/// The table, without elements.
pub fn table() -> Table {
    Table {
        sets: vec![
            Set::new(CLUSTER, SetKind::Networks(Family::V4)),
            Set::new(MASQUERADE, SetKind::Networks(Family::V4)),
            Set::new(PAIRS, SetKind::MarkedAddresses(Family::V4)),
            pod_egress(),
            Set::new(EGRESS_IP, SetKind::MarkToAddress(Family::V4)),
        ],
        chains: vec![select(), block(), translate(), guard()],
    }
}

/// What the sets and maps have in them.
pub fn contents(cluster: &Ranges, masquerade: &Ranges, duty: &Duty) -> Contents {
    let networks = |ranges: &Ranges| -> BTreeSet<Element> {
        ranges.prefixes().into_iter().filter(|net| net.network().is_ipv4()).map(Element::network).collect()
    };
    let owned = || duty.translate.iter().map(|(id, address)| (u32::from(id.number()), *address));
    let marks = duty.marks.iter().map(|(pod, mark)| Element::address_to_mark(*pod, mark.value()));
    [
        (CLUSTER, networks(cluster)),
        (MASQUERADE, networks(masquerade)),
        (PAIRS, owned().map(|(id, address)| Element::pair(id, address)).collect()),
        (POD_EGRESS, marks.collect()),
        (EGRESS_IP, owned().map(|(id, address)| Element::mark_to_address(id, address)).collect()),
    ]
    .map(|(name, elements)| (name.to_owned(), elements))
    .into()
}

fn select() -> Chain {
    let spoofed = rule(
        "a pod sends with its own address only",
        vec![Match::InputDevices(POD_LINKS.into()), Match::ForeignSource],
        vec![Action::Counter, Action::Drop],
    );
    let mark = rule(
        "a pod's connections to the outside get their Egress",
        vec![Match::CtOriginal, to_the_outside()],
        vec![Action::SetMarkFromSource(POD_EGRESS.into())],
    );
    chain("select", ChainKind::Filter, Hook::Prerouting, -90, vec![spoofed, mark])
}

fn block() -> Chain {
    let blocked = Match::Mark { mask: GATEWAY_MASK, compare: Compare::Is, value: GATEWAY_MASK };
    let block = rule("no way out exists", vec![blocked], vec![Action::Counter, Action::Drop]);
    chain("block", ChainKind::Filter, Hook::Forward, -10, vec![block])
}

fn translate() -> Chain {
    let gateway = Match::OutputDevice { name: VXLAN_DEVICE.into(), negate: false };
    let of_egress = vec![Match::CtOriginal, egress(Compare::IsNot)];
    let to_address = Action::SnatFromMark { mask: EGRESS_MASK, map: EGRESS_IP.into() };
    let from_node = vec![
        Match::SourceIn { set: MASQUERADE.into(), negate: false },
        to_the_outside(),
        egress(Compare::Is),
    ];
    let rules = vec![
        rule("translated at the gateway, not here", vec![gateway], vec![Action::Accept]),
        rule("the Egress's own address", of_egress, vec![to_address]),
        rule("without an Egress, the node's address", from_node, vec![Action::Masquerade]),
    ];
    chain("translate", ChainKind::Nat, Hook::Postrouting, 90, rules)
}

fn guard() -> Chain {
    let wrong_source = vec![
        Match::OutputDevice { name: VXLAN_DEVICE.into(), negate: true },
        egress(Compare::IsNot),
        Match::CtOriginal,
        to_the_outside(),
        Match::MarkAndSourceIn { mask: EGRESS_MASK, set: PAIRS.into(), negate: true },
    ];
    let unknown = vec![Match::CtUnknown, to_the_outside(), Match::SourceInMap(POD_EGRESS.into())];
    let rules = vec![
        rule("never with a wrong source", wrong_source, vec![Action::Counter, Action::Drop]),
        rule("of no connection, so never translated", unknown, vec![Action::Counter, Action::Drop]),
    ];
    chain("guard", ChainKind::Filter, Hook::Postrouting, 300, rules)
}

fn to_the_outside() -> Match {
    Match::DestinationIn { set: CLUSTER.into(), negate: true }
}

fn egress(compare: Compare) -> Match {
    Match::Mark { mask: EGRESS_MASK, compare, value: 0 }
}

fn rule(comment: &str, matches: Vec<Match>, actions: Vec<Action>) -> Rule {
    Rule { comment: comment.into(), family: Some(Family::V4), matches, actions }
}

fn chain(name: &str, kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), kind, hook, priority, rules }
}
