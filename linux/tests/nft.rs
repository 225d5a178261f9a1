//! The table: as designed in nft's own words, repaired whatever was done to it, quick with many elements.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic"
)]

mod common;

use std::{collections::BTreeSet, net::Ipv4Addr};

use common::{
    Space,
    bench::timed,
    table::{cluster, contents, egress_ip, ip, masquerade, network, pairs, pod_egress, table},
};
use portolan_linux::{
    Error,
    nft::{
        Action, Chain, ChainKind, Change, Contents, Element, Family, Hook, Match, Nft, NftReport, Rule, Set,
        SetKind, Table,
    },
};
use proptest::prelude::*;

fn node() -> (Space, Nft) {
    let space = Space::new();
    let nft = space.run(Nft::open).unwrap();
    (space, nft)
}

/// The listing without counters, sets and chains in whatever order they were made.
fn stateless(space: &Space) -> BTreeSet<String> {
    let listing = space.command("nft", &["-s", "list", "table", "inet", "portolan"]);
    let body = listing.trim().trim_start_matches("table inet portolan {").trim_end_matches('}');
    body.split("\n\n").map(|part| part.trim().to_owned()).collect()
}

fn filled() -> Contents {
    contents(&[
        (&cluster(), &[network("10.244.0.0/16"), network("10.0.0.1/32"), network("10.0.0.2/32")]),
        (&masquerade(), &[network("0.0.0.0/0")]),
        (&pod_egress(), &[Element::address_to_mark(ip("10.244.0.5"), 0x0100_0007)]),
        (&egress_ip(), &[Element::mark_to_address(7, ip("192.0.2.7"))]),
        (&pairs(), &[Element::pair(7, ip("192.0.2.7"))]),
    ])
}

#[test]
fn nft_reads_the_table_as_it_was_designed() {
    let (space, mut nft) = node();
    nft.converge(&table(), &filled()).unwrap();
    let listing = space.nft("list table inet portolan");
    for expected in [
        "elements = { 10.0.0.1-10.0.0.2, 10.244.0.0/16 }",
        "elements = { 0.0.0.0/0 }",
        "elements = { 10.244.0.5 : 0x01000007 }",
        "elements = { 0x00000007 : 192.0.2.7 }",
        "elements = { 0x00000007 . 192.0.2.7 }",
        "type filter hook prerouting priority dstnat + 10; policy accept;",
        "meta nfproto ipv4 iifname \"ptl*\" fib saddr . iif oif 0 counter packets 0 bytes 0 drop",
        "ct direction original ip daddr != @cluster4 meta mark set ip saddr map @pod_egress4",
        "meta mark 0xff000000/8 counter packets 0 bytes 0 drop",
        "ct direction original meta mark & 0x00003fff != 0x00000000 snat ip to meta mark & 0x00003fff map @egress_ip4",
        "ip saddr @masquerade4 ip daddr != @cluster4 meta mark & 0x00003fff == 0x00000000 masquerade",
        "meta mark & 0x00003fff . ip saddr != @egress_pairs4 counter packets 0 bytes 0 drop",
        "type filter hook postrouting priority 300; policy accept;",
    ] {
        assert!(listing.contains(expected), "{expected}\nis not in\n{listing}");
    }
    let json = space.json("nft", "-j list table inet portolan");
    assert_eq!(
        json["nftables"].as_array().unwrap().iter().filter(|one| one.get("chain").is_some()).count(),
        4
    );
}

/// Host ports of one family, and what its pods send to themselves through one.
fn ports(family: Family) -> (Table, Contents) {
    let (at, pod) = match family {
        Family::V4 => (ip("10.0.0.1"), ip("10.244.0.5")),
        Family::V6 => (ip("2001:db8::1"), ip("fd20::5")),
    };
    let rule = |matches, action| Rule {
        comment: "host port".into(),
        family: Some(family),
        matches,
        actions: vec![action],
    };
    let chain = |name: &str, hook, priority, rules| Chain {
        name: name.into(),
        kind: ChainKind::Nat,
        hook,
        priority,
        rules,
    };
    let itself = vec![Match::SourceAndDestinationIn("itself".into())];
    let open = vec![
        rule(vec![Match::ToThisNode], Action::DnatFromAddressAndPort("one".into())),
        rule(vec![Match::ToThisNode], Action::DnatFromPort("all".into())),
    ];
    let table = Table {
        sets: vec![
            Set::new("itself", SetKind::AddressPairs(family)),
            Set::new("all", SetKind::PortToEndpoint(family)),
            Set::new("one", SetKind::AddressPortToEndpoint(family)),
        ],
        chains: vec![
            chain("arrive", Hook::Prerouting, -95, open.clone()),
            chain("own", Hook::Output, -95, open),
            chain("back", Hook::Postrouting, 90, vec![rule(itself, Action::Masquerade)]),
        ],
    };
    let contents = contents(&[
        (&table.sets[0], &[Element::address_pair(pod, pod)]),
        (&table.sets[1], &[Element::port_to_endpoint(None, 6, 80, (pod, 8080))]),
        (&table.sets[2], &[Element::port_to_endpoint(Some(at), 17, 53, (pod, 5353))]),
    ]);
    (table, contents)
}

#[test]
fn nft_reads_host_ports_as_they_were_designed() {
    for (family, expected) in [
        (
            Family::V4,
            [
                "elements = { 10.244.0.5 . 10.244.0.5 }",
                "elements = { tcp . 80 : 10.244.0.5 . 8080 }",
                "elements = { 10.0.0.1 . udp . 53 : 10.244.0.5 . 5353 }",
                "fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @one",
                "fib daddr type local dnat ip to meta l4proto . th dport map @all",
                "ip saddr . ip daddr @itself masquerade",
            ],
        ),
        (
            Family::V6,
            [
                "elements = { fd20::5 . fd20::5 }",
                "elements = { tcp . 80 : fd20::5 . 8080 }",
                "elements = { 2001:db8::1 . udp . 53 : fd20::5 . 5353 }",
                "fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @one",
                "fib daddr type local dnat ip6 to meta l4proto . th dport map @all",
                "ip6 saddr . ip6 daddr @itself masquerade",
            ],
        ),
    ] {
        let (space, mut nft) = node();
        let (table, contents) = ports(family);
        nft.converge(&table, &contents).unwrap();
        assert!(nft.converge(&table, &contents).unwrap().is_quiet());
        for set in &table.sets {
            assert_eq!(nft.elements(set).unwrap(), contents[&set.name]);
        }
        let listing = space.nft("list table inet portolan");
        for expected in expected {
            assert!(listing.contains(expected), "{expected}\nis not in\n{listing}");
        }
    }
}

#[test]
fn a_second_pass_is_empty() {
    let (_space, mut nft) = node();
    let first = nft.converge(&table(), &filled()).unwrap();
    assert!(first.table_created);
    assert_eq!((first.chains_replaced.len(), first.sets_created.len(), first.elements_added), (4, 5, 6));
    assert!(nft.converge(&table(), &filled()).unwrap().is_quiet());
}

#[test]
fn whatever_is_done_to_the_table_is_repaired_and_nothing_else_is_touched() {
    let (space, mut nft) = node();
    nft.converge(&table(), &filled()).unwrap();
    let as_made = stateless(&space);
    for harm in [
        "flush table inet portolan",
        "delete table inet portolan",
        "flush chain inet portolan guard",
        "add rule inet portolan guard accept",
        "insert rule inet portolan select ip saddr { 10.244.0.5, 10.244.0.6 } accept",
        "add chain inet portolan mine; add rule inet portolan mine accept",
        "add chain inet portolan mine; add rule inet portolan block jump mine",
        "add chain inet portolan block { policy drop; }",
        "add table inet portolan { flags dormant; }",
        "add set inet portolan mine { type ipv4_addr; }",
        "flush set inet portolan cluster4",
        "flush map inet portolan pod_egress4",
        "add element inet portolan cluster4 { 1.1.1.1 }",
        "delete element inet portolan egress_ip4 { 7 }",
        "flush chain inet portolan translate; flush chain inet portolan guard; delete set inet portolan egress_pairs4",
        "flush chain inet portolan guard; delete chain inet portolan guard",
    ] {
        space.nft(harm);
        let report = nft.converge(&table(), &filled()).unwrap_or_else(|error| panic!("{harm}: {error}"));
        assert!(!report.is_quiet(), "{harm}: not noticed");
        assert!(nft.converge(&table(), &filled()).unwrap().is_quiet(), "{harm}");
        assert_eq!(stateless(&space), as_made, "{harm}");
    }
}

#[test]
fn a_replaced_rule_is_noticed() {
    let (space, mut nft) = node();
    nft.converge(&table(), &filled()).unwrap();
    let rules = space.json("nft", "-j list chain inet portolan guard");
    let mut rules = rules["nftables"].as_array().unwrap().iter().filter_map(|one| one.get("rule"));
    let handle = rules.next().unwrap()["handle"].as_u64().unwrap();
    space.nft(&format!("replace rule inet portolan guard handle {handle} counter accept"));
    let report = nft.converge(&table(), &filled()).unwrap();
    assert_eq!(report, NftReport { chains_replaced: vec!["guard".into()], ..NftReport::default() });
}

#[test]
fn a_foreign_table_survives_beside_ours() {
    let (space, mut nft) = node();
    let foreign = "table inet theirs { set cluster4 { type ipv4_addr; elements = { 9.9.9.9 }; }; \
                   chain select { type filter hook prerouting priority -90; ip saddr @cluster4 drop; }; }; \
                   table ip portolan { chain c { accept; }; }; table ip6 portolan { };";
    space.nft(foreign);
    let before = [space.nft("list table inet theirs"), space.nft("list table ip portolan")];
    nft.converge(&table(), &filled()).unwrap();
    assert!(nft.converge(&table(), &filled()).unwrap().is_quiet());
    assert!(nft.remove().unwrap());
    assert!(!nft.remove().unwrap());
    assert_eq!([space.nft("list table inet theirs"), space.nft("list table ip portolan")], before);
}

#[test]
fn elements_survive_when_rules_change() {
    let (space, mut nft) = node();
    nft.converge(&table(), &filled()).unwrap();
    let mut other = table();
    other.chains[3].rules.pop();
    let report = nft.converge(&other, &Contents::new()).unwrap();
    assert_eq!(report.chains_replaced, ["guard"]);
    assert!(space.nft("list map inet portolan pod_egress4").contains("10.244.0.5"));
}

#[test]
fn a_set_of_another_kind_is_made_anew_with_its_elements() {
    let (_space, mut nft) = node();
    let mut old = table();
    old.sets[4].kind = SetKind::AddressToMark(Family::V4);
    old.chains.clear();
    nft.converge(&old, &Contents::new()).unwrap();
    let report = nft.converge(&table(), &filled()).unwrap();
    assert!(report.sets_created.contains(&"egress_ip4".to_owned()), "{report:?}");
    assert!(nft.converge(&table(), &filled()).unwrap().is_quiet());
}

#[test]
fn a_value_is_changed_by_deleting_and_adding_in_one_transaction() {
    let (space, mut nft) = node();
    nft.converge(&table(), &filled()).unwrap();
    let element = |mark| Element::address_to_mark(ip("10.244.0.5"), mark);
    let change = Change { set: pod_egress(), delete: vec![element(0x0100_0007)], add: vec![element(9)] };
    nft.apply_elements(std::slice::from_ref(&change)).unwrap();
    assert!(space.nft("list map inet portolan pod_egress4").contains("10.244.0.5 : 0x00000009"));
    // The same again deletes what is there under the key and adds the same: no error, no other result.
    nft.apply_elements(&[change]).unwrap();
    assert_eq!(nft.elements(&pod_egress()).unwrap(), [element(9)].into());
}

#[test]
fn a_transaction_that_fails_changes_nothing_and_names_the_step() {
    let (_space, mut nft) = node();
    nft.converge(&table(), &filled()).unwrap();
    let good = Element::address_to_mark(ip("10.244.0.9"), 1);
    let absent = Element::address_to_mark(ip("10.244.0.77"), 1);
    let failed = nft
        .apply_elements(&[
            Change { set: pod_egress(), delete: vec![], add: vec![good] },
            Change {
                set: egress_ip(),
                delete: vec![Element::mark_to_address(99, ip("9.9.9.9"))],
                add: vec![],
            },
        ])
        .unwrap_err();
    assert!(failed.to_string().contains("delete 1 elements in egress_ip4"), "{failed}");
    assert!(!nft.elements(&pod_egress()).unwrap().contains(&good));
    let wrong_kind = Change { set: egress_ip(), delete: vec![], add: vec![absent] };
    assert!(matches!(nft.apply_elements(&[wrong_kind]), Err(Error::Unsuitable { .. })));
    let ranges = Change { set: cluster(), delete: vec![], add: vec![network("9.0.0.0/8")] };
    assert!(matches!(nft.apply_elements(&[ranges]), Err(Error::Unsuitable { .. })));
}

#[test]
fn elements_before_the_table_exists_are_refused_in_words() {
    let (_space, mut nft) = node();
    let change =
        Change { set: pod_egress(), delete: vec![], add: vec![Element::address_to_mark(ip("10.0.0.1"), 1)] };
    let failed = nft.apply_elements(&[change]).unwrap_err();
    assert!(failed.to_string().contains("pod_egress4"), "{failed}");
}

fn many(count: u32, mark: u32) -> BTreeSet<Element> {
    (0..count)
        .map(|at| Element::address_to_mark(Ipv4Addr::from_bits(0x0af4_0000 + at).into(), mark))
        .collect()
}

#[test]
fn fifty_thousand_elements_fit_into_one_transaction() {
    const COUNT: u32 = 50_000;
    let (_space, mut nft) = node();
    nft.converge(&table(), &Contents::new()).unwrap();
    let all = |mark| Contents::from([(pod_egress().name, many(COUNT, mark))]);
    let (report, add) = timed(|| nft.converge(&table(), &all(1)).unwrap());
    assert_eq!(report.elements_added, COUNT as usize);
    let (report, compare) = timed(|| nft.converge(&table(), &all(1)).unwrap());
    assert!(report.is_quiet());
    let (report, change) = timed(|| nft.converge(&table(), &all(2)).unwrap());
    assert_eq!((report.elements_added, report.elements_deleted), (COUNT as usize, COUNT as usize));
    assert_eq!(nft.elements(&pod_egress()).unwrap(), many(COUNT, 2));
    let one = |mark| Element::address_to_mark(ip("10.250.0.1"), mark);
    let (_, single) = timed(|| {
        nft.apply_elements(&[Change { set: pod_egress(), delete: vec![], add: vec![one(3)] }]).unwrap();
    });
    println!("{COUNT} elements: add {add:?}, compare {compare:?}, change all {change:?}, add one {single:?}");
}

#[test]
fn any_networks_are_reached_and_one_more_pass_is_empty() {
    let (_space, nft) = node();
    let nft = std::cell::RefCell::new(nft);
    let net = (0..=255_u8, 0..4_u8, prop_oneof![Just(0_u8), Just(8), 14..=32_u8]);
    let sets = prop::collection::btree_set(net, 0..20);
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(nets in sets)| {
        let networks: BTreeSet<_> = nets.iter().map(|(low, high, length)| {
            Element::network(ipnet::Ipv4Net::new_assert([10, *high, *low, 0].into(), *length).trunc().into())
        }).collect();
        let desired = Contents::from([(cluster().name, networks)]);
        let mut nft = nft.borrow_mut();
        nft.converge(&table(), &desired).unwrap();
        let second = nft.converge(&table(), &desired).unwrap();
        prop_assert!(second.is_quiet(), "{second:?}");
    });
}
