//! Who is where: permanent neighbour entries of ours, and the forwarding entries of our VXLAN device.

mod apply;
mod observe;

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
    net::IpAddr,
};

pub(crate) use apply::new_neighbour;

use crate::{Error, Kernel, Mac, Plan, Report, Result, own};

/// A permanent neighbour entry: this address answers to this hardware address, nobody is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// The device's name.
    pub dev: String,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

impl Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lladdr {} dev {}", self.ip, self.mac, self.dev)
    }
}

/// A forwarding entry of a VXLAN device: frames to this hardware address go to this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fdb {
    /// The VXLAN device's name; must be one of ours.
    pub dev: String,
    /// The inner destination.
    pub mac: Mac,
    /// The outer destination.
    pub dst: IpAddr,
}

impl Display for Fdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dst {} dev {}", self.mac, self.dst, self.dev)
    }
}

impl Kernel {
    /// Makes the set of our neighbour entries, on all devices but pods' links, exactly `desired`. Those on a pod's link
    /// are made with it and go with it.
    pub fn converge_neighbours(&mut self, desired: &BTreeSet<Neighbour>) -> Result<Report> {
        let names = self.names()?;
        let mut observed = self.neighbours_by(&names)?;
        observed.retain(|one| !one.dev.starts_with(own::POD_LINK_PREFIX));
        let plan = Plan::between(desired, &observed, |one| (one.dev.clone(), one.ip));
        self.apply_neighbours(&plan, &names)
    }

    /// Makes the forwarding entries of our VXLAN device `dev` exactly `desired`.
    pub fn converge_fdb(&mut self, dev: &str, desired: &BTreeSet<Fdb>) -> Result<Report> {
        if !own::is_our_device_name(dev) || desired.iter().any(|one| one.dev != dev) {
            let reason = "forwarding entries are kept on our own VXLAN device only".to_owned();
            return Err(Error::NotOurs { name: dev.to_owned(), reason });
        }
        let names = self.names()?;
        let observed = self.fdb(dev)?;
        let plan = Plan::between(desired, &observed, |one| one.mac);
        self.apply_fdb(&plan, names.index(dev)?)
    }
}
