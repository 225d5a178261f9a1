//! Neighbour and forwarding entries out of dumps.
#![allow(clippy::wildcard_enum_match_arm, reason = "netlink has many kinds of everything, we read a few")]

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{Fdb, Neighbour};
use crate::{Error, Kernel, Mac, Result, links::Names, own};

/// What an entry of either kind says.
#[derive(Default)]
struct Entry {
    ip: Option<IpAddr>,
    mac: Option<Mac>,
    ours: bool,
}

impl Kernel {
    /// Our permanent neighbour entries on all devices.
    pub fn neighbours(&mut self) -> Result<BTreeSet<Neighbour>> {
        let names = self.names()?;
        self.neighbours_by(&names)
    }

    pub(crate) fn neighbours_by(&mut self, names: &Names) -> Result<BTreeSet<Neighbour>> {
        let mut found = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = NeighbourMessage::default();
            question.header.family = family;
            let dump = self.route.dump("list neighbours", &RouteNetlinkMessage::GetNeighbour(question))?;
            found.extend(permanent(dump).filter_map(|message| {
                let Entry { ip, mac, ours } = entry(&message.attributes);
                let dev = names.name(message.header.ifindex);
                ours.then_some(Neighbour { dev, ip: ip?, mac: mac? })
            }));
        }
        Ok(found)
    }

    /// The permanent forwarding entries of one VXLAN device.
    pub fn fdb(&mut self, dev: &str) -> Result<BTreeSet<Fdb>> {
        let link = self.link(dev)?.ok_or_else(|| Error::NoSuchDevice { name: dev.to_owned() })?;
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        question.header.ifindex = link.index;
        let what = format!("list forwarding entries of {dev}");
        let dump = self.route.dump(&what, &RouteNetlinkMessage::GetNeighbour(question))?;
        let entries = permanent(dump).filter(|message| message.header.ifindex == link.index);
        Ok(entries
            .filter_map(|message| {
                let Entry { ip, mac, .. } = entry(&message.attributes);
                Some(Fdb { dev: dev.to_owned(), mac: mac?, dst: ip? })
            })
            .collect())
    }
}

fn permanent(dump: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = NeighbourMessage> {
    dump.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewNeighbour(message) if message.header.state == NeighbourState::Permanent => {
            Some(message)
        }
        _ => None,
    })
}

fn entry(attributes: &[NeighbourAttribute]) -> Entry {
    let mut entry = Entry::default();
    for attribute in attributes {
        match attribute {
            NeighbourAttribute::Destination(address) => entry.ip = destination(address),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                entry.mac = bytes.as_slice().try_into().ok().map(Mac)
            }
            NeighbourAttribute::Protocol(protocol) => entry.ours = u8::from(*protocol) == own::PROTOCOL,
            _ => {}
        }
    }
    entry
}

/// Forwarding entries have the family `bridge`, and so the length tells the family of their destination.
fn destination(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        NeighbourAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}
