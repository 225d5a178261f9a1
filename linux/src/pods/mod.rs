//! A pod's link: a veth pair with one end in the pod's namespace, its addresses, routes and gateway.
//!
//! The pod's end holds the address with full length, so the pod has no neighbours but the gateway; the
//! gateway is a link-local address that nobody holds, whose hardware address is written down in a
//! permanent entry. Neither proxy ARP nor any setting of the node's end is needed.
//!
//! In the other direction the node asks for a pod's IPv4 address by ARP. For its IPv6 address the node has a permanent
//! entry: the node's end could not ask before its own link-local address has passed duplicate address detection, which
//! takes a second or two. The entry belongs to the link and goes with it; where somebody deletes it, the node asks.

mod check;
mod observe;
mod unwire;
mod wire;

use std::{net::IpAddr, os::fd::BorrowedFd};

use ipnet::IpNet;

use crate::{Error, Link, Mac, Neighbour, Result, Route, own};

/// A pod's link, as desired.
#[derive(Debug, Clone)]
pub struct PodLink<'a> {
    /// Name of the node's end; must begin with `ptl`, at most 15 bytes.
    pub host_name: String,
    /// Name of the pod's end, e.g. `eth0`.
    pub container_name: String,
    /// The pod's network namespace.
    pub netns: BorrowedFd<'a>,
    /// The pod's addresses, each used with its full length (/32, /128).
    pub addresses: Vec<IpAddr>,
    /// One gateway per family of `addresses`, e.g. 169.254.1.1.
    pub gateways: Vec<IpAddr>,
    /// Largest packet (bytes), on both ends.
    pub mtu: u32,
    /// Hardware address of the node's end, which the pod's gateway entry names.
    pub host_mac: Mac,
    /// Hardware address of the pod's end, which the node's IPv6 entries name.
    pub container_mac: Mac,
    /// Whether the node's routes to the addresses lead here already. They do not while another node still has the pod:
    /// they follow with a pass over all routes ([`crate::Kernel::converge_routes`]), and until then the pod is not heard.
    pub routed: bool,
}

impl PodLink<'_> {
    /// The node's routes to the pod, as desired now.
    fn host_routes(&self) -> Vec<Route> {
        let addresses = self.addresses.iter().filter(|_| self.routed);
        addresses.map(|ip| Route::to_device(alone(*ip), &self.host_name)).collect()
    }

    /// The node's entries for the pod.
    fn host_neighbours(&self) -> Vec<Neighbour> {
        let (dev, mac) = (&self.host_name, self.container_mac);
        let addresses = self.addresses.iter().filter(|ip| ip.is_ipv6());
        addresses.map(|ip| Neighbour { dev: dev.clone(), ip: *ip, mac }).collect()
    }
}

/// What is in a pod's namespace, ours or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// The pod's end.
    pub link: Link,
    /// Its addresses (link-local ones of IPv6 included).
    pub addresses: Vec<IpNet>,
    /// Unicast routes through it, in the main table.
    pub routes: Vec<Route>,
    /// Its permanent neighbours.
    pub neighbours: Vec<Neighbour>,
}

/// An address with its full length.
pub(crate) fn alone(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// All destinations, in the family of `like`.
pub(crate) fn everything(like: IpAddr) -> IpNet {
    let length_zero = IpNet::new(like, 0).map(|net| net.trunc());
    length_zero.unwrap_or_else(|_| IpNet::from(like))
}

fn refuse_foreign_name(host_name: &str) -> Result<()> {
    if host_name.starts_with(own::POD_LINK_PREFIX) {
        return Ok(());
    }
    let reason = format!("the node's end of a pod's link begins with {}", own::POD_LINK_PREFIX);
    Err(Error::NotOurs { name: host_name.to_owned(), reason })
}
