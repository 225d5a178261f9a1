//! The part of the product's table that is about egress with IPv4; `agent/src/table.rs` renders the whole. Chains are not called `mark` or `snat`: these are
//! words of nft's language, and `nft list chain` could not name them.

use std::{collections::BTreeSet, net::IpAddr};

use portolan_linux::nft::{
    Action, Chain, ChainKind, Compare, Contents, Element, Family, Hook, Match, Rule, Set, SetKind, Table,
};

pub const EGRESS: u32 = 0x3fff;
pub const GATEWAY: u32 = 0xff00_0000;
pub const VXLAN: &str = "portolan.vx";

pub fn cluster() -> Set {
    Set::new("cluster4", SetKind::Networks(Family::V4))
}

pub fn masquerade() -> Set {
    Set::new("masquerade4", SetKind::Networks(Family::V4))
}

pub fn pairs() -> Set {
    Set::new("egress_pairs4", SetKind::MarkedAddresses(Family::V4))
}

pub fn pod_egress() -> Set {
    Set::new("pod_egress4", SetKind::AddressToMark(Family::V4))
}

pub fn egress_ip() -> Set {
    Set::new("egress_ip4", SetKind::MarkToAddress(Family::V4))
}

pub fn table() -> Table {
    Table {
        sets: vec![cluster(), masquerade(), pairs(), pod_egress(), egress_ip()],
        chains: vec![select(), block(), translate(), guard()],
    }
}

fn to_the_outside() -> Match {
    Match::DestinationIn { set: "cluster4".into(), negate: true }
}

fn egress(compare: Compare) -> Match {
    Match::Mark { mask: EGRESS, compare, value: 0 }
}

fn not_to_a_gateway() -> Match {
    Match::OutputDevice { name: VXLAN.into(), negate: true }
}

fn rule(comment: &str, matches: Vec<Match>, actions: Vec<Action>) -> Rule {
    Rule { comment: comment.into(), family: Some(Family::V4), matches, actions }
}

fn chain(name: &str, kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), kind, hook, priority, rules }
}

fn select() -> Chain {
    let spoofed = rule(
        "a pod sends with its own address only",
        vec![Match::InputDevices("ptl".into()), Match::ForeignSource],
        vec![Action::Counter, Action::Drop],
    );
    let mark = rule(
        "a pod's connections to the outside get their Egress",
        vec![Match::CtOriginal, to_the_outside()],
        vec![Action::SetMarkFromSource("pod_egress4".into())],
    );
    chain("select", ChainKind::Filter, Hook::Prerouting, -90, vec![spoofed, mark])
}

fn block() -> Chain {
    let blocked = Match::Mark { mask: GATEWAY, compare: Compare::Is, value: GATEWAY };
    let block = Rule {
        comment: "no way out exists".into(),
        family: None,
        matches: vec![blocked],
        actions: vec![Action::Counter, Action::Drop],
    };
    chain("block", ChainKind::Filter, Hook::Forward, -10, vec![block])
}

fn translate() -> Chain {
    let gateway = Match::OutputDevice { name: VXLAN.into(), negate: false };
    let translated = vec![Match::CtOriginal, egress(Compare::IsNot)];
    let inside_out = vec![
        Match::SourceIn { set: "masquerade4".into(), negate: false },
        to_the_outside(),
        egress(Compare::Is),
    ];
    let rules = vec![
        rule("translated at the gateway, not here", vec![gateway], vec![Action::Accept]),
        rule(
            "the Egress' own address",
            translated,
            vec![Action::SnatFromMark { mask: EGRESS, map: "egress_ip4".into() }],
        ),
        rule("without an Egress, the node's address", inside_out, vec![Action::Masquerade]),
    ];
    chain("translate", ChainKind::Nat, Hook::Postrouting, 90, rules)
}

fn guard() -> Chain {
    let wrong_source = vec![
        not_to_a_gateway(),
        egress(Compare::IsNot),
        Match::CtOriginal,
        to_the_outside(),
        Match::MarkAndSourceIn { mask: EGRESS, set: "egress_pairs4".into(), negate: true },
    ];
    let untranslatable = vec![Match::CtUnknown, to_the_outside(), Match::SourceInMap("pod_egress4".into())];
    let rules = vec![
        rule("never with a wrong source", wrong_source, vec![Action::Counter, Action::Drop]),
        rule("of no connection, so never translated", untranslatable, vec![Action::Counter, Action::Drop]),
    ];
    chain("guard", ChainKind::Filter, Hook::Postrouting, 300, rules)
}

/// Contents of all sets; each test fills in what it needs.
pub fn contents(of: &[(&Set, &[Element])]) -> Contents {
    let mut contents: Contents = table().sets.into_iter().map(|set| (set.name, BTreeSet::new())).collect();
    for (set, elements) in of {
        contents.insert(set.name.clone(), elements.iter().copied().collect());
    }
    contents
}

pub fn network(text: &str) -> Element {
    Element::network(text.parse().expect("a network"))
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
