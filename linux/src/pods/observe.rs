//! What is in a pod's namespace.
#![allow(clippy::wildcard_enum_match_arm, reason = "netlink has many kinds of everything, we read a few")]

use std::os::fd::BorrowedFd;

use ipnet::IpNet;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage};

use super::PodView;
use crate::{Kernel, Link, Result, Route, RouteKind, netns, routes};

impl Kernel {
    /// The device `name` in a pod's namespace with all that hangs on it, or nothing if it is not there.
    pub fn observe_pod(&mut self, netns: BorrowedFd<'_>, name: &str) -> Result<Option<PodView>> {
        let mut inside = netns::within(netns, Kernel::open)??;
        let Some(link) = inside.link(name)? else { return Ok(None) };
        let names = inside.names()?;
        let addresses = inside.addresses_on(&link)?;
        let routes = inside.routes_on(&link)?;
        let neighbours = inside
            .neighbours_by(&names)?
            .into_iter()
            .filter(|neighbour| neighbour.dev == link.name)
            .collect();
        Ok(Some(PodView { link, addresses, routes, neighbours }))
    }

    fn addresses_on(&mut self, link: &Link) -> Result<Vec<IpNet>> {
        let found = self.all_addresses()?.into_iter().filter(|view| view.index == link.index);
        Ok(found.filter_map(|view| IpNet::new(view.ip, view.prefix_len).ok()).collect())
    }

    fn routes_on(&mut self, link: &Link) -> Result<Vec<Route>> {
        let names = self.names()?;
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let dump = self.route.dump("list the pod's routes", &RouteNetlinkMessage::GetRoute(question))?;
            found.extend(dump.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(message) => routes::route(message, &names),
                _ => None,
            }));
        }
        found.retain(|route| {
            route.kind == RouteKind::Unicast
                && route.table == routes::MAIN_TABLE
                && route.dev.as_ref() == Some(&link.name)
        });
        Ok(found)
    }
}
