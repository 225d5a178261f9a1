//! Any desired state is reached in one pass, and one more pass is empty; what others made stays, and
//! what somebody deletes comes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic"
)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use common::Space;
use ipnet::{IpNet, Ipv4Net};
use portolan_linux::{
    Address, Ensured, Fdb, Kernel, Mac, Neighbour, Report, Route, Rule, Vxlan, rules::Family,
};
use proptest::{
    collection::{btree_map, btree_set},
    prelude::*,
};

const DEVICES: [&str; 2] = ["port0", "port1"];
const VXLAN: &str = "portolan.vx";

/// All kinds at once, as one node might have to have them.
#[derive(Debug, Clone)]
struct Desired {
    routes: BTreeSet<Route>,
    rules: BTreeSet<Rule>,
    addresses: BTreeSet<Address>,
    neighbours: BTreeSet<Neighbour>,
    fdb: BTreeSet<Fdb>,
}

fn device() -> impl Strategy<Value = String> {
    (0..DEVICES.len()).prop_map(|at| DEVICES[at].to_owned())
}

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 5]>().prop_map(|[a, b, c, d, e]| Mac([2, a, b, c, d, e]))
}

fn host() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1..=40_u8).prop_map(|host| Ipv4Addr::new(192, 0, 2, host).into()),
        (1..=40_u16).prop_map(|host| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into()),
    ]
}

/// Few prefixes and tables, so that one state changes what another left.
fn place() -> impl Strategy<Value = (u32, IpNet)> {
    let prefix = prop_oneof![
        (0..8_u8, 20..=32_u8)
            .prop_map(|(net, length)| Ipv4Net::new_assert([10, 9, net, 0].into(), length).trunc().into()),
        (0..8_u16)
            .prop_map(|net| IpNet::new(Ipv6Addr::new(0xfd09, net, 0, 0, 0, 0, 0, 0).into(), 64).unwrap()),
        Just(IpNet::from(Ipv4Net::default())),
    ];
    (prop_oneof![Just(254_u32), 20480..20483_u32], prefix)
        .prop_filter("the default route is not ours", |(table, prefix)| {
            *table != 254 || prefix.prefix_len() > 0
        })
}

fn route((table, prefix): (u32, IpNet)) -> impl Strategy<Value = Route> {
    let gateway: IpAddr = match prefix {
        IpNet::V4(_) => Ipv4Addr::new(198, 51, 100, 7).into(),
        IpNet::V6(_) => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7).into(),
    };
    let on = move |route: Route| route.in_table(table);
    prop_oneof![
        3 => device().prop_map(move |dev| on(Route::to_device(prefix, dev))),
        3 => device().prop_map(move |dev| on(Route::through(prefix, gateway, dev).onlink())),
        1 => device().prop_map(move |dev| on(Route { mtu: Some(1400), ..Route::through(prefix, gateway, dev).onlink() })),
        1 => Just(Route::throw(prefix, table)),
        1 => Just(on(Route::blackhole(prefix))),
    ]
}

fn routes() -> impl Strategy<Value = BTreeSet<Route>> {
    btree_set(place(), 0..24)
        .prop_flat_map(|places| places.into_iter().map(route).collect::<Vec<_>>())
        .prop_map(BTreeSet::from_iter)
}

fn rules() -> impl Strategy<Value = BTreeSet<Rule>> {
    let rule = (any::<bool>(), 5100..5110_u32, 1..5_u32, 20480..20484_u32).prop_map(
        |(v4, priority, gateway, table)| {
            let family = if v4 { Family::V4 } else { Family::V6 };
            Rule { family, priority, mark: gateway << 24, mask: 0xff00_0000, table }
        },
    );
    btree_set(rule, 0..8)
}

fn neighbours() -> impl Strategy<Value = BTreeSet<Neighbour>> {
    let entries = btree_map((device(), host()), mac(), 0..12);
    entries
        .prop_map(|entries| entries.into_iter().map(|((dev, ip), mac)| Neighbour { dev, ip, mac }).collect())
}

fn addresses() -> impl Strategy<Value = BTreeSet<Address>> {
    btree_set((device(), host()), 0..12)
        .prop_map(|of| of.into_iter().map(|(dev, ip)| Address { dev, address: ip.into() }).collect())
}

fn fdb() -> impl Strategy<Value = BTreeSet<Fdb>> {
    let entries = btree_map(mac(), (1..=9_u8).prop_map(|host| Ipv4Addr::new(10, 0, 0, host).into()), 0..12);
    entries.prop_map(|entries: BTreeMap<Mac, IpAddr>| {
        entries.into_iter().map(|(mac, dst)| Fdb { dev: VXLAN.into(), mac, dst }).collect()
    })
}

fn desired() -> impl Strategy<Value = Desired> {
    (routes(), rules(), addresses(), neighbours(), fdb()).prop_map(
        |(routes, rules, addresses, neighbours, fdb)| Desired { routes, rules, addresses, neighbours, fdb },
    )
}

fn vxlan() -> Vxlan {
    Vxlan {
        name: VXLAN.into(),
        vni: 20559,
        port: 4789,
        local: Ipv4Addr::new(10, 0, 0, 1).into(),
        mac: Mac([2, 0x50, 10, 0, 0, 1]),
        mtu: 1450,
        gbp: true,
    }
}

fn node() -> (Space, Kernel) {
    let space = Space::new();
    for dev in DEVICES {
        space.ip(&format!("link add {dev} type veth peer name {dev}-end"));
        space.ip(&format!("link set {dev}-end up"));
        space.ip(&format!("link set {dev} up"));
    }
    let mut kernel = space.run(Kernel::open).unwrap();
    assert_eq!(kernel.ensure_vxlan(&vxlan()).unwrap(), Ensured::Created);
    (space, kernel)
}

/// One pass over all kinds, in the order in which the agent goes.
fn pass(kernel: &mut Kernel, desired: &Desired) -> Report {
    let mut report = Report::default();
    report.absorb(kernel.converge_addresses(&desired.addresses).unwrap());
    report.absorb(kernel.converge_neighbours(&desired.neighbours).unwrap());
    report.absorb(kernel.converge_fdb(VXLAN, &desired.fdb).unwrap());
    report.absorb(kernel.converge_routes(&desired.routes).unwrap());
    report.absorb(kernel.converge_rules(&desired.rules).unwrap());
    report
}

#[test]
fn any_desired_state_is_reached_in_one_pass_and_one_more_is_empty() {
    let (_space, kernel) = node();
    let kernel = std::cell::RefCell::new(kernel);
    let states = prop::collection::vec(desired(), 1..4);
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(states in states)| {
        // The same node goes through all states of all cases: each starts from what another left.
        for desired in states {
            let mut kernel = kernel.borrow_mut();
            let first = pass(&mut kernel, &desired);
            prop_assert!(first.errors.is_empty(), "{:?}", first.errors);
            let second = pass(&mut kernel, &desired);
            prop_assert!(second.is_quiet(), "{second:?}");
            prop_assert_eq!(kernel.routes().unwrap(), desired.routes);
            prop_assert_eq!(kernel.rules().unwrap(), desired.rules);
        }
    });
}

#[test]
fn what_others_made_survives_beside_ours() {
    let (space, mut kernel) = node();
    for foreign in [
        "route add 10.9.1.0/24 dev port0 proto static",
        "route add 10.9.2.0/24 via 198.51.100.1 dev port0 onlink table 20480 proto bird",
        "rule add fwmark 0x1000000/0xff000000 lookup 20480 pref 5107",
        "addr add 192.0.2.99/24 dev port0",
        "neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 nud permanent dev port0",
        "link add flannel.1 type vxlan id 1 dev port0 dstport 8472 nolearning",
        "link add calico.vx type vxlan id 20559 dstport 4790 local 10.0.0.1 nolearning",
    ] {
        space.ip(foreign);
    }
    let before = foreign_things(&space);
    let ours = Desired {
        routes: [Route::blackhole("10.9.3.0/24".parse().unwrap())].into(),
        rules: BTreeSet::new(),
        addresses: BTreeSet::new(),
        neighbours: BTreeSet::new(),
        fdb: BTreeSet::new(),
    };
    assert_eq!(pass(&mut kernel, &ours).added, 1);
    let nothing = Desired { routes: BTreeSet::new(), ..ours };
    assert_eq!(pass(&mut kernel, &nothing).deleted, 1);
    assert!(kernel.delete_own_link(VXLAN).unwrap());
    assert_eq!(foreign_things(&space), before);
}

/// Everything in the namespace but what carries our mark, the VXLAN device included.
fn foreign_things(space: &Space) -> Vec<String> {
    let lists = ["-d route show table all", "rule", "-br addr", "neigh show nud permanent", "-br link"];
    let all = lists.iter().map(|list| space.ip(list)).collect::<String>();
    let foreign = all.lines().filter(|line| !line.contains("107") && !line.contains(VXLAN));
    foreign.map(str::to_owned).collect()
}

#[test]
fn a_route_that_others_hold_is_reported_and_left_alone() {
    let (space, mut kernel) = node();
    space.ip("route add 10.9.1.0/24 dev port0 proto static");
    let wanted = Route::to_device("10.9.1.0/24".parse().unwrap(), "port1");
    let report = kernel.converge_routes(&[wanted].into()).unwrap();
    assert_eq!((report.added, report.errors.len()), (0, 1));
    let words = format!("{} {}", report.errors[0].step, report.errors[0].error);
    assert!(words.contains("10.9.1.0/24") && words.contains("File exists"), "{words}");
    assert!(space.ip("route show 10.9.1.0/24").contains("port0"));
}

#[test]
fn one_step_that_fails_does_not_hold_up_the_others() {
    let (_space, mut kernel) = node();
    let good = Route::to_device("10.9.1.0/24".parse().unwrap(), "port0");
    let nowhere = Route::to_device("10.9.2.0/24".parse().unwrap(), "no-such");
    let unreachable =
        Route::through("10.9.3.0/24".parse().unwrap(), Ipv4Addr::new(203, 0, 113, 1).into(), "port0");
    let report = kernel.converge_routes(&[good.clone(), nowhere, unreachable].into()).unwrap();
    assert_eq!((report.added, report.errors.len()), (1, 2));
    let words = report.errors.iter().map(|error| error.error.to_string()).collect::<String>();
    assert!(words.contains("no-such") && words.contains("Nexthop has invalid gateway"), "{words}");
    assert_eq!(kernel.routes().unwrap(), [good].into());
}

#[test]
fn what_somebody_deletes_comes_back() {
    let (space, mut kernel) = node();
    let net = || "10.9.1.0/24".parse::<IpNet>().unwrap();
    let ip: IpAddr = Ipv4Addr::new(192, 0, 2, 5).into();
    let desired = Desired {
        routes: [Route::to_device(net(), "port0")].into(),
        rules: [Rule { family: Family::V4, priority: 5107, mark: 1 << 24, mask: 0xff00_0000, table: 20481 }]
            .into(),
        addresses: [Address { dev: "port0".into(), address: ip.into() }].into(),
        neighbours: [Neighbour { dev: VXLAN.into(), ip, mac: Mac([2; 6]) }].into(),
        fdb: [Fdb { dev: VXLAN.into(), mac: Mac([2; 6]), dst: ip }].into(),
    };
    assert_eq!(pass(&mut kernel, &desired).added, 5);
    space.ip("route del 10.9.1.0/24");
    space.ip("rule del pref 5107");
    space.ip("addr del 192.0.2.5/32 dev port0");
    let report = pass(&mut kernel, &desired);
    assert_eq!((report.added, report.unchanged), (3, 2), "{report:?}");
    space.ip("link del portolan.vx");
    assert_eq!(kernel.ensure_vxlan(&vxlan()).unwrap(), Ensured::Created);
    assert_eq!(pass(&mut kernel, &desired).added, 2);
    assert!(pass(&mut kernel, &desired).is_quiet());
}

#[test]
fn a_changed_route_is_replaced_without_a_moment_without_it() {
    let (_space, mut kernel) = node();
    let route = |dev| Route::to_device("10.9.1.0/24".parse().unwrap(), dev);
    kernel.converge_routes(&[route("port0")].into()).unwrap();
    let report = kernel.converge_routes(&[route("port1")].into()).unwrap();
    assert_eq!((report.replaced, report.added, report.deleted), (1, 0, 0));
}

#[test]
fn the_vxlan_device_is_changed_where_possible_and_made_anew_where_not() {
    let (space, mut kernel) = node();
    assert_eq!(kernel.ensure_vxlan(&vxlan()).unwrap(), Ensured::Unchanged);
    space.ip("link set portolan.vx down");
    assert_eq!(kernel.ensure_vxlan(&vxlan()).unwrap(), Ensured::Changed);
    assert_eq!(kernel.ensure_vxlan(&Vxlan { mtu: 1400, ..vxlan() }).unwrap(), Ensured::Changed);
    assert_eq!(kernel.ensure_vxlan(&Vxlan { vni: 7, ..vxlan() }).unwrap(), Ensured::Recreated);
    let link = kernel.link(VXLAN).unwrap().unwrap();
    assert_eq!((link.mtu, link.up, link.vxlan.unwrap().vni), (1450, true, 7));
}

#[test]
fn a_device_that_has_our_name_but_is_no_vxlan_is_left_alone() {
    let space = Space::new();
    space.ip("link add portolan.vx type bridge");
    let mut kernel = space.run(Kernel::open).unwrap();
    let refused = kernel.ensure_vxlan(&vxlan()).unwrap_err();
    assert!(refused.to_string().contains("bridge"), "{refused}");
    assert!(kernel.delete_own_link("eth0").is_err());
}

#[test]
fn the_uplink_is_found_by_the_nodes_address_although_the_vxlan_device_has_it_too() {
    let (space, mut kernel) = node();
    space.ip("addr add 192.0.2.1/24 dev port1");
    let own: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
    kernel.converge_addresses(&[Address { dev: VXLAN.into(), address: own.into() }].into()).unwrap();
    assert_eq!(kernel.link_with_address(own).unwrap().unwrap().name, "port1");
    assert_eq!(kernel.link_with_address(Ipv4Addr::LOCALHOST.into()).unwrap().unwrap().name, "lo");
    assert!(kernel.link_with_address(Ipv4Addr::new(9, 9, 9, 9).into()).unwrap().is_none());
}
