//! Routes of ours (protocol 107), in any table.

mod apply;
mod observe;

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
    net::IpAddr,
};

use ipnet::IpNet;

pub(crate) use apply::new_route;
pub(crate) use observe::route;

use crate::{Kernel, Plan, Report, Result};

/// The table that is looked at when no rule says otherwise.
pub const MAIN_TABLE: u32 = 254;

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Ends the lookup in this table; the next rule is asked.
    Throw,
    /// Drops it without a word.
    Blackhole,
}

/// One route. Its scope is not a choice: `link` for an IPv4 route without a gateway, `global` otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The table's number, 1 to 2^32-1; [`MAIN_TABLE`] is 254.
    pub table: u32,
    /// Destinations; host bits must be zero (they are cleared).
    pub prefix: IpNet,
    /// What happens to the packet.
    pub kind: RouteKind,
    /// The next hop, of the prefix's family.
    pub via: Option<IpAddr>,
    /// The device's name.
    pub dev: Option<String>,
    /// The next hop is on the device although no address of the device covers it.
    pub onlink: bool,
    /// The source address that the node's own connections get.
    pub source: Option<IpAddr>,
    /// Largest packet on this route (bytes).
    pub mtu: Option<u32>,
}

impl Route {
    /// A route for the node's neighbours on this device; main table.
    pub fn to_device(prefix: IpNet, dev: impl Into<String>) -> Self {
        Self { dev: Some(dev.into()), ..Self::bare(prefix, RouteKind::Unicast) }
    }

    /// A route through a next hop on this device; main table.
    pub fn through(prefix: IpNet, via: IpAddr, dev: impl Into<String>) -> Self {
        Self { via: Some(via), ..Self::to_device(prefix, dev) }
    }

    /// A route that ends the lookup in this table.
    #[must_use]
    pub fn throw(prefix: IpNet, table: u32) -> Self {
        Self { table, ..Self::bare(prefix, RouteKind::Throw) }
    }

    /// A route that drops; main table.
    #[must_use]
    pub fn blackhole(prefix: IpNet) -> Self {
        Self::bare(prefix, RouteKind::Blackhole)
    }

    /// The same route in another table.
    #[must_use]
    pub fn in_table(self, table: u32) -> Self {
        Self { table, ..self }
    }

    /// The same route, its next hop taken to be on the device.
    #[must_use]
    pub fn onlink(self) -> Self {
        Self { onlink: true, ..self }
    }

    fn bare(prefix: IpNet, kind: RouteKind) -> Self {
        let prefix = prefix.trunc();
        Self { table: MAIN_TABLE, prefix, kind, via: None, dev: None, onlink: false, source: None, mtu: None }
    }
}

impl Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Throw => write!(f, "throw ")?,
            RouteKind::Blackhole => write!(f, "blackhole ")?,
        }
        write!(f, "{}", self.prefix)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(dev) = &self.dev {
            write!(f, " dev {dev}")?;
        }
        if self.onlink {
            write!(f, " onlink")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if self.table != MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

impl Kernel {
    /// Makes the set of our routes, in all tables, exactly `desired`. A route that changes is replaced
    /// in place: there is no moment without it. Routes of others stay; where one of them has the same
    /// table and prefix, ours is not added and the report says so.
    pub fn converge_routes(&mut self, desired: &BTreeSet<Route>) -> Result<Report> {
        let names = self.names()?;
        let observed = self.routes_by(&names)?;
        let desired =
            desired.iter().map(|route| Route { prefix: route.prefix.trunc(), ..route.clone() }).collect();
        let plan = Plan::between(&desired, &observed, |route| (route.table, route.prefix));
        self.apply_routes(&plan, &names)
    }
}
