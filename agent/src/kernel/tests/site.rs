//! A site: nodes and a host outside the cluster, each in a namespace, on one switch. Node n has 10.0.0.n, its pods are in
//! 10.244.n.0/24 and fd20:0:0:n::/64; with IPv6 it has 2001:db8::n too. The host outside is 10.0.0.9 and 2001:db8::9; it
//! knows the ways to pods, so that one that leaves with its own address is heard.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{self, Command};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use portolan_core::address::Ranges;
use portolan_core::egress::node::Duty;
use portolan_core::mark::Mark;
use portolan_core::routes::Path;
use portolan_linux::netns;
use portolan_wire::cni::{PortMapping, Scope, Transport};

use super::super::{Desired, Hands, NodeAddresses, Place};
use crate::records::{Given, Record};

/// How long a test waits for what must come before it fails.
pub const PATIENCE: Duration = Duration::from_secs(5);
pub const OUTSIDE: u8 = 9;
const PODS: [&str; 2] = ["10.244.0.0/16", "fd20::/48"];

pub struct Space(OwnedFd);

impl Space {
    fn new() -> Self {
        let space = Self(netns::anonymous().expect("these tests make network namespaces and need root"));
        space.ip("link set lo up");
        space
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(self.0.as_fd(), work).expect("enter a namespace")
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(|| Command::new(program).args(arguments).output());
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn ip(&self, words: &str) -> String {
        self.command("ip", &words.split(' ').collect::<Vec<_>>())
    }

    /// Connects to `to`; the listener in `host` says from where, as it sees it.
    pub fn tcp(&self, to: (IpAddr, u16), host: &Self, at: (IpAddr, u16)) -> IpAddr {
        let listener = host.run(|| bound(|| TcpListener::bind(at)));
        let client = self.connect(to);
        let client = client.unwrap_or_else(|error| panic!("{to:?}: {error}"));
        let (_, peer) = listener.accept().unwrap();
        drop(client);
        peer.ip()
    }

    pub fn connect(&self, to: (IpAddr, u16)) -> std::io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE))
    }

    /// Sends a datagram to `to` and gets one back from there; the answer is from where, as `host` sees it.
    pub fn udp(&self, to: (IpAddr, u16), host: &Self, at: (IpAddr, u16)) -> IpAddr {
        let server = host.run(|| bound(|| UdpSocket::bind(at)));
        let client = self.datagram(to, b"ask");
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut heard = [0; 8];
        let (_, peer) = server.recv_from(&mut heard).unwrap_or_else(|error| panic!("{to:?}: {error}"));
        server.send_to(b"answer", peer).unwrap();
        let size = client.recv(&mut heard).unwrap_or_else(|error| panic!("from {to:?}: {error}"));
        assert_eq!(&heard[..size], b"answer");
        peer.ip()
    }

    /// Sends a datagram from a socket that hears the answer.
    pub fn datagram(&self, to: (IpAddr, u16), payload: &[u8]) -> UdpSocket {
        let any: IpAddr =
            if to.0.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        self.run(|| {
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(to).unwrap();
            socket.send(payload).unwrap();
            socket
        })
    }
}

/// Binds as soon as the port is free: a program that another test starts at this moment has a copy of the last socket until
/// it runs.
fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => return bound.unwrap(),
        }
    }
}

pub struct Site {
    switch: Space,
    pub outside: Space,
}

impl Site {
    pub fn new() -> Self {
        let (switch, outside) = (Space::new(), Space::new());
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let site = Self { switch, outside };
        site.plug(&site.outside, OUTSIDE);
        site.address(&site.outside, six(OUTSIDE), 64);
        for node in 1..3 {
            site.outside.ip(&format!("route add 10.244.{node}.0/24 via 10.0.0.{node}"));
            site.outside.ip(&format!("route add fd20:0:0:{node}::/64 via 2001:db8::{node}"));
        }
        site
    }

    /// A node that has passed once. Without `ipv6` it has no such address, but a way to those of others.
    pub fn node(&self, number: u8, ipv6: bool) -> Node {
        let space = Space::new();
        self.plug(&space, number);
        if ipv6 {
            self.address(&space, six(number), 64);
        } else {
            space.ip("route add 2001:db8::/64 dev eth0");
        }
        let addresses = NodeAddresses {
            v4: ipv4(number).into(),
            v6: ipv6.then(|| Ipv6Addr::from_bits(six_bits(number))),
        };
        let desired = Desired {
            addresses,
            pods: BTreeMap::new(),
            remote: BTreeMap::new(),
            nodes: (1..3).map(ipv4).collect(),
            cluster: ranges(&[&PODS, &["10.0.0.1/32", "10.0.0.2/32", "2001:db8::1/128", "2001:db8::2/128"]]),
            masquerade: ranges(&[&PODS]),
            openings: BTreeSet::new(),
            duty: Duty::default(),
        };
        let hands = space.run(Hands::open).unwrap();
        let mut node = Node { number, space, hands, desired };
        node.pass();
        node
    }

    fn plug(&self, space: &Space, number: u8) {
        // `ip` takes a namespace by any path: here, our own descriptor of it.
        let netns = format!("/proc/{}/fd/{}", process::id(), space.0.as_raw_fd());
        self.switch.ip(&format!("link add port{number} type veth peer name eth0 netns {netns}"));
        self.switch.ip(&format!("link set port{number} master br0 up"));
        space.ip("link set eth0 up");
        self.address(space, ipv4(number).into(), 24);
    }

    /// One more address of a host.
    pub fn address(&self, space: &Space, address: IpAddr, length: u8) {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        space.ip(&format!("addr add {address}/{length} dev eth0{nodad}"));
    }
}

pub struct Node {
    number: u8,
    pub space: Space,
    pub hands: Hands,
    pub desired: Desired,
}

impl Node {
    pub fn pass(&mut self) {
        let Self { space, hands, desired, .. } = self;
        space.run(|| hands.converge(desired)).unwrap();
    }

    /// Pods of the other node are behind this next hop.
    pub fn route(&mut self, other: u8, v4: (IpAddr, Path), v6: (IpAddr, Path)) {
        let nets = [format!("10.244.{other}.0/24"), format!("fd20:0:0:{other}::/64")];
        let ways = nets.map(|net| net.parse().unwrap()).into_iter().zip([v4, v6]);
        self.desired.remote = ways.collect();
        self.pass();
    }

    /// A pod as ADD makes it, which the next pass finds as it should be.
    pub fn pod(&mut self, number: u8, ports: &[PortMapping]) -> Pod {
        self.pod_with(number, ports, &BTreeMap::new())
    }

    pub fn pod_with(&mut self, number: u8, ports: &[PortMapping], marks: &BTreeMap<IpAddr, Mark>) -> Pod {
        let pod = Pod { space: Space::new(), record: record(self.number, number, ports) };
        let (hands, openings) = (&mut self.hands, pod.record.openings());
        self.space.run(|| hands.add_pod(&pod.record, pod.space.0.as_fd(), marks, &openings, true)).unwrap();
        assert_eq!(self.check(&pod), Vec::<String>::new());
        let place = Place { link: pod.record.host_interface.clone(), routed: true };
        self.desired.pods.extend(pod.record.ips().map(|ip| (ip, place.clone())));
        self.desired.openings.extend(openings);
        self.desired.duty.marks.extend(marks);
        self.pass();
        pod
    }

    pub fn check(&mut self, pod: &Pod) -> Vec<String> {
        let marks = pod.record.ips().filter_map(|ip| Some((ip, *self.desired.duty.marks.get(&ip)?)));
        let (marks, openings) = (marks.collect(), pod.record.openings());
        self.hands.check_pod(&pod.record, pod.space.0.as_fd(), &marks, &openings, true).unwrap()
    }

    /// As DEL does it.
    pub fn remove(&mut self, pod: &Pod) {
        let (marks, openings) = (self.desired.duty.marks.clone(), pod.record.openings());
        let hands = &mut self.hands;
        self.space.run(|| hands.remove_pod(&pod.record, &marks, &openings)).unwrap();
        self.desired.pods.retain(|_, place| place.link != pod.record.host_interface);
        self.desired.openings.retain(|opening| !openings.contains(opening));
    }

    /// Rules and sets of the table, and packets that the counters of this chain have counted.
    pub fn rules(&self) -> usize {
        let listing = self.space.command("nft", &["-j", "list", "table", "inet", "portolan"]);
        listing.matches("\"rule\": {").count()
    }

    pub fn counted(&self, chain: &str) -> u64 {
        let listing = self.space.command("nft", &["-j", "list", "chain", "inet", "portolan", chain]);
        let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
        let rules = listing["nftables"].as_array().unwrap().iter().filter_map(|one| one.get("rule"));
        let expressions = rules.flat_map(|rule| rule["expr"].as_array().unwrap());
        expressions.filter_map(|one| one["counter"]["packets"].as_u64()).sum()
    }
}

pub struct Pod {
    pub space: Space,
    pub record: Record,
}

impl Pod {
    pub fn v4(&self) -> IpAddr {
        self.record.addresses[0].address
    }

    pub fn v6(&self) -> IpAddr {
        self.record.addresses[1].address
    }
}

fn record(node: u8, number: u8, ports: &[PortMapping]) -> Record {
    let six = Ipv6Addr::new(0xfd20, 0, 0, node.into(), 0, 0, 0, number.into());
    let given = |address: IpAddr, prefix_len| Given { address, pool: None, prefix_len, gateway: None };
    Record {
        container_id: format!("container-{number}"),
        interface: "eth0".into(),
        namespace: "bank".into(),
        pod: format!("pod-{number}"),
        uid: None,
        network: "portolan".into(),
        scope: Scope::Interface,
        addresses: vec![given(Ipv4Addr::new(10, 244, node, number).into(), 32), given(six.into(), 128)],
        ports: ports.to_vec(),
        host_interface: format!("ptl{number:011x}"),
        complete: true,
        mtu: 1450,
    }
}

fn ranges(of: &[&[&str]]) -> Ranges {
    of.concat().into_iter().map(|net| net.parse::<IpNet>().unwrap()).collect()
}

/// A host port; `host_ip` empty is every address.
pub fn port(protocol: Transport, host_ip: &str, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { host_port, container_port, protocol, host_ip: host_ip.parse().ok() }
}

pub fn ipv4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

fn six_bits(number: u8) -> u128 {
    0x2001_0db8 << 96 | u128::from(number)
}

pub fn six(number: u8) -> IpAddr {
    Ipv6Addr::from_bits(six_bits(number)).into()
}
