//! Neighbour and forwarding entries into messages.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::RouteProtocol,
};

use super::{Fdb, Neighbour};
use crate::{Kernel, Mac, Plan, Report, Result, kernel::Messages, links::Names, own};

impl Kernel {
    pub(super) fn apply_neighbours(&mut self, plan: &Plan<Neighbour>, names: &Names) -> Result<Report> {
        let message = |one: &Neighbour| Ok(new_neighbour(names.index(&one.dev)?, one.ip, one.mac));
        let messages = Messages {
            kind: "neighbour",
            new: &|one| message(one).map(RouteNetlinkMessage::NewNeighbour),
            delete: &|one| message(one).map(RouteNetlinkMessage::DelNeighbour),
        };
        self.apply(plan, &messages)
    }

    pub(super) fn apply_fdb(&mut self, plan: &Plan<Fdb>, index: u32) -> Result<Report> {
        let messages = Messages {
            kind: "forwarding entry",
            new: &|one| Ok(RouteNetlinkMessage::NewNeighbour(new_fdb(index, one))),
            delete: &|one| Ok(RouteNetlinkMessage::DelNeighbour(new_fdb(index, one))),
        };
        self.apply(plan, &messages)
    }
}

pub(crate) fn new_neighbour(index: u32, ip: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(destination(ip)),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        NeighbourAttribute::Protocol(RouteProtocol::from(own::PROTOCOL)),
    ];
    message
}

fn new_fdb(index: u32, entry: &Fdb) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()),
        NeighbourAttribute::Destination(destination(entry.dst)),
    ];
    message
}

fn destination(ip: IpAddr) -> NeighbourAddress {
    match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }
}
