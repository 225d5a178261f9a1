//! One pod, between passes: wired, unwired, checked; and what there is of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use portolan_core::mark::Mark;
use portolan_core::numbers::{GATEWAY_V4, GATEWAY_V6};
use portolan_core::ports::{Opening, Protocol};
use portolan_core::rank;
use portolan_linux::conntrack::{Conntrack, Flow};
use portolan_linux::nft::{Change, Element, Set};
use portolan_linux::own::POD_LINK_PREFIX;
use portolan_linux::routes::MAIN_TABLE;
use portolan_linux::sysctl::Setting;
use portolan_linux::{Mac, PodLink};
use portolan_wire::cni::Scope;

use super::Hands;
use crate::records::Record;
use crate::table;

/// The hardware address of the node's end of every pod link; each is on a link of its own.
const HOST_MAC: Mac = Mac([0xee; 6]);

/// What the kernel has of local pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The nodes' ends of pod links.
    pub links: BTreeSet<String>,
    /// The node's end of the link that each pod's address is routed to.
    pub routes: BTreeMap<IpAddr, String>,
    /// Each pod's mark.
    pub marks: BTreeMap<IpAddr, u32>,
    /// Host ports.
    pub openings: BTreeSet<Opening>,
}

impl Hands {
    /// Wires a pod: its mark and its host ports first, its link last, up as the very last thing. A pod that is not `routed`
    /// is neither reached nor heard until a pass brings its routes ([`super::Place`]).
    ///
    /// # Errors
    /// Nothing of it is left behind.
    pub fn add_pod(
        &mut self,
        record: &Record,
        netns: BorrowedFd<'_>,
        marks: &BTreeMap<IpAddr, Mark>,
        openings: &BTreeSet<Opening>,
        routed: bool,
    ) -> Result<()> {
        if let Some(uplink) = &self.uplink
            && record.ips().any(|ip| ip.is_ipv6())
        {
            Setting::forward_ipv6(uplink).context("forwarding")?;
        }
        let elements = table::of_pods(marks, openings);
        let add = elements.iter().map(|(set, elements)| change(set, [], elements.iter().copied()));
        self.nft.apply_elements(&add.collect::<Vec<_>>()).context("nftables")?;
        let forgotten = self.forget(openings).context("connections");
        let wired = forgotten.and_then(|()| Ok(self.kernel.wire_pod(&pod_link(record, netns, routed))?));
        if wired.is_err() {
            self.take_back(&elements).context("taking its elements back")?;
        }
        wired
    }

    /// Takes a pod's link away, then its mark and its host ports. What is not there is away.
    ///
    /// # Errors
    /// When the link is still there. Elements that could not be removed are the next pass's.
    pub fn remove_pod(
        &mut self,
        record: &Record,
        marks: &BTreeMap<IpAddr, Mark>,
        openings: &BTreeSet<Opening>,
    ) -> Result<()> {
        if record.scope == Scope::Addresses {
            return Ok(());
        }
        self.kernel.unwire_pod(&record.host_interface)?;
        if let Err(error) = self.take_back(&table::of_pods(marks, openings)) {
            tracing::warn!(%error, pod = record.pod, "elements of a pod that ended stay until the next pass");
        }
        if let Err(error) = self.forget(openings) {
            tracing::warn!(%error, pod = record.pod, "connections to host ports of a pod that ended stay");
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
        openings: &BTreeSet<Opening>,
        routed: bool,
    ) -> Result<Vec<String>> {
        let mut deviations = self.kernel.check_pod(&pod_link(record, netns, routed))?;
        for (set, wanted) in table::of_pods(marks, openings) {
            let there = self.nft.elements(&set)?;
            let missing = wanted.difference(&there);
            deviations.extend(missing.map(|element| format!("nftables: {} lacks {element}", set.name)));
        }
        Ok(deviations)
    }

    /// What there is of local pods, to be compared with what should be.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn seen(&mut self) -> Result<Seen> {
        let is_pods = |link: &str| link.starts_with(POD_LINK_PREFIX);
        let mut seen = Seen { links: self.links()?, ..Seen::default() };
        seen.links.retain(|link| is_pods(link));
        for route in self.kernel.routes()? {
            if let Some(dev) = route.dev.filter(|dev| route.table == MAIN_TABLE && is_pods(dev)) {
                seen.routes.insert(route.prefix.network(), dev);
            }
        }
        for map in table::pod_maps() {
            let elements = self.nft.elements(&map)?;
            seen.marks.extend(elements.iter().filter_map(table::mark_of));
            seen.openings.extend(elements.iter().filter_map(table::opening_of));
        }
        Ok(seen)
    }

    /// Who sends to a host port by UDP all the time is to reach the pod that has it now, not the one that had it or none.
    fn forget(&mut self, openings: &BTreeSet<Opening>) -> Result<()> {
        let udp: Vec<_> = openings.iter().filter(|opening| opening.protocol == Protocol::Udp).collect();
        if udp.is_empty() {
            return Ok(());
        }
        let local: BTreeSet<_> = self.kernel.all_addresses()?.into_iter().map(|view| view.ip).collect();
        let leads_to = |flow: &Flow, opening: &Opening| {
            let at = flow.destination.ip();
            let here = opening.address.map_or(at.is_ipv4() == opening.pod.is_ipv4(), |address| address == at);
            here && flow.destination.port() == opening.port
        };
        Conntrack::open()?.forget(|flow| {
            flow.protocol == Protocol::Udp.number()
                && local.contains(&flow.destination.ip())
                && udp.iter().any(|opening| leads_to(flow, opening))
        })?;
        Ok(())
    }

    /// All at once, as they should all be there; where one is not, those that are.
    fn take_back(&mut self, elements: &[(Set, BTreeSet<Element>)]) -> Result<()> {
        let all = elements.iter().map(|(set, elements)| change(set, elements.iter().copied(), []));
        if self.nft.apply_elements(&all.collect::<Vec<_>>()).is_ok() {
            return Ok(());
        }
        let mut there = Vec::new();
        for (set, elements) in elements {
            let keys: BTreeSet<_> = elements.iter().map(|element| element.key).collect();
            let found = self.nft.elements(set)?;
            there.push(change(set, found.into_iter().filter(|element| keys.contains(&element.key)), []));
        }
        Ok(self.nft.apply_elements(&there)?)
    }
}

fn change(
    set: &Set,
    delete: impl IntoIterator<Item = Element>,
    add: impl IntoIterator<Item = Element>,
) -> Change {
    Change { set: set.clone(), delete: delete.into_iter().collect(), add: add.into_iter().collect() }
}

fn pod_link<'a>(record: &Record, netns: BorrowedFd<'a>, routed: bool) -> PodLink<'a> {
    let addresses: Vec<_> = record.ips().collect();
    let mut gateways: Vec<_> = addresses.iter().map(gateway).collect();
    gateways.dedup();
    PodLink {
        host_name: record.host_interface.clone(),
        container_name: record.interface.clone(),
        netns,
        addresses,
        gateways,
        mtu: record.mtu,
        host_mac: HOST_MAC,
        container_mac: mac(record),
        routed,
    }
}

fn gateway(pod: &IpAddr) -> IpAddr {
    match pod {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

/// The hardware address of the pod's end: a function of container and interface, so that it is known before there is a link. Of
/// those that nobody assigns (its second bit says so); only the node's end of the same pair ever meets it.
fn mac(record: &Record) -> Mac {
    let [_, _, _, a, b, c, d, e] = rank::weight(&record.container_id, &record.interface).to_be_bytes();
    Mac([2, a, b, c, d, e])
}

/// The hardware address of the pod's end of its link, as text.
pub fn container_mac(record: &Record) -> String {
    mac(record).to_string()
}

/// The hardware address of the node's end of every pod link, as text.
pub fn host_mac() -> String {
    HOST_MAC.to_string()
}
