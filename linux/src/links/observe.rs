//! Devices out of a dump.
#![allow(clippy::wildcard_enum_match_arm, reason = "netlink has many kinds of everything, we read a few")]

use std::{collections::HashMap, net::IpAddr};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage},
};

use super::{Link, Mac, VxlanView};
use crate::{Error, Kernel, Result};

impl Kernel {
    /// All devices of this namespace.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let found = self.route.dump("list devices", &RouteNetlinkMessage::GetLink(question()))?;
        Ok(found.into_iter().filter_map(link).collect())
    }

    /// The device of this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = question();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let what = format!("look up device {name}");
        Ok(self.route.ask(&what, RouteNetlinkMessage::GetLink(message))?.and_then(link))
    }

    /// The device that carries this address: the uplink, if asked for the node's own.
    pub fn link_with_address(&mut self, address: IpAddr) -> Result<Option<Link>> {
        let index =
            self.all_addresses()?.into_iter().find(|found| found.ip == address).map(|found| found.index);
        Ok(self.links()?.into_iter().find(|link| Some(link.index) == index))
    }

    pub(crate) fn names(&mut self) -> Result<Names> {
        let links = self.links()?;
        let by_name = links.iter().map(|link| (link.name.clone(), link.index)).collect();
        Ok(Names { by_name, by_index: links.into_iter().map(|link| (link.index, link.name)).collect() })
    }
}

/// Names and numbers of the devices at one moment.
pub(crate) struct Names {
    by_name: HashMap<String, u32>,
    by_index: HashMap<u32, String>,
}

impl Names {
    pub fn index(&self, name: &str) -> Result<u32> {
        self.by_name.get(name).copied().ok_or_else(|| Error::NoSuchDevice { name: name.to_owned() })
    }

    /// A device that went meanwhile took its objects along; its number serves for a name.
    pub fn name(&self, index: u32) -> String {
        self.by_index.get(&index).cloned().unwrap_or_else(|| format!("if{index}"))
    }
}

fn question() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: None,
        peer_netns: None,
        vxlan: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
            LinkAttribute::LinkInfo(infos) => read_infos(&mut link, infos),
            _ => {}
        }
    }
    Some(link)
}

fn read_infos(link: &mut Link, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
            LinkInfo::Data(InfoData::Vxlan(attributes)) => link.vxlan = Some(vxlan(&attributes)),
            _ => {}
        }
    }
}

fn vxlan(attributes: &[InfoVxlan]) -> VxlanView {
    let mut view = VxlanView::default();
    for attribute in attributes {
        match attribute {
            InfoVxlan::Id(vni) => view.vni = *vni,
            InfoVxlan::Port(port) => view.port = *port,
            InfoVxlan::Local(ip) => view.local = Some(IpAddr::V4(*ip)),
            InfoVxlan::Local6(ip) => view.local = Some(IpAddr::V6(*ip)),
            InfoVxlan::Gbp => view.gbp = true,
            InfoVxlan::Learning(on) => view.learning = *on,
            _ => {}
        }
    }
    view
}
