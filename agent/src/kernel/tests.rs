//! Whole passes and single pods on a real kernel, with the table that the product renders.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use portolan_core::address::Ranges;
use portolan_core::mark::Mark;
use portolan_core::ports::{Opening, Protocol};
use portolan_core::routes::{Path, vxlan_link_local};
use portolan_linux::netns;
use portolan_wire::cni::Transport;

use self::site::{Node, OUTSIDE, PATIENCE, Pod, Site, ipv4, port, six};
use super::pods::Seen;
use crate::records::Record;
use crate::table;

/// Two nodes that know each other's pods, over VXLAN.
fn pair(site: &Site, ipv6: bool) -> (Node, Node) {
    let (mut one, mut two) = (site.node(1, ipv6), site.node(2, ipv6));
    for (node, other) in [(&mut one, 2), (&mut two, 1)] {
        let hop = vxlan_link_local(ipv4(other));
        node.route(other, (ipv4(other).into(), Path::Vxlan), (hop.into(), Path::Vxlan));
    }
    (one, two)
}

#[test]
fn dual_stack_pods_talk_over_vxlan_between_nodes_that_have_ipv4_only() {
    let site = Site::new();
    let (mut one, mut two) = pair(&site, false);
    let (here, there) = (one.pod(5, &[]), two.pod(5, &[]));
    for (from, to, source, at) in [
        (&here, &there, here.v4(), there.v4()),
        (&here, &there, here.v6(), there.v6()),
        (&there, &here, there.v6(), here.v6()),
    ] {
        assert_eq!(from.space.tcp((at, 7000), &to.space, (at, 7000)), source);
    }
    assert!(one.space.ip("-6 route show").contains("fd20:0:0:2::/64 via fe80::a00:2 dev portolan.vx"));
}

#[test]
fn ipv6_goes_directly_where_the_nodes_share_a_subnet() {
    let site = Site::new();
    let (mut one, mut two) = (site.node(1, true), site.node(2, true));
    for (node, other) in [(&mut one, 2), (&mut two, 1)] {
        node.route(other, (ipv4(other).into(), Path::Direct), (six(other), Path::Direct));
    }
    let (here, there) = (one.pod(5, &[]), two.pod(5, &[]));
    one.space.ip("link set portolan.vx down");
    two.space.ip("link set portolan.vx down");
    assert_eq!(here.space.tcp((there.v6(), 7000), &there.space, (there.v6(), 7000)), here.v6());
}

#[test]
fn the_second_pass_changes_nothing() {
    let site = Site::new();
    let (mut one, _two) = pair(&site, true);
    let _pod = one.pod(5, &[port(Transport::Tcp, "", 8080, 80), port(Transport::Udp, "2001:db8::1", 53, 53)]);
    let report = one.hands.nft.converge(&table::table(), &table::contents(&one.desired)).unwrap();
    assert!(report.is_quiet(), "{report}");
    let state = |node: &Node| {
        ["-6 route show proto 107", "-6 neigh show nud permanent"].map(|words| node.space.ip(words))
    };
    let before = state(&one);
    one.pass();
    assert_eq!(state(&one), before);
}

#[test]
fn an_ipv6_pod_leaves_with_the_nodes_address_where_the_pool_says_so() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let pod = node.pod(5, &[]);
    let to = (six(OUTSIDE), 7000);
    assert_eq!(pod.space.tcp(to, &site.outside, to), six(1));
    node.desired.masquerade = Ranges::default();
    node.pass();
    assert_eq!(pod.space.tcp(to, &site.outside, to), pod.v6());
}

#[test]
fn an_ipv6_pod_does_not_leave_where_the_node_has_no_address_for_it() {
    let site = Site::new();
    let mut node = site.node(1, false);
    let pod = node.pod(5, &[]);
    let heard = site.outside.run(|| UdpSocket::bind((six(OUTSIDE), 7000))).unwrap();
    pod.space.datagram((six(OUTSIDE), 7000), b"must not arrive");
    let other = site.node(2, true);
    other.space.datagram((six(OUTSIDE), 7000), b"last word");
    let mut word = [0; 32];
    let (size, from) = heard.recv_from(&mut word).unwrap();
    assert_eq!((&word[..size], from.ip()), (&b"last word"[..], six(2)));
    assert_eq!(node.counted("guard"), 1);
}

#[test]
fn an_address_that_an_egress_has_no_way_out_for_does_not_leave() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let v6: IpAddr = "fd20:0:0:1::5".parse().unwrap();
    let pod = node.pod_with(5, &[], &[(v6, Mark::BLOCK)].into());
    pod.space.datagram((six(OUTSIDE), 7000), b"must not arrive");
    assert_eq!(node.counted("block"), 1);
    let to = (ipv4(OUTSIDE).into(), 7000);
    assert_eq!(pod.space.tcp(to, &site.outside, to), IpAddr::from(ipv4(1)), "its other address does");
    let from_outside = site.outside.tcp((v6, 7000), &pod.space, (v6, 7000));
    assert_eq!(from_outside, six(OUTSIDE), "replies to connections from outside do");
}

#[test]
fn a_pod_cannot_send_with_an_ipv6_address_that_is_not_its_own() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let pod = node.pod(5, &[]);
    let before = node.counted("select");
    pod.space.ip("addr add fd20:0:0:1::99/128 dev lo nodad");
    let borrowed: IpAddr = "fd20:0:0:1::99".parse().unwrap();
    let socket = pod.space.run(|| UdpSocket::bind((borrowed, 0))).unwrap();
    socket.send_to(b"must not arrive", (six(OUTSIDE), 7000)).unwrap();
    assert_eq!(node.counted("select"), before + 1);
}

#[test]
fn a_host_port_is_reached_from_everywhere_and_keeps_the_clients_address() {
    let site = Site::new();
    let (mut one, mut two) = pair(&site, true);
    let ports = [port(Transport::Tcp, "", 8080, 80), port(Transport::Udp, "", 5300, 53)];
    let server = one.pod(5, &ports);
    let (beside, far) = (one.pod(6, &[]), two.pod(7, &[]));
    let v4 = |number: u8| IpAddr::from(ipv4(number));
    for (node, pod, sources) in [
        (v4(1), server.v4(), [v4(OUTSIDE), v4(2), v4(1), beside.v4(), far.v4(), v4(1)]),
        (six(1), server.v6(), [six(OUTSIDE), six(2), six(1), beside.v6(), far.v6(), six(1)]),
    ] {
        let from = [&site.outside, &two.space, &one.space, &beside.space, &far.space, &server.space];
        for (from, source) in from.into_iter().zip(sources) {
            assert_eq!(from.tcp((node, 8080), &server.space, (pod, 80)), source, "TCP to {node}");
            assert_eq!(from.udp((node, 5300), &server.space, (pod, 53)), source, "UDP to {node}");
        }
    }
    assert!(refused(&site, (v4(1), 5300)) && refused(&site, (six(1), 80)), "no other port is open");
}

#[test]
fn a_host_port_on_one_address_is_closed_on_the_others() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let second = Ipv4Addr::new(10, 0, 0, 11).into();
    site.address(&node.space, second, 24);
    let first = IpAddr::from(ipv4(1));
    let pod = node.pod(
        5,
        &[
            port(Transport::Tcp, "10.0.0.1", 8080, 80),
            port(Transport::Tcp, "2001:db8::1", 8081, 81),
            port(Transport::Tcp, "", 8082, 82),
        ],
    );
    let reach = |to, at| site.outside.tcp(to, &pod.space, at);
    assert_eq!(reach((first, 8080), (pod.v4(), 80)), IpAddr::from(ipv4(OUTSIDE)));
    assert_eq!(reach((six(1), 8081), (pod.v6(), 81)), six(OUTSIDE));
    for address in [first, second] {
        assert_eq!(reach((address, 8082), (pod.v4(), 82)), IpAddr::from(ipv4(OUTSIDE)));
    }
    for closed in [(second, 8080), (six(1), 8080), (first, 8081)] {
        assert!(refused(&site, closed), "{closed:?}");
    }
}

#[test]
fn two_pods_have_one_port_on_two_addresses() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let second = Ipv4Addr::new(10, 0, 0, 11).into();
    site.address(&node.space, second, 24);
    let one = node.pod(5, &[port(Transport::Tcp, "10.0.0.1", 8080, 80)]);
    let other = node.pod(6, &[port(Transport::Tcp, "10.0.0.11", 8080, 80)]);
    for (address, pod) in [(ipv4(1).into(), &one), (second, &other)] {
        let client = site.outside.tcp((address, 8080), &pod.space, (pod.v4(), 80));
        assert_eq!(client, IpAddr::from(ipv4(OUTSIDE)));
    }
}

#[test]
fn a_host_port_is_closed_with_its_pod_and_opens_for_the_next() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let ports = [port(Transport::Tcp, "", 8080, 80)];
    for number in [5, 6] {
        let pod = node.pod(number, &ports);
        let to = (ipv4(1).into(), 8080);
        assert_eq!(site.outside.tcp(to, &pod.space, (pod.v4(), 80)), IpAddr::from(ipv4(OUTSIDE)));
        node.remove(&pod);
        assert_eq!(node.hands.seen().unwrap(), Seen::default());
        assert!(refused(&site, to) && refused(&site, (six(1), 8080)));
    }
}

#[test]
fn a_client_that_goes_on_sending_reaches_the_pod_that_has_the_port_now() {
    let site = Site::new();
    let mut node = site.node(1, true);
    for (to, pod_address) in [(IpAddr::from(ipv4(1)), Pod::v4 as fn(&Pod) -> IpAddr), (six(1), Pod::v6)] {
        let client = site.outside.datagram((to, 5300), b"too early");
        for number in [5, 6] {
            let pod = node.pod(number, &[port(Transport::Udp, "", 5300, 53)]);
            let server = pod.space.run(|| UdpSocket::bind((pod_address(&pod), 53))).unwrap();
            server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let (deadline, mut heard) = (Instant::now() + PATIENCE, [0; 3]);
            loop {
                // What the node said to a datagram that came too early, if anything.
                let _ = client.take_error();
                let _ = client.send(b"ask");
                match server.recv(&mut heard) {
                    Ok(_) => break,
                    Err(error) => assert!(Instant::now() < deadline, "{to}, pod {number}: {error}"),
                }
            }
            node.remove(&pod);
        }
    }
}

#[test]
fn loopback_and_egress_addresses_have_no_host_ports() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let egress = Ipv4Addr::new(10, 0, 0, 100);
    node.desired.duty.own.insert(egress.into());
    node.pass();
    let _pod = node.pod(5, &[port(Transport::Tcp, "", 8080, 80)]);
    assert!(refused(&site, (egress.into(), 8080)));
    for own in [Ipv4Addr::LOCALHOST.into(), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        assert_eq!(node.space.tcp((own, 8080), &node.space, (own, 8080)), own, "the node's own server");
    }
}

#[test]
fn a_services_port_wins_over_a_host_port_and_leaves_the_others_alone() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let ports = [port(Transport::Tcp, "", 30080, 80), port(Transport::Tcp, "", 8080, 80)];
    let (host_port, backend) = (node.pod(5, &ports), node.pod(6, &[]));
    // As kube-proxy writes it in its nftables mode, for one NodePort.
    let proxy = format!(
        "table ip kube-proxy {{ chain nat-prerouting {{ type nat hook prerouting priority dstnat; \
         fib daddr type local tcp dport 30080 dnat to {}:80; }}; }}",
        backend.v4()
    );
    node.space.command("nft", &[&proxy]);
    node.pass();
    for (number, pod) in [(30080, &backend), (8080, &host_port)] {
        let client = site.outside.tcp((ipv4(1).into(), number), &pod.space, (pod.v4(), 80));
        assert_eq!(client, IpAddr::from(ipv4(OUTSIDE)));
    }
    assert!(node.space.command("nft", &["list", "table", "ip", "kube-proxy"]).contains("30080"));
}

#[test]
fn a_host_port_on_a_strangers_address_catches_nothing() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let (_catcher, client) = (node.pod(5, &[port(Transport::Tcp, "10.0.0.9", 7000, 80)]), node.pod(6, &[]));
    let to = (ipv4(OUTSIDE).into(), 7000);
    assert_eq!(client.space.tcp(to, &site.outside, to), IpAddr::from(ipv4(1)));
}

#[test]
fn the_number_of_rules_does_not_depend_on_pods() {
    const PODS: u32 = 1000;
    let site = Site::new();
    let mut node = site.node(1, true);
    let before = node.rules();
    for pod in 0..PODS {
        let pod = Ipv4Addr::from_bits(0x0af4_0100 + pod).into();
        let port = 10_000 + node.desired.openings.len() as u16;
        node.desired.openings.insert(Opening {
            address: None,
            protocol: Protocol::Tcp,
            port,
            pod,
            pod_port: 80,
        });
        node.desired.duty.marks.insert(pod, Mark::BLOCK);
    }
    node.pass();
    assert_eq!(node.hands.seen().unwrap().openings.len(), PODS as usize);
    assert_eq!(node.rules(), before);
}

#[test]
fn check_names_what_is_missing_and_seen_shows_what_is_there() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let v4: IpAddr = "10.244.1.5".parse().unwrap();
    let ports = [port(Transport::Tcp, "", 8080, 80)];
    let pod = node.pod_with(5, &ports, &[(v4, Mark::BLOCK)].into());
    let link = pod.record.host_interface.clone();
    let expected = Seen {
        links: [link.clone()].into(),
        routes: pod.record.ips().map(|ip| (ip, link.clone())).collect(),
        marks: [(v4, Mark::BLOCK.value())].into(),
        openings: pod.record.openings(),
    };
    assert_eq!(node.hands.seen().unwrap(), expected);
    for (kind, name) in [("map", "pod_egress4"), ("map", "hostports6"), ("set", "hairpin4")] {
        node.space.command("nft", &["flush", kind, "inet", "portolan", name]);
    }
    let words = node.check(&pod).join("; ");
    for expected in [
        "pod_egress4 lacks 10.244.1.5 : 0xff000000",
        "hostports6 lacks 6 . 8080 : fd20:0:0:1::5 . 80",
        "hairpin4 lacks 10.244.1.5 . 10.244.1.5",
    ] {
        assert!(words.contains(expected), "{expected} is not in {words}");
    }
    // What is left goes with the pod all the same.
    node.remove(&pod);
    assert_eq!(node.hands.seen().unwrap(), Seen::default());
}

#[test]
fn a_pod_that_cannot_be_wired_leaves_no_elements() {
    let site = Site::new();
    let mut node = site.node(1, true);
    let pod = node.pod(5, &[]);
    let record = Record { ports: vec![port(Transport::Tcp, "", 8080, 80)], ..pod.record.clone() };
    let (hands, openings) = (&mut node.hands, record.openings());
    let own = node.space.run(netns::own).unwrap();
    let failed = node.space.run(|| hands.add_pod(&record, own.as_fd(), &BTreeMap::new(), &openings, true));
    assert!(failed.is_err());
    assert_eq!(node.hands.seen().unwrap().openings, BTreeSet::new());
}

fn refused(site: &Site, to: (IpAddr, u16)) -> bool {
    let outcome = site.outside.connect(to);
    outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}
