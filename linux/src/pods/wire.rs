//! Makes a pod's link.
#![allow(clippy::wildcard_enum_match_arm, reason = "netlink has many kinds of everything, we read a few")]

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::{PodLink, alone, everything, refuse_foreign_name};
use crate::{
    Error, Kernel, Result, Route,
    addresses::new_address,
    links::up,
    neighbours::new_neighbour,
    netlink::{Connection, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request},
    netns,
    routes::new_route,
};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

impl Kernel {
    /// Makes a pod's link and its routes on both ends; the node's end goes up last, so no packet flows
    /// before the rest is in place. Whatever fails, nothing of it stays. Refuses the node's own
    /// namespace and one that has a device of this name already.
    pub fn wire_pod(&mut self, pod: &PodLink<'_>) -> Result<()> {
        self.refuse_what_is_not_a_pod(pod)?;
        let mut inside = netns::visit(pod.netns, || Connection::brief(NETLINK_ROUTE))??;
        let made = match self.route.create(pair(pod)) {
            Err(error) if error.errno() == Some(Errno::EEXIST) => return Err(self.who_exists(pod)?),
            other => other?,
        };
        self.connect(pod, &mut inside, made.and_then(numbers)).inspect_err(|_| {
            // The pair goes as a whole, with the addresses and routes on both ends.
            if let Err(error) = self.unwire_pod(&pod.host_name) {
                tracing::warn!(%error, link = pod.host_name, "a pod's link could not be taken back");
            }
        })
    }

    /// `numbers` of both ends, where the kernel told them.
    fn connect(
        &mut self,
        pod: &PodLink<'_>,
        inside: &mut Connection,
        numbers: Option<(u32, u32)>,
    ) -> Result<()> {
        let (host, container) = match numbers {
            Some(numbers) => numbers,
            None => (self.host_end(pod)?, container_end(pod, inside)?),
        };
        for outcome in inside.batch(&pod_side(pod, container))? {
            outcome?;
        }
        self.node_side(pod, host)
    }

    /// The number of the node's end.
    fn host_end(&mut self, pod: &PodLink<'_>) -> Result<u32> {
        let found = self.link(&pod.host_name)?;
        Ok(found.ok_or_else(|| Error::NoSuchDevice { name: pod.host_name.clone() })?.index)
    }

    /// The kernel refuses routes through a device that is down, so the routes follow in the same batch.
    fn node_side(&mut self, pod: &PodLink<'_>, index: u32) -> Result<()> {
        let routes = pod.host_routes();
        let mut requests = vec![up(index, &pod.host_name)];
        requests.extend(pod.host_neighbours().into_iter().map(|entry| Request {
            what: format!("add neighbour {entry}"),
            flags: NEW,
            message: RouteNetlinkMessage::NewNeighbour(new_neighbour(index, entry.ip, entry.mac)),
        }));
        let first_route = requests.len();
        requests.extend(routes.iter().map(|to_pod| route(to_pod, index)));
        let mut outcomes = self.route.batch(&requests)?;
        let of_routes = outcomes.split_off(first_route.min(outcomes.len()));
        outcomes.into_iter().collect::<Result<()>>()?;
        for (to_pod, outcome) in routes.iter().zip(of_routes) {
            match outcome {
                Err(error) if error.errno() == Some(Errno::EEXIST) => self.take_over(to_pod, index, error)?,
                other => other?,
            }
        }
        Ok(())
    }

    /// An address that another node had until now may still be routed there: that route is ours, and becomes this one.
    fn take_over(&mut self, to_pod: &Route, index: u32, error: Error) -> Result<()> {
        let same = |other: &Route| (other.table, other.prefix) == (to_pod.table, to_pod.prefix);
        if !self.routes()?.iter().any(same) {
            return Err(error);
        }
        self.route.execute(Request { flags: NLM_F_CREATE | NLM_F_REPLACE, ..route(to_pod, index) })
    }

    fn refuse_what_is_not_a_pod(&self, pod: &PodLink<'_>) -> Result<()> {
        refuse_foreign_name(&pod.host_name)?;
        if netns::is_same(pod.netns, self.netns.as_fd())? {
            return Err(Error::OwnNamespace);
        }
        Ok(())
    }

    fn who_exists(&mut self, pod: &PodLink<'_>) -> Result<Error> {
        Ok(match self.link(&pod.host_name)? {
            Some(found) => Error::AlreadyExists { name: found.name, place: "the node's network namespace" },
            None => Error::AlreadyExists {
                name: pod.container_name.clone(),
                place: "the pod's network namespace",
            },
        })
    }
}

/// Both ends at once, the pod's end directly in the pod's namespace. With one queue: by default the kernel
/// makes as many as there are processors, each with its entry in sysfs (over a quarter of the whole time on two
/// processors), and without XDP a veth pair uses none but the first.
fn pair(pod: &PodLink<'_>) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(pod.container_name.clone()),
        LinkAttribute::Mtu(pod.mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::Address(pod.container_mac.0.to_vec()),
        LinkAttribute::NetNsFd(pod.netns.as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(pod.host_name.clone()),
        LinkAttribute::Mtu(pod.mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::Address(pod.host_mac.0.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let what = format!("create veth {} with {} in the pod", pod.host_name, pod.container_name);
    Request { what, flags: NEW, message: RouteNetlinkMessage::NewLink(message) }
}

/// The numbers of the node's end and of the pod's, which is its peer, as the new link says.
fn numbers(made: RouteNetlinkMessage) -> Option<(u32, u32)> {
    let RouteNetlinkMessage::NewLink(link) = made else { return None };
    let peer = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    Some((link.header.index, peer?))
}

/// The number of the pod's end.
fn container_end(pod: &PodLink<'_>, inside: &mut Connection) -> Result<u32> {
    let what = format!("look up {} in the pod", pod.container_name);
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfName(pod.container_name.clone()));
    match inside.ask(&what, RouteNetlinkMessage::GetLink(question))? {
        Some(RouteNetlinkMessage::NewLink(found)) => Ok(found.header.index),
        _ => Err(Error::NoSuchDevice { name: pod.container_name.clone() }),
    }
}

fn pod_side(pod: &PodLink<'_>, index: u32) -> Vec<Request> {
    let dev = &pod.container_name;
    let mut requests: Vec<Request> = pod
        .addresses
        .iter()
        .map(|ip| Request {
            what: format!("add {ip} to {dev} in the pod"),
            flags: NEW,
            message: RouteNetlinkMessage::NewAddress(new_address(index, alone(*ip))),
        })
        .collect();
    requests.push(up(index, dev));
    for gateway in &pod.gateways {
        requests.push(Request {
            what: format!("add the gateway entry {gateway} in the pod"),
            flags: NEW,
            message: RouteNetlinkMessage::NewNeighbour(new_neighbour(index, *gateway, pod.host_mac)),
        });
        let to_gateway = Route::to_device(alone(*gateway), dev);
        requests.push(route(&to_gateway, index));
        requests.push(route(&Route::through(everything(*gateway), *gateway, dev), index));
    }
    requests
}

fn route(route: &Route, index: u32) -> Request {
    Request {
        what: format!("add route {route}"),
        flags: NEW,
        message: RouteNetlinkMessage::NewRoute(new_route(route, Some(index))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels before 6.2 do not say with a new link what its numbers are. Needs root.
    #[test]
    fn a_pod_is_wired_too_where_the_kernel_does_not_tell_the_numbers() {
        let (node, pod) = (netns::anonymous().unwrap(), netns::anonymous().unwrap());
        let mut kernel = netns::within(node.as_fd(), Kernel::open).unwrap().unwrap();
        let mut inside = netns::within(pod.as_fd(), || Connection::brief(NETLINK_ROUTE)).unwrap().unwrap();
        let link = PodLink {
            host_name: "ptl00000000001".into(),
            container_name: "eth0".into(),
            netns: pod.as_fd(),
            addresses: vec!["10.244.0.5".parse().unwrap()],
            gateways: vec!["169.254.1.1".parse().unwrap()],
            mtu: 1450,
            host_mac: crate::Mac([0xee; 6]),
            container_mac: crate::Mac([2, 0, 0, 0, 0, 5]),
            routed: true,
        };
        let told = kernel.route.create(pair(&link)).unwrap().and_then(numbers);
        let asked = (kernel.host_end(&link).unwrap(), container_end(&link, &mut inside).unwrap());
        assert!(told.is_none_or(|told| told == asked), "{told:?} is not {asked:?}");
        kernel.connect(&link, &mut inside, None).unwrap();
        assert_eq!(kernel.check_pod(&link).unwrap(), Vec::<String>::new());
    }
}
