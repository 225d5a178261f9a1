//! Addresses out of a dump.
#![allow(clippy::wildcard_enum_match_arm, reason = "netlink has many kinds of everything, we read a few")]

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use super::{Address, AddressView};
use crate::{Kernel, Result, links::Names, own};

impl Kernel {
    /// Our addresses on all devices.
    pub fn addresses(&mut self) -> Result<BTreeSet<Address>> {
        let names = self.names()?;
        self.addresses_by(&names)
    }

    /// All addresses of this namespace, those of others included.
    pub fn all_addresses(&mut self) -> Result<Vec<AddressView>> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let found = self.route.dump("list addresses", &question)?;
        Ok(found.iter().filter_map(view).collect())
    }

    pub(super) fn addresses_by(&mut self, names: &Names) -> Result<BTreeSet<Address>> {
        let ours = self.all_addresses()?.into_iter().filter(|view| view.ours);
        Ok(ours
            .filter_map(|view| {
                let address = IpNet::new(view.ip, view.prefix_len).ok()?;
                Some(Address { dev: names.name(view.index), address })
            })
            .collect())
    }
}

fn view(message: &RouteNetlinkMessage) -> Option<AddressView> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut local, mut remote, mut ours): (Option<IpAddr>, Option<IpAddr>, bool) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => remote = Some(*ip),
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == own::PROTOCOL,
            _ => {}
        }
    }
    // IPv4 gives both (they differ on point-to-point devices), IPv6 only the second.
    let ip = local.or(remote)?;
    Some(AddressView { index: message.header.index, ip, prefix_len: message.header.prefix_len, ours })
}
