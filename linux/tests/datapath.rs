//! The proof of the design: what the outside sees of a pod that an Egress selects.
//!
//! A pod's node, a gateway and a server outside, each in a namespace, on one bridge.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic"
)]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use common::{
    Space,
    packets::{PATIENCE, Recorder, segment, sources},
    rack::{Host, Rack},
    table::{self, contents, egress_ip, network, pairs, pod_egress},
};
use portolan_linux::{
    Route,
    nft::{Change, Element},
    sysctl::Setting,
};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const EGRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
const ID: u32 = 7;
const REMOTE: u32 = 1 << 24 | ID;
const BLOCKED: u32 = 0xff << 24 | ID;
const PORT: u16 = 7000;

struct Scene {
    node: Host,
    gateway: Host,
    server: Host,
    pod: Space,
    _rack: Rack,
}

/// A pod that no Egress selects yet; the server can answer it directly.
fn scene() -> Scene {
    let rack = Rack::new();
    let mut node = rack.host("node", NODE.octets());
    let mut gateway = rack.host("gateway", GATEWAY.octets());
    let server = rack.host("server", SERVER.octets());
    node.join(&[GATEWAY]);
    gateway.join(&[NODE]);
    let pod = node.pod(5, POD);
    let to_pod = Route::to_device(IpAddr::from(POD).into(), "ptl00000000005");
    node.steer(1, GATEWAY, &[NODE, GATEWAY], &[to_pod]);
    let pods = Route::through("10.244.0.0/24".parse().unwrap(), NODE.into(), "eth0");
    gateway.steer(1, NODE, &[NODE, GATEWAY], &[pods]);
    server.space.ip("route add 10.244.0.0/24 via 10.0.0.1");
    let cluster = [network("10.0.0.1/32"), network("10.0.0.2/32"), network("10.244.0.0/16")];
    let sets = contents(&[(&table::cluster(), &cluster)]);
    node.nft.converge(&table::table(), &sets).unwrap();
    gateway.nft.converge(&table::table(), &sets).unwrap();
    Scene { node, gateway, server, pod, _rack: rack }
}

impl Scene {
    fn select(&mut self, mark: Option<u32>, before: Option<u32>) {
        let element = |mark: u32| Element::address_to_mark(POD.into(), mark);
        let change = Change {
            set: pod_egress(),
            delete: before.map(element).into_iter().collect(),
            add: mark.map(element).into_iter().collect(),
        };
        self.node.nft.apply_elements(&[change]).unwrap();
    }

    fn udp(&self, payload: &[u8]) {
        let socket = self.pod.run(|| UdpSocket::bind((POD, 0))).unwrap();
        self.pod.run(|| socket.send_to(payload, (SERVER, PORT))).unwrap();
    }

    /// The server's own packet: all that was sent before it has been dealt with when it arrives.
    fn last_word(&self) {
        let socket = self.gateway.space.run(|| UdpSocket::bind((GATEWAY, 0))).unwrap();
        socket.send_to(b"last word", (SERVER, PORT)).unwrap();
    }

    fn listener(&self) -> TcpListener {
        self.server.space.run(|| TcpListener::bind((SERVER, PORT))).unwrap()
    }

    fn connect(&self, listener: &TcpListener) -> (TcpStream, TcpStream, SocketAddr) {
        let to = SocketAddr::from((SERVER, PORT));
        let client = self.pod.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        let (server, peer) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        (client, server, peer)
    }
}

/// The egress address lives on a host, which may translate to it.
fn own(host: &mut Host) {
    host.add_address("eth0", EGRESS);
    let add = |set, element| Change { set, delete: vec![], add: vec![element] };
    let mapped = add(egress_ip(), Element::mark_to_address(ID, EGRESS.into()));
    let allowed = add(pairs(), Element::pair(ID, EGRESS.into()));
    host.nft.apply_elements(&[mapped, allowed]).unwrap();
}

/// Packets that the counter of a chain's rule has counted.
fn counted(host: &Host, chain: &str, rule: usize) -> u64 {
    let listing = host.space.json("nft", &format!("-j list chain inet portolan {chain}"));
    let mut rules = listing["nftables"].as_array().unwrap().iter().filter_map(|one| one.get("rule"));
    let rule = rules.nth(rule).unwrap_or(&Value::Null);
    let counters = rule["expr"].as_array().unwrap().iter().filter_map(|one| one.get("counter"));
    counters.filter_map(|counter| counter["packets"].as_u64()).sum()
}

fn talk(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"ask").unwrap();
    let mut heard = [0; 3];
    server.read_exact(&mut heard).unwrap();
    server.write_all(&heard).unwrap();
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ask");
}

#[test]
fn the_outside_sees_the_egress_address_of_a_remote_gateway() {
    let mut scene = scene();
    own(&mut scene.gateway);
    scene.select(Some(REMOTE), None);
    let mut recorder = Recorder::in_space(&scene.server.space);
    let listener = scene.listener();
    let (mut client, mut server, peer) = scene.connect(&listener);
    assert_eq!(peer.ip(), IpAddr::from(EGRESS));
    talk(&mut client, &mut server);
    scene.udp(b"a datagram");
    scene.last_word();
    let seen = recorder.until(b"last word");
    assert!(seen.iter().any(|packet| packet.payload.ends_with(b"a datagram")), "{seen:?}");
    assert!(
        seen.iter().all(|packet| packet.source == EGRESS || packet.source == GATEWAY),
        "{:?}",
        sources(&seen)
    );
}

#[test]
fn the_outside_sees_the_egress_address_when_the_pods_own_node_owns_it() {
    let mut scene = scene();
    own(&mut scene.node);
    scene.select(Some(ID), None);
    let listener = scene.listener();
    let (mut client, mut server, peer) = scene.connect(&listener);
    assert_eq!(peer.ip(), IpAddr::from(EGRESS));
    talk(&mut client, &mut server);
    assert_eq!(counted(&scene.node, "guard", 0), 0);
}

#[test]
fn a_strict_reverse_path_filter_for_all_devices_does_not_break_the_way_through_a_gateway() {
    let mut scene = scene();
    for host in [&scene.node, &scene.gateway] {
        host.space.run(|| Setting::ReversePath("all".into()).ensure(1)).unwrap();
    }
    own(&mut scene.gateway);
    scene.select(Some(REMOTE), None);
    let listener = scene.listener();
    let (mut client, mut server, peer) = scene.connect(&listener);
    assert_eq!(peer.ip(), IpAddr::from(EGRESS));
    talk(&mut client, &mut server);
}

#[test]
fn nothing_leaves_while_the_mark_blocks() {
    let mut scene = scene();
    scene.select(Some(BLOCKED), None);
    let mut recorder = Recorder::in_space(&scene.server.space);
    for _ in 0..5 {
        scene.udp(b"must not arrive");
    }
    scene.last_word();
    let seen = recorder.until(b"last word");
    assert_eq!(sources(&seen).keys().copied().collect::<Vec<_>>(), [GATEWAY]);
    assert_eq!(counted(&scene.node, "block", 0), 5);
}

#[test]
fn nothing_leaves_a_gateway_that_does_not_own_the_address() {
    let mut scene = scene();
    scene.select(Some(REMOTE), None);
    let mut recorder = Recorder::in_space(&scene.server.space);
    for _ in 0..5 {
        scene.udp(b"must not arrive");
    }
    scene.last_word();
    let seen = recorder.until(b"last word");
    assert_eq!(sources(&seen).keys().copied().collect::<Vec<_>>(), [GATEWAY]);
    assert_eq!(counted(&scene.gateway, "guard", 0), 5);
}

#[test]
fn a_connection_older_than_the_egress_is_dropped_rather_than_leaked() {
    let mut scene = scene();
    let listener = scene.listener();
    let (mut client, mut server, peer) = scene.connect(&listener);
    assert_eq!(peer.ip(), IpAddr::from(POD));
    talk(&mut client, &mut server);
    own(&mut scene.node);
    scene.select(Some(ID), None);
    let mut recorder = Recorder::in_space(&scene.server.space);
    client.write_all(b"must not arrive").unwrap();
    scene.last_word();
    let seen = recorder.until(b"last word");
    assert!(!seen.iter().any(|packet| packet.source == POD), "{seen:?}");
    assert!(counted(&scene.node, "guard", 0) > 0);
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    let (mut client, mut server, peer) = scene.connect(&listener);
    assert_eq!(peer.ip(), IpAddr::from(EGRESS), "new connections leave with the Egress' address");
    talk(&mut client, &mut server);
}

#[test]
fn a_masqueraded_connection_older_than_the_egress_is_dropped_too() {
    let mut scene = scene();
    let masquerade = contents(&[
        (&table::cluster(), &[network("10.0.0.1/32"), network("10.0.0.2/32"), network("10.244.0.0/16")]),
        (&table::masquerade(), &[network("10.244.0.0/16")]),
    ]);
    scene.node.nft.converge(&table::table(), &masquerade).unwrap();
    let listener = scene.listener();
    let (mut client, mut server, peer) = scene.connect(&listener);
    assert_eq!(peer.ip(), IpAddr::from(NODE));
    talk(&mut client, &mut server);
    own(&mut scene.node);
    scene.select(Some(ID), None);
    let mut recorder = Recorder::in_space(&scene.server.space);
    client.write_all(b"must not arrive").unwrap();
    scene.last_word();
    let seen = recorder.until(b"last word");
    assert!(!seen.iter().any(|packet| packet.source == NODE), "{seen:?}");
    assert!(counted(&scene.node, "guard", 0) > 0);
}

#[test]
fn a_packet_of_no_connection_never_leaks_the_pods_address() {
    const SYN_ACK: u8 = 0x12;
    let mut scene = scene();
    own(&mut scene.node);
    scene.select(Some(ID), None);
    let mut recorder = Recorder::in_space(&scene.server.space);
    let raw = scene.pod.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))).unwrap();
    let packet = segment((POD, 4000), (SERVER, PORT), SYN_ACK);
    raw.send_to(&packet, &SocketAddr::from((SERVER, 0)).into()).unwrap();
    scene.last_word();
    let seen = recorder.until(b"last word");
    assert!(!seen.iter().any(|packet| packet.source == POD), "{seen:?}");
    assert_eq!(counted(&scene.node, "guard", 1), 1);
}

#[test]
fn a_pod_cannot_leave_with_an_address_that_is_not_its_own() {
    let mut scene = scene();
    own(&mut scene.node);
    scene.select(Some(ID), None);
    let mut recorder = Recorder::in_space(&scene.server.space);
    let borrowed = Ipv4Addr::new(10, 244, 0, 99);
    scene.pod.ip("addr add 10.244.0.99/32 dev lo");
    let socket = scene.pod.run(|| UdpSocket::bind((borrowed, 0))).unwrap();
    socket.send_to(b"must not arrive", (SERVER, PORT)).unwrap();
    scene.last_word();
    let seen = recorder.until(b"last word");
    assert!(!seen.iter().any(|packet| packet.source == borrowed), "{seen:?}");
    assert_eq!(counted(&scene.node, "select", 0), 1);
}

#[test]
fn replies_to_a_connection_from_outside_keep_the_pods_address() {
    let mut scene = scene();
    own(&mut scene.node);
    scene.select(Some(ID), None);
    let listener = scene.pod.run(|| TcpListener::bind((POD, PORT))).unwrap();
    let to = SocketAddr::from((POD, PORT));
    let mut client = scene.server.space.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::from(SERVER));
    talk(&mut client, &mut server);
}
