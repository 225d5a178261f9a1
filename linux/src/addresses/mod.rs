//! Addresses of ours (`IFA_PROTO` 107) on any device.

mod apply;
mod observe;

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
    net::IpAddr,
};

use ipnet::IpNet;

pub(crate) use apply::new_address;

use crate::{Kernel, Plan, Report, Result};

/// An address on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The device's name.
    pub dev: String,
    /// The address with its prefix length, host bits kept.
    pub address: IpNet,
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.address, self.dev)
    }
}

/// Any address of this namespace, ours or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressView {
    /// The device's number.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// With its prefix length.
    pub prefix_len: u8,
    /// It carries our protocol number.
    pub ours: bool,
}

impl Kernel {
    /// Makes the set of our addresses exactly `desired`. Addresses of others stay.
    pub fn converge_addresses(&mut self, desired: &BTreeSet<Address>) -> Result<Report> {
        let names = self.names()?;
        let observed = self.addresses_by(&names)?;
        let plan = Plan::between(desired, &observed, Clone::clone);
        self.apply_addresses(&plan, &names)
    }
}
