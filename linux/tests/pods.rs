//! A pod's link, end to end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic"
)]

mod common;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use common::{
    Space,
    bench::{median, timed},
    packets::{PATIENCE, bound},
    rack::pod_link,
};
use portolan_linux::{Error, Kernel, PodLink, Route, sysctl::Setting};

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 6);

fn node() -> (Space, Kernel) {
    let space = Space::new();
    space.ip("addr add 10.0.0.1/32 dev lo");
    space.run(|| Setting::Forwarding4.ensure(1)).unwrap();
    let kernel = space.run(Kernel::open).unwrap();
    (space, kernel)
}

#[test]
fn two_pods_of_a_node_talk_to_each_other_and_to_the_node() {
    let (node, mut kernel) = node();
    let (one, other) = (Space::new(), Space::new());
    kernel.wire_pod(&pod_link(&one, 5, POD)).unwrap();
    kernel.wire_pod(&pod_link(&other, 6, OTHER)).unwrap();
    let listener = other.run(|| TcpListener::bind((OTHER, 7000))).unwrap();
    for from in [&one, &node] {
        let to = SocketAddr::from((OTHER, 7000));
        let mut client = from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        if std::ptr::eq(from, &one) {
            assert_eq!(peer.ip(), IpAddr::from(POD));
        }
    }
}

#[test]
fn check_finds_nothing_in_a_fresh_link_and_names_each_deviation() {
    let (node, mut kernel) = node();
    let space = Space::new();
    let pod = pod_link(&space, 5, POD);
    kernel.wire_pod(&pod).unwrap();
    assert_eq!(kernel.check_pod(&pod).unwrap(), Vec::<String>::new());
    node.ip("route del 10.244.0.5");
    space.ip("neigh del 169.254.1.1 dev eth0");
    space.ip("addr del 10.244.0.5/32 dev eth0");
    space.ip("link set eth0 mtu 1300");
    let words = kernel.check_pod(&pod).unwrap().join("; ");
    for expected in
        ["no route 10.244.0.5/32", "no permanent entry 169.254.1.1", "not the address", "MTU 1300"]
    {
        assert!(words.contains(expected), "{words}");
    }
}

#[test]
fn observe_shows_what_is_in_the_pod() {
    let (_node, mut kernel) = node();
    let space = Space::new();
    let pod = pod_link(&space, 5, POD);
    kernel.wire_pod(&pod).unwrap();
    let view = kernel.observe_pod(space.as_fd(), "eth0").unwrap().unwrap();
    assert_eq!((view.link.up, view.link.mtu, view.link.mac), (true, 1450, Some(pod.container_mac)));
    assert!(view.addresses.contains(&"10.244.0.5/32".parse().unwrap()));
    assert!(kernel.observe_pod(space.as_fd(), "eth1").unwrap().is_none());
}

#[test]
fn unwiring_twice_is_no_error() {
    let (node, mut kernel) = node();
    let space = Space::new();
    let pod = pod_link(&space, 5, POD);
    kernel.wire_pod(&pod).unwrap();
    assert!(kernel.unwire_pod(&pod.host_name).unwrap());
    assert!(!kernel.unwire_pod(&pod.host_name).unwrap());
    assert_eq!(node.ip("route show"), "");
    assert!(matches!(kernel.unwire_pod("eth0"), Err(Error::NotOurs { .. })));
}

#[test]
fn a_link_that_was_removed_is_gone_at_once_and_can_be_made_anew() {
    let (node, mut kernel) = node();
    let space = Space::new();
    let pod = pod_link(&space, 5, POD);
    for _ in 0..20 {
        kernel.wire_pod(&pod).unwrap();
        assert!(kernel.unwire_pod(&pod.host_name).unwrap());
        assert!(!node.ip("link show").contains(&pod.host_name) && !space.ip("link show").contains("eth0"));
    }
}

#[test]
fn a_name_that_is_taken_is_refused_and_what_has_it_stays() {
    let (_node, mut kernel) = node();
    let space = Space::new();
    space.ip("link add eth0 type bridge");
    let refused = kernel.wire_pod(&pod_link(&space, 5, POD)).unwrap_err();
    assert!(matches!(&refused, Error::AlreadyExists { name, .. } if name == "eth0"), "{refused}");
    assert!(space.ip("-d link show eth0").contains("bridge"));
    let empty = Space::new();
    kernel.wire_pod(&pod_link(&empty, 5, POD)).unwrap();
    let refused = kernel.wire_pod(&pod_link(&Space::new(), 5, OTHER)).unwrap_err();
    assert!(matches!(&refused, Error::AlreadyExists { name, .. } if name.starts_with("ptl")), "{refused}");
}

#[test]
fn nothing_is_left_of_a_link_that_fails_half_way() {
    let (node, mut kernel) = node();
    node.ip("link add foreign type bridge");
    node.ip("link set foreign up");
    // Somebody holds the pod's route on the node: the last step of all fails.
    node.ip("route add 10.244.0.5/32 dev foreign");
    let space = Space::new();
    let failed = kernel.wire_pod(&pod_link(&space, 5, POD)).unwrap_err();
    assert!(failed.to_string().contains("10.244.0.5/32"), "{failed}");
    assert!(!node.ip("-br link").contains("ptl"));
    assert!(!space.ip("-br link").contains("eth0"));
    assert!(node.ip("route show").contains("foreign"));
}

#[test]
fn the_nodes_own_namespace_and_other_files_are_refused() {
    let (node, mut kernel) = node();
    let refused = kernel.wire_pod(&pod_link(&node, 5, POD)).unwrap_err();
    assert!(matches!(refused, Error::OwnNamespace));
    let file = std::fs::File::open("/proc/self/ns/mnt").unwrap();
    let link = PodLink { netns: file.as_fd(), ..pod_link(&node, 5, POD) };
    assert!(matches!(kernel.wire_pod(&link), Err(Error::NotANamespace(_))));
    let foreign = PodLink { host_name: "veth0".into(), ..pod_link(&node, 5, POD) };
    assert!(matches!(kernel.wire_pod(&foreign), Err(Error::NotOurs { .. })));
}

fn dual_stack(space: &Space, number: u8) -> PodLink<'_> {
    let mut pod = pod_link(space, number, Ipv4Addr::new(10, 244, 0, number));
    pod.addresses.push(six(number));
    pod.gateways.push("fe80::1".parse().unwrap());
    pod
}

fn six(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, number.into()).into()
}

fn ipv6_only(space: &Space, number: u8) -> PodLink<'_> {
    let mut pod = dual_stack(space, number);
    pod.addresses.remove(0);
    pod.gateways.remove(0);
    pod
}

/// Whether any address of this device is one that duplicate address detection is still at.
fn tentative(space: &Space, dev: &str) -> bool {
    let listing = space.json("ip", &format!("-j -6 addr show dev {dev}"));
    let addresses = listing[0]["addr_info"].as_array().unwrap();
    addresses.iter().any(|address| address["tentative"] == true)
}

#[test]
fn pods_talk_over_ipv6_before_duplicate_address_detection_ends() {
    let (node, mut kernel) = node();
    node.run(|| Setting::Forwarding6.ensure(1)).unwrap();
    node.ip("addr add fd00::1/128 dev lo");
    // Detection takes hours: the node's ends have no address of their own as long as the test runs.
    node.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/dad_transmits", "10000")).unwrap();
    let (one, other) = (Space::new(), Space::new());
    kernel.wire_pod(&ipv6_only(&one, 5)).unwrap();
    let link = dual_stack(&other, 6);
    kernel.wire_pod(&link).unwrap();
    for (from, at) in
        [(&one, six(6)), (&node, six(6)), (&node, six(5)), (&other, six(5)), (&other, OTHER.into())]
    {
        let host = if at == six(5) { &one } else { &other };
        let listener = host.run(|| bound(|| TcpListener::bind((at, 7000))));
        let to = SocketAddr::from((at, 7000));
        from.run(|| TcpStream::connect_timeout(&to, PATIENCE))
            .unwrap_or_else(|error| panic!("{at}: {error}"));
        drop(listener);
    }
    assert!(tentative(&node, &link.host_name));
}

#[test]
fn check_finds_nothing_in_a_fresh_dual_stack_link_and_names_each_deviation() {
    let (node, mut kernel) = node();
    let space = Space::new();
    let pod = dual_stack(&space, 5);
    kernel.wire_pod(&pod).unwrap();
    assert_eq!(kernel.check_pod(&pod).unwrap(), Vec::<String>::new());
    node.ip("route del fd09::5/128");
    node.ip(&format!("neigh del fd09::5 dev {}", pod.host_name));
    space.ip("route del default via fe80::1");
    space.ip("neigh del fe80::1 dev eth0");
    space.ip("addr del fd09::5/128 dev eth0");
    let words = kernel.check_pod(&pod).unwrap().join("; ");
    for expected in [
        "no route fd09::5/128",
        "the node has no permanent entry fd09::5",
        "the pod has no permanent entry fe80::1",
        "no default route through fe80::1",
        "not the address fd09::5",
    ] {
        assert!(words.contains(expected), "{expected} is not in {words}");
    }
    assert!(!words.contains("10.244.0.5") && !words.contains("169.254"), "{words}");
}

#[test]
fn a_pass_over_neighbours_leaves_those_of_pods_alone() {
    let (_node, mut kernel) = node();
    let space = Space::new();
    let pod = dual_stack(&space, 5);
    kernel.wire_pod(&pod).unwrap();
    assert!(kernel.converge_neighbours(&BTreeSet::new()).unwrap().is_quiet());
    assert_eq!(kernel.check_pod(&pod).unwrap(), Vec::<String>::new());
}

#[test]
fn a_pod_that_another_node_still_has_gets_its_routes_later() {
    let (node, mut kernel) = node();
    let space = Space::new();
    let pod = PodLink { routed: false, ..dual_stack(&space, 5) };
    let elsewhere = ["10.244.0.5/32", "fd09::5/128"].map(|net| Route::blackhole(net.parse().unwrap()));
    kernel.converge_routes(&elsewhere.into()).unwrap();
    kernel.wire_pod(&pod).unwrap();
    assert_eq!(kernel.check_pod(&pod).unwrap(), Vec::<String>::new());
    assert!(node.ip("route show 10.244.0.5").contains("blackhole"));
    let routed = PodLink { routed: true, ..pod };
    assert_eq!(kernel.check_pod(&routed).unwrap().len(), 2);
    let here = routed.addresses.iter().map(|ip| Route::to_device((*ip).into(), &routed.host_name)).collect();
    let report = kernel.converge_routes(&here).unwrap();
    assert!(report.errors.is_empty(), "{report:?}");
    assert_eq!(kernel.check_pod(&routed).unwrap(), Vec::<String>::new());
}

#[test]
fn a_route_of_ours_to_the_node_that_had_the_address_before_gives_way() {
    let (node, mut kernel) = node();
    let before = ["10.244.0.5/32", "fd09::5/128"].map(|net| Route::blackhole(net.parse().unwrap()));
    kernel.converge_routes(&before.into()).unwrap();
    let space = Space::new();
    let pod = dual_stack(&space, 5);
    kernel.wire_pod(&pod).unwrap();
    assert_eq!(kernel.check_pod(&pod).unwrap(), Vec::<String>::new());
    assert!(!node.ip("route show 10.244.0.5").contains("blackhole"));
}

#[test]
fn forwarding_does_not_cost_the_node_the_routers_it_has_learnt() {
    let (node, _) = node();
    node.ip("link add eth0 type veth peer name eth1");
    let value = |setting: Setting| node.run(move || setting.read()).unwrap();
    assert!(node.run(|| Setting::forward_ipv6("eth0")).unwrap());
    assert_eq!(value(Setting::Forwarding6), "1");
    assert_eq!(value(Setting::AcceptRa("eth0".into())), "2");
    assert_eq!(value(Setting::AcceptRa("eth1".into())), "1");
    assert!(!node.run(|| Setting::forward_ipv6("eth1")).unwrap(), "who forwards already has decided");
    assert_eq!(value(Setting::AcceptRa("eth1".into())), "1");
}

#[test]
fn wiring_a_pod_takes_about_half_a_millisecond() {
    let (_node, mut kernel) = node();
    let spaces: Vec<_> = (0..64).map(|_| Space::new()).collect();
    let times = spaces.iter().zip(0..).map(|(space, number)| {
        let link = pod_link(space, number, Ipv4Addr::new(10, 244, 1, number));
        timed(|| kernel.wire_pod(&link).unwrap()).1
    });
    let median = median(times.collect());
    println!("wiring one pod: {median:?} (median of 64)");
    // The kernel's part is 0.4 to 0.6 ms on an idle machine; tests run beside.
    assert!(median.as_millis() < 10, "{median:?}");
}
