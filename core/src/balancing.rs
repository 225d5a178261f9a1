//! Virtual services: which addresses outside lead to which pods, and which pod gets the next connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
}

/// A pod that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The pod's own address.
    pub address: IpAddr,
    /// The container's port.
    pub port: u16,
}

/// One port of one Service, as the outside sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// `<cluster>--<namespace>-<service>`, as AKO names them; further ports append `-<port>`.
    pub name: String,
    /// The virtual address.
    pub vip: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The pods behind it. None: connections are refused.
    pub members: BTreeSet<Member>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where the Service has only one.
    pub name: String,
    /// The port clients connect to.
    pub port: u16,
}

/// An EndpointSlice, as far as it concerns one protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// Target ports by the name of the Service's port.
    pub ports: BTreeMap<String, u16>,
    /// Addresses of endpoints that are ready.
    pub ready: Vec<IpAddr>,
}

/// The virtual services of one Service: one for each TCP port. The slices say which pods are ready on which port, so pods
/// that serve one named port on different numbers are each reached on their own.
pub fn virtual_services(
    cluster: &str,
    namespace: &str,
    service: &str,
    vip: IpAddr,
    ports: &[ServicePort],
    slices: &[Slice],
) -> Vec<VirtualService> {
    let base = format!("{cluster}--{namespace}-{service}");
    let of_port = |(index, port): (usize, &ServicePort)| {
        let members = slices.iter().filter_map(|slice| Some((slice, *slice.ports.get(&port.name)?)));
        let members = members
            .flat_map(|(slice, target)| {
                slice.ready.iter().map(move |address| Member { address: *address, port: target })
            })
            .filter(|member| member.address.is_ipv4() == vip.is_ipv4());
        VirtualService {
            name: if index == 0 { base.clone() } else { format!("{base}-{}", port.port) },
            vip,
            port: port.port,
            protocol: Protocol::Tcp,
            members: members.collect(),
        }
    };
    ports.iter().enumerate().map(of_port).collect()
}

/// The member with the fewest connections; among equals the first at or after the cursor, so that equals take turns.
/// `None` where there is no member.
pub fn least_connections(loads: &[usize], cursor: usize) -> Option<usize> {
    let count = loads.len();
    let turn = |index: usize| (index + count - cursor % count) % count;
    loads.iter().enumerate().min_by_key(|(index, load)| (**load, turn(*index))).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_virtual_service_of_scenario_3() {
        let ports = [ServicePort { name: String::new(), port: 80 }];
        let slice =
            Slice { ports: [(String::new(), 8080)].into(), ready: vec![ip("10.244.3.23"), ip("fd00::1")] };
        let services = virtual_services("k8s", "default", "nginx1", ip("172.16.251.1"), &ports, &[slice]);
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].name, "k8s--default-nginx1");
        assert_eq!(services[0].members, [Member { address: ip("10.244.3.23"), port: 8080 }].into());
    }

    #[test]
    fn a_named_port_with_different_numbers_reaches_each_pod_on_its_own() {
        let ports =
            [ServicePort { name: "web".into(), port: 80 }, ServicePort { name: "admin".into(), port: 81 }];
        let slice =
            |target, address| Slice { ports: [("web".to_owned(), target)].into(), ready: vec![ip(address)] };
        let slices = [slice(8080, "10.0.0.1"), slice(9090, "10.0.0.2")];
        let services = virtual_services("k8s", "d", "s", ip("172.16.251.1"), &ports, &slices);
        let members: Vec<_> = services[0].members.iter().map(|member| member.port).collect();
        assert_eq!(members, [8080, 9090]);
        assert_eq!((services[1].name.as_str(), services[1].members.len()), ("k8s--d-s-81", 0));
    }

    #[test]
    fn the_least_loaded_member_is_picked_and_equals_take_turns() {
        assert_eq!(least_connections(&[], 0), None);
        assert_eq!(least_connections(&[3, 1, 2], 0), Some(1));
        let picks: Vec<_> = (0..4).map(|cursor| least_connections(&[0, 0, 0], cursor).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2, 0]);
    }
}
