//! A rack: hosts in namespaces of their own, joined by a bridge, with the product's devices on them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd},
};

use portolan_linux::{
    Address, Fdb, Kernel, Mac, Neighbour, PodLink, Route, Rule, Vxlan, nft::Nft, rules::Family,
    sysctl::Setting,
};

use super::{Space, table::VXLAN};

pub const HOST_MAC: Mac = Mac([0xee; 6]);
pub const FIRST_TABLE: u32 = 20480;
const PRIORITY: u32 = 5107;

/// The switch.
pub struct Rack {
    switch: Space,
}

/// A host on the rack; its uplink is `eth0`.
pub struct Host {
    pub space: Space,
    pub ip: Ipv4Addr,
    pub kernel: Kernel,
    pub nft: Nft,
    /// Ours, so that each addition can converge all.
    addresses: BTreeSet<Address>,
}

impl Rack {
    pub fn new() -> Self {
        let switch = Space::new();
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        Self { switch }
    }

    /// Adds a host with this address in a /24.
    pub fn host(&self, name: &str, ip: [u8; 4]) -> Host {
        let space = Space::new();
        let ip = Ipv4Addr::from(ip);
        // `ip` takes a namespace by any path: here, our own descriptor of it.
        let netns = format!("/proc/{}/fd/{}", std::process::id(), space.as_fd().as_raw_fd());
        self.switch.ip(&format!("link add {name} type veth peer name eth0 netns {netns}"));
        self.switch.ip(&format!("link set {name} master br0 up"));
        space.ip(&format!("addr add {ip}/24 dev eth0"));
        space.ip("link set eth0 up");
        space.run(|| {
            Setting::Forwarding4.ensure(1).expect("forwarding");
            Setting::ReversePath("all".into()).ensure(0).expect("reverse path");
            Setting::ReversePath("eth0".into()).ensure(0).expect("reverse path");
        });
        let kernel = space.run(Kernel::open).expect("routing netlink");
        let nft = space.run(Nft::open).expect("nftables netlink");
        Host { space, ip, kernel, nft, addresses: BTreeSet::new() }
    }
}

/// The hardware address of a node's VXLAN device.
pub fn vxlan_mac(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    Mac([2, 0x50, a, b, c, d])
}

impl Host {
    /// The VXLAN device, and how to reach the others over it.
    pub fn join(&mut self, others: &[Ipv4Addr]) {
        let vxlan = Vxlan {
            name: VXLAN.into(),
            vni: 20559,
            port: 4789,
            local: self.ip.into(),
            mac: vxlan_mac(self.ip),
            mtu: 1450,
            gbp: true,
        };
        self.kernel.ensure_vxlan(&vxlan).expect("the VXLAN device");
        // Loose is strict on a device without an address, so it gets the node's own.
        self.space.run(|| Setting::ReversePath(VXLAN.into()).ensure(2)).expect("reverse path");
        self.add_address(VXLAN, self.ip);
        let dev = || VXLAN.to_owned();
        let neighbours =
            others.iter().map(|ip| Neighbour { dev: dev(), ip: (*ip).into(), mac: vxlan_mac(*ip) }).collect();
        let fdb =
            others.iter().map(|ip| Fdb { dev: dev(), mac: vxlan_mac(*ip), dst: (*ip).into() }).collect();
        let report = self.kernel.converge_neighbours(&neighbours).expect("neighbours");
        assert!(report.errors.is_empty(), "{report:?}");
        let report = self.kernel.converge_fdb(VXLAN, &fdb).expect("forwarding entries");
        assert!(report.errors.is_empty(), "{report:?}");
    }

    /// One more address of ours on a device.
    pub fn add_address(&mut self, dev: &str, ip: Ipv4Addr) {
        self.addresses.insert(Address { dev: dev.into(), address: IpAddr::from(ip).into() });
        let report = self.kernel.converge_addresses(&self.addresses).expect("addresses");
        assert!(report.errors.is_empty(), "{report:?}");
    }

    /// Marked packets of gateway number `number` go to `gateway`; also keeps `others` as they are.
    pub fn steer(&mut self, number: u32, gateway: Ipv4Addr, nodes: &[Ipv4Addr], pods: &[Route]) {
        let table = FIRST_TABLE + number;
        let rule =
            Rule { family: Family::V4, priority: PRIORITY, mark: number << 24, mask: 0xff00_0000, table };
        let everything = "0.0.0.0/0".parse().expect("a network");
        let mut routes = vec![Route::through(everything, gateway.into(), VXLAN).onlink().in_table(table)];
        routes.extend(nodes.iter().map(|node| Route::throw(IpAddr::from(*node).into(), table)));
        routes.extend(pods.iter().cloned());
        let report = self.kernel.converge_rules(&[rule].into()).expect("rules");
        assert!(report.errors.is_empty(), "{report:?}");
        let report = self.kernel.converge_routes(&routes.into_iter().collect()).expect("routes");
        assert!(report.errors.is_empty(), "{report:?}");
    }

    /// A pod on this node.
    pub fn pod(&mut self, number: u8, ip: Ipv4Addr) -> Space {
        let space = Space::new();
        self.kernel.wire_pod(&pod_link(&space, number, ip)).expect("a pod's link");
        space
    }
}

pub fn pod_link(space: &Space, number: u8, ip: Ipv4Addr) -> PodLink<'_> {
    PodLink {
        host_name: format!("ptl{number:011x}"),
        container_name: "eth0".into(),
        netns: space.as_fd(),
        addresses: vec![ip.into()],
        gateways: vec![Ipv4Addr::new(169, 254, 1, 1).into()],
        mtu: 1450,
        host_mac: HOST_MAC,
        container_mac: Mac([2, 0, 0, 0, 0, number]),
        routed: true,
    }
}
