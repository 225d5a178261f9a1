//! Our routes out of a dump that the kernel filters by protocol.
#![allow(clippy::wildcard_enum_match_arm, reason = "netlink has many kinds of everything, we read a few")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteType},
};

use super::{Route, RouteKind};
use crate::{Kernel, Result, links::Names, own};

impl Kernel {
    /// Our routes in all tables.
    pub fn routes(&mut self) -> Result<BTreeSet<Route>> {
        let names = self.names()?;
        self.routes_by(&names)
    }

    pub(super) fn routes_by(&mut self, names: &Names) -> Result<BTreeSet<Route>> {
        let mut routes = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            question.header.protocol = RouteProtocol::from(own::PROTOCOL);
            let found = self.route.dump("list our routes", &RouteNetlinkMessage::GetRoute(question))?;
            routes.extend(found.into_iter().filter_map(|message| match message {
                // Without a strict kernel the filter is not applied; so it is applied here again.
                RouteNetlinkMessage::NewRoute(message) if is_ours(&message) => route(&message, names),
                _ => None,
            }));
        }
        Ok(routes)
    }
}

fn is_ours(message: &RouteMessage) -> bool {
    u8::from(message.header.protocol) == own::PROTOCOL && !message.header.flags.contains(RouteFlags::Cloned)
}

/// Routes with several next hops are never made by us; they read as ones without a next hop and are
/// therefore replaced or deleted.
pub(crate) fn route(message: &RouteMessage, names: &Names) -> Option<Route> {
    let header = &message.header;
    let kind = kind(header.kind)?;
    let mut route = Route::bare(IpNet::new(unspecified(header.address_family)?, 0).ok()?, kind);
    let mut network = unspecified(header.address_family)?;
    route.table = u32::from(header.table);
    route.onlink = header.flags.contains(RouteFlags::Onlink);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => network = address(to)?,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Gateway(via) => route.via = address(via),
            RouteAttribute::Oif(index) => route.dev = Some(names.name(*index)),
            RouteAttribute::PrefSource(source) => route.source = address(source),
            RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
            _ => {}
        }
    }
    route.prefix = IpNet::new(network, header.destination_prefix_length).ok()?;
    // IPv6 routes that drop are bound to the loopback device by the kernel.
    if kind != RouteKind::Unicast {
        route.dev = None;
    }
    Some(route)
}

fn kind(kind: RouteType) -> Option<RouteKind> {
    match kind {
        RouteType::Unicast => Some(RouteKind::Unicast),
        RouteType::Throw => Some(RouteKind::Throw),
        RouteType::BlackHole => Some(RouteKind::Blackhole),
        _ => None,
    }
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}
