//! The only caller of the kernel. Owns its two handles and the order of hands.
//!
//! A pass: the nftables table first, in one transaction (what is blocked is blocked before anything else moves), then
//! addresses, neighbours, routes and rules, then announcements. Whatever fails is in the answer and is tried again by the
//! next pass; what succeeded stays. A pass over a kernel that is as it should be only reads. `pods` is what is done for one
//! pod, between passes.

mod pods;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use portolan_core::address::Ranges;
use portolan_core::egress::node::Duty;
use portolan_core::mark::{GatewayNumber, Mark};
use portolan_core::numbers::{
    GATEWAY_MASK, GATEWAY_TABLE, RULE_PRIORITY, VXLAN_DEVICE, VXLAN_OVERHEAD, VXLAN_PORT, VXLAN_VNI,
};
use portolan_core::ports::Opening;
use portolan_core::routes::{Node, Path, vxlan_link_local, vxlan_mac};
use portolan_linux::announce::Announcer;
use portolan_linux::nft::Nft;
use portolan_linux::rules::Family;
use portolan_linux::sysctl::Setting;
use portolan_linux::{Address, Fdb, Kernel, Link, Mac, Neighbour, Report, Route, Rule, Vxlan};

pub use pods::{Seen, container_mac, host_mac};

use crate::table;

/// How often an address that has come here is announced, once in each pass.
const ANNOUNCEMENTS: u8 = 3;

/// What this node's kernel should have.
#[derive(Debug, Clone)]
pub struct Desired {
    /// This node's own addresses.
    pub addresses: NodeAddresses,
    /// Addresses of local pods.
    pub pods: BTreeMap<IpAddr, Place>,
    /// Prefixes of other nodes.
    pub remote: BTreeMap<IpNet, (IpAddr, Path)>,
    /// The IPv4 addresses of all nodes, this one's among them: VXLAN's outer packets go there.
    pub nodes: BTreeSet<Ipv4Addr>,
    /// Never translated, never steered.
    pub cluster: Ranges,
    /// Leave with the node's address.
    pub masquerade: Ranges,
    /// Host ports of local pods.
    pub openings: BTreeSet<Opening>,
    /// Egress.
    pub duty: Duty,
}

/// A node's addresses in the data centre. VXLAN needs the IPv4 one; without the IPv6 one, IPv6 pods that are to leave with
/// their node's address do not leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// The first InternalIP of IPv4.
    pub v4: Option<Ipv4Addr>,
    /// The first InternalIP of IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl NodeAddresses {
    /// Those of a Node.
    pub fn of(node: &Node) -> Self {
        let v6 = |address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        };
        Self { v4: node.addresses().find_map(|address| ipv4(&address)), v6: node.addresses().find_map(v6) }
    }

    /// The one by which the uplink is found.
    fn first(self) -> Option<IpAddr> {
        self.v4.map(IpAddr::from).or(self.v6.map(IpAddr::from))
    }
}

/// Where a local pod's address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The node's end of the pod's link.
    pub link: String,
    /// Whether the address is routed here. It is not while another node still has it: a virtual machine that is on its way
    /// here is reached there until it has arrived.
    pub routed: bool,
}

/// Where this node is connected.
#[derive(Debug, Clone)]
pub struct Uplink {
    link: Link,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
}

/// The kernel of this node.
pub struct Hands {
    kernel: Kernel,
    nft: Nft,
    announce: BTreeMap<Ipv4Addr, u8>,
    owned: BTreeSet<Ipv4Addr>,
    /// The uplink's name, once a pass has found it.
    uplink: Option<String>,
}

impl Hands {
    /// Opens the kernel of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the process may not, or the kernel lacks nftables.
    pub fn open() -> Result<Self> {
        let kernel = Kernel::open().context("routing netlink")?;
        let nft = Nft::open().context("nftables")?;
        Ok(Self { kernel, nft, announce: BTreeMap::new(), owned: BTreeSet::new(), uplink: None })
    }

    /// The device that carries the node's address; where it has two, the IPv4 one.
    ///
    /// # Errors
    /// When there is none.
    pub fn uplink(&mut self, addresses: NodeAddresses) -> Result<Uplink> {
        let address = addresses.first().context("the node has no address")?;
        let link = self.kernel.link_with_address(address)?;
        let link = link.with_context(|| format!("no device has the node's address {address}"))?;
        let all = self.kernel.all_addresses()?;
        let here = all.iter().filter(|one| one.index == link.index && !one.ours);
        let subnets =
            here.filter_map(|one| IpNet::new(one.ip, one.prefix_len).ok()).map(|net| net.trunc()).collect();
        Ok(Uplink { link, subnets })
    }

    /// The MTU of pods: room for the way over VXLAN.
    pub fn pod_mtu(uplink: &Uplink) -> u32 {
        uplink.link.mtu.saturating_sub(VXLAN_OVERHEAD)
    }

    /// The numbers that gateways have in the tables an earlier run left.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn numbers(&mut self) -> Result<BTreeMap<IpAddr, GatewayNumber>> {
        let number = |route: Route| {
            let number = u8::try_from(route.table.checked_sub(GATEWAY_TABLE)?).ok()?;
            Some((route.via?, GatewayNumber::new(number)?))
        };
        Ok(self.kernel.routes()?.into_iter().filter_map(number).collect())
    }

    /// The nodes' ends of pod links that exist.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn links(&mut self) -> Result<BTreeSet<String>> {
        Ok(self.kernel.links()?.into_iter().map(|link| link.name).collect())
    }

    /// Makes everything as desired. Every step is tried; the errors of all are in the answer.
    ///
    /// # Errors
    /// What could not be done, each step in a sentence; the rest has been.
    pub fn converge(&mut self, desired: &Desired) -> Result<(), Vec<String>> {
        let mut errors = Vec::new();
        let mut note = |what: &str, outcome: Result<()>| {
            if let Err(error) = outcome {
                errors.push(format!("{what}: {error:#}"));
            }
        };
        note("nftables", self.policy(desired));
        match self.uplink(desired.addresses) {
            Ok(uplink) => {
                self.uplink = Some(uplink.link.name.clone());
                note("forwarding", self.forwarding(desired, &uplink));
                note("VXLAN device", self.overlay(desired, &uplink));
                note("addresses", self.addresses(desired, &uplink));
                note("neighbours", self.neighbours(desired));
                note("routes", self.routes(desired, &uplink));
                note("rules", self.rules(desired));
                note("announcements", self.announcements(&uplink));
            }
            Err(error) => note("uplink", Err(error)),
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn policy(&mut self, desired: &Desired) -> Result<()> {
        let report = self.nft.converge(&table::table(), &table::contents(desired))?;
        if !report.is_quiet() {
            tracing::info!(%report, "nftables table brought up to date");
        }
        Ok(())
    }

    /// Where no pod speaks IPv6, whether the node forwards it is not ours to say.
    fn forwarding(&mut self, desired: &Desired, uplink: &Uplink) -> Result<()> {
        Setting::Forwarding4.ensure(1)?;
        let local = desired.pods.keys().any(IpAddr::is_ipv6);
        if local || desired.remote.keys().any(|prefix| prefix.network().is_ipv6()) {
            Setting::forward_ipv6(&uplink.link.name)?;
        }
        Ok(())
    }

    /// The device needs an address of the node's and a loose reverse-path filter: packets come over it whose way back is
    /// another one, and without any address on the device the kernel's loose filter is a strict one. A node without an IPv4
    /// address has no such device; where it would need one, the routes say so.
    fn overlay(&mut self, desired: &Desired, uplink: &Uplink) -> Result<()> {
        let Some(address) = desired.addresses.v4 else { return Ok(()) };
        self.kernel.ensure_vxlan(&Vxlan {
            name: VXLAN_DEVICE.to_owned(),
            vni: VXLAN_VNI,
            port: VXLAN_PORT,
            local: address.into(),
            mac: Mac(vxlan_mac(address)),
            mtu: Self::pod_mtu(uplink),
            gbp: true,
        })?;
        Setting::ReversePath(VXLAN_DEVICE.to_owned()).ensure(2)?;
        Ok(())
    }

    fn addresses(&mut self, desired: &Desired, uplink: &Uplink) -> Result<()> {
        let owned: BTreeSet<Ipv4Addr> = desired.duty.own.iter().filter_map(ipv4).collect();
        let on = |dev: &str, address: Ipv4Addr| Address {
            dev: dev.to_owned(),
            address: IpAddr::from(address).into(),
        };
        let mut addresses: BTreeSet<_> =
            owned.iter().map(|address| on(&uplink.link.name, *address)).collect();
        addresses.extend(desired.addresses.v4.map(|address| on(VXLAN_DEVICE, address)));
        heed(self.kernel.converge_addresses(&addresses)?)?;
        for fresh in owned.difference(&self.owned) {
            self.announce.insert(*fresh, ANNOUNCEMENTS);
        }
        self.announce.retain(|address, _| owned.contains(address));
        self.owned = owned;
        Ok(())
    }

    /// Each other node is a next hop twice: by its IPv4 address, and for IPv6 by the address that stands for it.
    fn neighbours(&mut self, desired: &Desired) -> Result<()> {
        let Some(own) = desired.addresses.v4 else { return Ok(()) };
        let dev = || VXLAN_DEVICE.to_owned();
        let (mut neighbours, mut fdb) = (BTreeSet::new(), BTreeSet::new());
        for node in desired.nodes.iter().filter(|node| **node != own) {
            let mac = Mac(vxlan_mac(*node));
            let hops = [IpAddr::from(*node), vxlan_link_local(*node).into()];
            neighbours.extend(hops.map(|ip| Neighbour { dev: dev(), ip, mac }));
            fdb.insert(Fdb { dev: dev(), mac, dst: (*node).into() });
        }
        heed(self.kernel.converge_neighbours(&neighbours)?)?;
        heed(self.kernel.converge_fdb(VXLAN_DEVICE, &fdb)?)
    }

    fn routes(&mut self, desired: &Desired, uplink: &Uplink) -> Result<()> {
        let links: BTreeSet<_> = self.pod_links_up(desired)?;
        let pods = desired.pods.iter().filter(|(_, place)| place.routed && links.contains(&place.link));
        let mut routes: BTreeSet<_> =
            pods.map(|(pod, place)| Route::to_device(IpNet::from(*pod), &place.link)).collect();
        routes.extend(desired.remote.iter().map(|(prefix, (via, path))| match path {
            Path::Direct => Route::through(*prefix, *via, &uplink.link.name),
            Path::Vxlan => Route::through(*prefix, *via, VXLAN_DEVICE).onlink(),
        }));
        for (number, gateway) in &desired.duty.gateways {
            let table = GATEWAY_TABLE + u32::from(number.number());
            let everywhere = IpNet::V4(ipnet::Ipv4Net::default());
            routes.insert(Route::through(everywhere, *gateway, VXLAN_DEVICE).onlink().in_table(table));
            // The outer packets carry the mark too; they must find the nodes in the main table.
            let nodes = desired.nodes.iter().map(|node| Route::throw(IpAddr::from(*node).into(), table));
            routes.extend(nodes);
        }
        heed(self.kernel.converge_routes(&routes)?)
    }

    /// The links of pods that exist, all of them up: no route leads over one that is down.
    fn pod_links_up(&mut self, desired: &Desired) -> Result<BTreeSet<String>> {
        let wanted: BTreeSet<_> = desired.pods.values().map(|place| place.link.as_str()).collect();
        let found = self.kernel.links()?.into_iter().filter(|link| wanted.contains(link.name.as_str()));
        let links: Vec<_> = found.collect();
        for link in links.iter().filter(|link| !link.up) {
            tracing::info!(link = link.name, "set up again");
            self.kernel.set_pod_link_up(link)?;
        }
        Ok(links.into_iter().map(|link| link.name).collect())
    }

    fn rules(&mut self, desired: &Desired) -> Result<()> {
        let rule = |number: &GatewayNumber| Rule {
            family: Family::V4,
            priority: RULE_PRIORITY,
            mark: Mark::of_gateway(*number),
            mask: GATEWAY_MASK,
            table: GATEWAY_TABLE + u32::from(number.number()),
        };
        heed(self.kernel.converge_rules(&desired.duty.gateways.keys().map(rule).collect())?)
    }

    fn announcements(&mut self, uplink: &Uplink) -> Result<()> {
        if self.announce.is_empty() {
            return Ok(());
        }
        let announcer = Announcer::open(&uplink.link)?;
        for (address, left) in &mut self.announce {
            announcer.announce(*address)?;
            *left -= 1;
        }
        self.announce.retain(|_, left| *left > 0);
        Ok(())
    }
}

fn heed(report: Report) -> Result<()> {
    if !report.is_quiet() {
        tracing::debug!(%report, "kernel");
    }
    let errors: Vec<_> = report.errors.iter().map(|one| format!("{}: {}", one.step, one.error)).collect();
    if errors.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(errors.join("; "))) }
}

fn ipv4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}
