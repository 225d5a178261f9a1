//! Routes into messages.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::{Route, RouteKind};
use crate::{Kernel, Plan, Report, Result, kernel::Messages, links::Names, own};

impl Kernel {
    pub(super) fn apply_routes(&mut self, plan: &Plan<Route>, names: &Names) -> Result<Report> {
        let messages = Messages {
            kind: "route",
            new: &|route: &Route| {
                let index = route.dev.as_deref().map(|dev| names.index(dev)).transpose()?;
                Ok(RouteNetlinkMessage::NewRoute(new_route(route, index)))
            },
            delete: &|route| Ok(RouteNetlinkMessage::DelRoute(old_route(route))),
        };
        self.apply(plan, &messages)
    }
}

pub(crate) fn new_route(route: &Route, index: Option<u32>) -> RouteMessage {
    let mut message = head(route);
    message.header.scope = scope(route);
    if route.onlink {
        message.header.flags |= RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    attributes.extend(index.map(RouteAttribute::Oif));
    attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

/// Deletion goes by table, prefix, kind and our protocol: the next hop may have changed meanwhile, and
/// the kernel never takes a route of another protocol for this one.
fn old_route(route: &Route) -> RouteMessage {
    let mut message = head(route);
    message.header.scope = RouteScope::NoWhere;
    message
}

fn head(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match route.prefix.network() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.prefix.prefix_len();
    message.header.protocol = RouteProtocol::from(own::PROTOCOL);
    message.header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Throw => RouteType::Throw,
        RouteKind::Blackhole => RouteType::BlackHole,
    };
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(route.prefix.network())));
    message.attributes.push(RouteAttribute::Table(route.table));
    message
}

fn scope(route: &Route) -> RouteScope {
    let on_the_link =
        route.kind == RouteKind::Unicast && route.via.is_none() && route.prefix.network().is_ipv4();
    if on_the_link { RouteScope::Link } else { RouteScope::Universe }
}
