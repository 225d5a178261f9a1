//! The only caller of the kernel. Owns its two handles and the order of hands.
//!
//! A pass: the nftables table first, in one transaction (what is blocked is blocked before anything else moves), then
//! addresses, neighbours, routes and rules, then announcements. Whatever fails is in the answer and is tried again by the
//! next pass; what succeeded stays. A pass over a kernel that is as it should be only reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use ipnet::IpNet;
use portolan_core::address::Ranges;
use portolan_core::egress::node::Duty;
use portolan_core::mark::{GatewayNumber, Mark};
use portolan_core::numbers::{
    GATEWAY_MASK, GATEWAY_TABLE, RULE_PRIORITY, VXLAN_DEVICE, VXLAN_OVERHEAD, VXLAN_PORT, VXLAN_VNI,
};
use portolan_core::routes::{Path, vxlan_mac};
use portolan_linux::announce::Announcer;
use portolan_linux::nft::{Change, Element, Nft};
use portolan_linux::rules::Family;
use portolan_linux::sysctl::Setting;
use portolan_linux::{
    Address, Fdb, Kernel, Link, Mac, Neighbour, PodLink, Report, Route, Rule, Vxlan, Wired,
};
use portolan_wire::cni::Scope;

use crate::records::Record;
use crate::table;

/// The pods' gateway: nobody holds it, a permanent neighbour entry answers for it.
pub const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The hardware address of the node's end of every pod link; each is on a link of its own.
const HOST_MAC: Mac = Mac([0xee; 6]);
/// How often an address that has come here is announced, once in each pass.
const ANNOUNCEMENTS: u8 = 3;

/// What this node's kernel should have.
#[derive(Debug, Clone)]
pub struct Desired {
    /// This node's own address.
    pub address: Ipv4Addr,
    /// Addresses of local pods and the node's end of each one's link.
    pub pods: BTreeMap<IpAddr, String>,
    /// Prefixes of other nodes.
    pub remote: BTreeMap<IpNet, (IpAddr, Path)>,
    /// The addresses of all nodes, this one's among them.
    pub nodes: BTreeSet<Ipv4Addr>,
    /// Never translated, never steered.
    pub cluster: Ranges,
    /// Leave with the node's address.
    pub masquerade: Ranges,
    /// Egress.
    pub duty: Duty,
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
}

impl Hands {
    /// Opens the kernel of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the process may not, or the kernel lacks nftables.
    pub fn open() -> Result<Self> {
        let kernel = Kernel::open().context("routing netlink")?;
        let nft = Nft::open().context("nftables")?;
        Ok(Self { kernel, nft, announce: BTreeMap::new(), owned: BTreeSet::new() })
    }

    /// The device that carries the node's address.
    ///
    /// # Errors
    /// When there is none.
    pub fn uplink(&mut self, address: Ipv4Addr) -> Result<Uplink> {
        let address = IpAddr::from(address);
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
        match self.uplink(desired.address) {
            Ok(uplink) => {
                note("VXLAN device", self.overlay(desired.address, &uplink));
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
        let contents = table::contents(&desired.cluster, &desired.masquerade, &desired.duty);
        let report = self.nft.converge(&table::table(), &contents)?;
        if !report.is_quiet() {
            tracing::info!(%report, "nftables table brought up to date");
        }
        Ok(())
    }

    /// The device needs an address of the node's and a loose reverse-path filter: packets come over it whose way back is
    /// another one, and without any address on the device the kernel's loose filter is a strict one.
    fn overlay(&mut self, address: Ipv4Addr, uplink: &Uplink) -> Result<()> {
        Setting::Forwarding4.ensure(1)?;
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
        addresses.insert(on(VXLAN_DEVICE, desired.address));
        heed(self.kernel.converge_addresses(&addresses)?)?;
        for fresh in owned.difference(&self.owned) {
            self.announce.insert(*fresh, ANNOUNCEMENTS);
        }
        self.announce.retain(|address, _| owned.contains(address));
        self.owned = owned;
        Ok(())
    }

    fn neighbours(&mut self, desired: &Desired) -> Result<()> {
        let others = || desired.nodes.iter().filter(|node| **node != desired.address);
        let mac = |node: Ipv4Addr| Mac(vxlan_mac(node));
        let neighbour =
            |node: &Ipv4Addr| Neighbour { dev: VXLAN_DEVICE.to_owned(), ip: (*node).into(), mac: mac(*node) };
        let fdb =
            |node: &Ipv4Addr| Fdb { dev: VXLAN_DEVICE.to_owned(), mac: mac(*node), dst: (*node).into() };
        let (neighbours, fdb) = (others().map(neighbour).collect(), others().map(fdb).collect());
        heed(self.kernel.converge_neighbours(&neighbours)?)?;
        heed(self.kernel.converge_fdb(VXLAN_DEVICE, &fdb)?)
    }

    fn routes(&mut self, desired: &Desired, uplink: &Uplink) -> Result<()> {
        let links = self.links()?;
        let pods = desired.pods.iter().filter(|(_, link)| links.contains(*link));
        let mut routes: BTreeSet<_> =
            pods.map(|(pod, link)| Route::to_device(IpNet::from(*pod), link)).collect();
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

    /// Wires a pod: its mark first, its link last, up as the very last thing.
    ///
    /// # Errors
    /// Nothing of it is left behind.
    pub fn add_pod(
        &mut self,
        record: &Record,
        netns: BorrowedFd<'_>,
        marks: &BTreeMap<IpAddr, Mark>,
    ) -> Result<Wired> {
        self.mark(&BTreeMap::new(), marks).context("nftables")?;
        let wired = self.kernel.wire_pod(&pod_link(record, netns));
        if wired.is_err() {
            self.mark(marks, &BTreeMap::new()).context("taking the mark back")?;
        }
        Ok(wired?)
    }

    /// Takes a pod's link away, then its mark. What is not there is away.
    ///
    /// # Errors
    /// When the link is still there. A mark that could not be removed is the next pass's.
    pub fn remove_pod(&mut self, record: &Record, marks: &BTreeMap<IpAddr, Mark>) -> Result<()> {
        if record.scope == Scope::Addresses {
            return Ok(());
        }
        self.kernel.unwire_pod(&record.host_interface)?;
        if let Err(error) = self.mark(marks, &BTreeMap::new()) {
            tracing::debug!(%error, "a mark of {} was not there", record.pod);
        }
        Ok(())
    }

    /// What is not as ADD made it, in sentences.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn check_pod(
        &mut self,
        record: &Record,
        netns: BorrowedFd<'_>,
        marks: &BTreeMap<IpAddr, Mark>,
    ) -> Result<Vec<String>> {
        let mut deviations = self.kernel.check_pod(&pod_link(record, netns))?;
        if marks.is_empty() {
            return Ok(deviations);
        }
        let there = self.nft.elements(&table::pod_egress())?;
        let missing = marks.iter().filter(|(pod, mark)| !there.contains(&element(**pod, **mark)));
        deviations.extend(missing.map(|(pod, _)| format!("nftables has no mark for {pod}")));
        Ok(deviations)
    }

    fn mark(&mut self, before: &BTreeMap<IpAddr, Mark>, after: &BTreeMap<IpAddr, Mark>) -> Result<()> {
        let elements = |marks: &BTreeMap<IpAddr, Mark>| -> Vec<_> {
            marks.iter().map(|(pod, mark)| element(*pod, *mark)).collect()
        };
        let (delete, add) = (elements(before), elements(after));
        if delete.is_empty() && add.is_empty() {
            return Ok(());
        }
        Ok(self.nft.apply_elements(&[Change { set: table::pod_egress(), delete, add }])?)
    }
}

fn element(pod: IpAddr, mark: Mark) -> Element {
    Element::address_to_mark(pod, mark.value())
}

fn pod_link<'a>(record: &Record, netns: BorrowedFd<'a>) -> PodLink<'a> {
    PodLink {
        host_name: record.host_interface.clone(),
        container_name: record.interface.clone(),
        netns,
        addresses: record.ips().collect(),
        gateways: vec![GATEWAY],
        mtu: record.mtu,
        host_mac: HOST_MAC,
    }
}

/// The hardware address of the node's end of every pod link, as text.
pub fn host_mac() -> String {
    HOST_MAC.to_string()
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
