//! The VXLAN device: made, compared, changed where the kernel can, made anew where it cannot.

use std::net::IpAddr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use super::{Ensured, Link, Vxlan};
use crate::{
    Error, Kernel, Result,
    netlink::{NLM_F_CREATE, NLM_F_EXCL, Request},
    own,
};

impl Kernel {
    /// Makes the VXLAN device as desired and sets it up. A device of this name that is no VXLAN device
    /// is not ours and is left alone; so is every VXLAN device of another name, whatever its VNI.
    pub fn ensure_vxlan(&mut self, desired: &Vxlan) -> Result<Ensured> {
        if !own::is_our_device_name(&desired.name) {
            let reason = format!("the name does not begin with {}", own::DEVICE_PREFIX);
            return Err(Error::NotOurs { name: desired.name.clone(), reason });
        }
        let Some(found) = self.link(&desired.name)? else {
            self.create(desired)?;
            return Ok(Ensured::Created);
        };
        let Some(view) = &found.vxlan else {
            let reason =
                format!("a device of kind {:?} has the name", found.kind.as_deref().unwrap_or("none"));
            return Err(Error::NotOurs { name: found.name, reason });
        };
        let same = view.vni == desired.vni
            && view.port == desired.port
            && view.local == Some(desired.local)
            && view.gbp == desired.gbp
            && !view.learning;
        if !same {
            self.route.execute(delete(&found))?;
            self.create(desired)?;
            return Ok(Ensured::Recreated);
        }
        self.adjust(&found, desired)
    }

    /// Sets the node's end of a pod's link up, where somebody set it down.
    pub fn set_pod_link_up(&mut self, link: &Link) -> Result<()> {
        if !link.name.starts_with(own::POD_LINK_PREFIX) {
            let reason = format!("the name does not begin with {}", own::POD_LINK_PREFIX);
            return Err(Error::NotOurs { name: link.name.clone(), reason });
        }
        self.route.execute(up(link.index, &link.name))
    }

    /// Deletes a device of ours by name. Returns whether it existed.
    pub fn delete_own_link(&mut self, name: &str) -> Result<bool> {
        if !own::is_our_device_name(name) {
            let reason = "the name is not one we give".to_owned();
            return Err(Error::NotOurs { name: name.to_owned(), reason });
        }
        let Some(found) = self.link(name)? else { return Ok(false) };
        self.route.execute(delete(&found))?;
        Ok(true)
    }

    fn create(&mut self, desired: &Vxlan) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(desired.name.clone()),
            LinkAttribute::Mtu(desired.mtu),
            LinkAttribute::Address(desired.mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(attributes(desired))),
            ]),
        ];
        let Vxlan { name, vni, port, .. } = desired;
        self.route.execute(Request {
            what: format!("create VXLAN device {name} (VNI {vni}, UDP port {port})"),
            flags: NLM_F_CREATE | NLM_F_EXCL,
            message: RouteNetlinkMessage::NewLink(message),
        })
    }

    fn adjust(&mut self, found: &Link, desired: &Vxlan) -> Result<Ensured> {
        let mut message = LinkMessage::default();
        message.header.index = found.index;
        if found.mtu != desired.mtu {
            message.attributes.push(LinkAttribute::Mtu(desired.mtu));
        }
        if found.mac != Some(desired.mac) {
            message.attributes.push(LinkAttribute::Address(desired.mac.0.to_vec()));
        }
        if !found.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        if found.up && message.attributes.is_empty() {
            return Ok(Ensured::Unchanged);
        }
        let what = format!("change device {}", found.name);
        self.route.execute(Request { what, flags: 0, message: RouteNetlinkMessage::SetLink(message) })?;
        Ok(Ensured::Changed)
    }
}

fn attributes(desired: &Vxlan) -> Vec<InfoVxlan> {
    let mut attributes = vec![
        InfoVxlan::Id(desired.vni),
        InfoVxlan::Port(desired.port),
        InfoVxlan::Learning(false),
        match desired.local {
            IpAddr::V4(ip) => InfoVxlan::Local(ip),
            IpAddr::V6(ip) => InfoVxlan::Local6(ip),
        },
    ];
    if desired.gbp {
        attributes.push(InfoVxlan::Gbp);
    }
    attributes
}

/// The request that deletes a device.
pub(crate) fn delete(found: &Link) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = found.index;
    let what = format!("delete device {}", found.name);
    Request { what, flags: 0, message: RouteNetlinkMessage::DelLink(message) }
}

/// The request that sets a device up.
pub(crate) fn up(index: u32, name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request {
        what: format!("set up device {name}"),
        flags: 0,
        message: RouteNetlinkMessage::SetLink(message),
    }
}
