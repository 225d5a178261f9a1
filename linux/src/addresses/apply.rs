//! Addresses into messages.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol},
};

use super::Address;
use crate::{Kernel, Plan, Report, Result, kernel::Messages, links::Names, own};

impl Kernel {
    pub(super) fn apply_addresses(&mut self, plan: &Plan<Address>, names: &Names) -> Result<Report> {
        let message = |one: &Address| Ok(new_address(names.index(&one.dev)?, one.address));
        let messages = Messages {
            kind: "address",
            new: &|one| message(one).map(RouteNetlinkMessage::NewAddress),
            delete: &|one| message(one).map(RouteNetlinkMessage::DelAddress),
        };
        self.apply(plan, &messages)
    }
}

pub(crate) fn new_address(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    let ip = address.addr();
    message.header.family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    if ip.is_ipv6() {
        // Our addresses are given out once: waiting a second to see whether anyone objects gains nothing.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![
        AddressAttribute::Local(ip),
        AddressAttribute::Address(ip),
        AddressAttribute::Protocol(AddressProtocol::from(own::PROTOCOL)),
    ];
    message
}
