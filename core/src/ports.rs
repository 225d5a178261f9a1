//! Host ports: ports of a node that lead to ports of its pods.
//!
//! A port is open on one address of the node or on all of them. Two pods of a node never share one: who came first keeps
//! it, [`conflict`] tells the second one before anything is made for it. [`openings`] says what is to be opened for a pod,
//! one opening per family.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of this number, where it has ports.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The node's address it is open on; `None`, 0.0.0.0 and :: are all of them.
    pub address: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

impl HostPort {
    /// The one address it is open on.
    fn only(&self) -> Option<IpAddr> {
        self.address.filter(|address| !address.is_unspecified())
    }

    /// As Kubernetes' scheduler sees it: a port on all addresses meets every other of its number, whatever the families.
    fn meets(&self, other: &Self) -> bool {
        let same = (self.protocol, self.port) == (other.protocol, other.port);
        same && self.only().is_none_or(|one| other.only().is_none_or(|two| one == two))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host port {}/{}", self.port, self.protocol)?;
        self.only().map_or(Ok(()), |address| write!(f, " on {address}"))
    }
}

/// A host port and the pod's port that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// The node's port.
    pub host: HostPort,
    /// The pod's port.
    pub pod_port: u16,
}

/// A host port that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// What was asked for.
    pub wanted: HostPort,
    /// What is in the way.
    pub taken: HostPort,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, taken } = self;
        write!(f, "{wanted} meets {taken}, which another pod of this node has")
    }
}

/// The first of the wanted ports that one of the existing ones is in the way of. Ports of one pod may meet each other:
/// which of them leads where is the pod's own affair, and [`openings`] settles it.
pub fn conflict<'a>(
    existing: impl IntoIterator<Item = &'a HostPort>,
    wanted: impl IntoIterator<Item = &'a HostPort>,
) -> Option<Conflict> {
    let existing: Vec<_> = existing.into_iter().collect();
    wanted.into_iter().find_map(|wanted| {
        let taken = existing.iter().find(|taken| taken.meets(wanted))?;
        Some(Conflict { wanted: *wanted, taken: **taken })
    })
}

/// A port that is open on the node: what arrives there goes on to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Opening {
    /// The node's address it is open on; `None` is all of the pod address's family.
    pub address: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The node's port.
    pub port: u16,
    /// The pod's address.
    pub pod: IpAddr,
    /// The pod's port.
    pub pod_port: u16,
}

/// What is to be opened for a pod with these addresses. A port on one address of the node leads to the pod's address of
/// the same family, if it has one. Of two mappings of one port the first counts.
pub fn openings(mappings: &[Mapping], pods: &[IpAddr]) -> BTreeSet<Opening> {
    let mut seen = BTreeSet::new();
    let of = |mapping: &Mapping| {
        let Mapping { host, pod_port } = *mapping;
        let fits = move |pod: &&IpAddr| host.address.is_none_or(|at| at.is_ipv4() == pod.is_ipv4());
        let opening = move |pod: &IpAddr| Opening {
            address: host.only(),
            protocol: host.protocol,
            port: host.port,
            pod: *pod,
            pod_port,
        };
        pods.iter().filter(fits).map(opening).collect::<Vec<_>>()
    };
    let all = mappings.iter().flat_map(of);
    all.filter(|one| seen.insert((one.address, one.protocol, one.port, one.pod))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: &str, port: u16) -> HostPort {
        HostPort { address: address.parse().ok(), protocol: Protocol::Tcp, port }
    }

    #[test]
    fn the_same_port_is_refused_to_the_second_pod_unless_the_addresses_differ() {
        for (one, other, meet) in [
            (port("", 80), port("", 80), true),
            (port("", 80), port("", 81), false),
            (port("10.0.0.1", 80), port("10.0.0.2", 80), false),
            (port("10.0.0.1", 80), port("10.0.0.1", 80), true),
            (port("10.0.0.1", 80), port("", 80), true),
            (port("0.0.0.0", 80), port("10.0.0.1", 80), true),
            (port("10.0.0.1", 80), port("2001:db8::1", 80), false),
            (port("::", 80), port("10.0.0.1", 80), true),
            (port("", 80), HostPort { protocol: Protocol::Udp, ..port("", 80) }, false),
        ] {
            assert_eq!(conflict([&one], [&other]).is_some(), meet, "{one} {other}");
            assert_eq!(conflict([&other], [&one]).is_some(), meet, "{other} {one}");
        }
        let refused = conflict([&port("", 80)], [&port("", 79), &port("10.0.0.1", 80)]).unwrap();
        assert_eq!(
            refused.to_string(),
            "host port 80/tcp on 10.0.0.1 meets host port 80/tcp, which another pod of this node has"
        );
    }

    #[test]
    fn a_port_is_opened_once_for_each_family_that_the_pod_and_the_nodes_address_have() {
        let pods: [IpAddr; 2] = ["10.20.0.5".parse().unwrap(), "fd20::5".parse().unwrap()];
        let to = |host: HostPort| Mapping { host, pod_port: 8080 };
        let families = |host: HostPort, pods: &[IpAddr]| -> Vec<_> {
            openings(&[to(host)], pods).into_iter().map(|one| (one.address, one.pod)).collect()
        };
        assert_eq!(families(port("", 80), &pods), [(None, pods[0]), (None, pods[1])]);
        assert_eq!(families(port("0.0.0.0", 80), &pods), [(None, pods[0])]);
        assert_eq!(families(port("::", 80), &pods), [(None, pods[1])]);
        let at = "10.0.0.1".parse().unwrap();
        assert_eq!(families(port("10.0.0.1", 80), &pods), [(Some(at), pods[0])]);
        assert!(families(port("10.0.0.1", 80), &pods[1..]).is_empty());
    }

    #[test]
    fn of_two_mappings_of_one_port_the_first_counts() {
        let pod: IpAddr = "10.20.0.5".parse().unwrap();
        let to = |pod_port| Mapping { host: port("", 80), pod_port };
        let open: Vec<_> = openings(&[to(8080), to(9090)], &[pod]).into_iter().collect();
        assert_eq!(open.iter().map(|one| one.pod_port).collect::<Vec<_>>(), [8080]);
    }
}
