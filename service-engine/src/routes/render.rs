//! What a cluster's route is on this host: through which interface its next hop is reached. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_linux::Route as KernelRoute;
use portolan_wire::engine::Route;

/// A subnet that this host is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The interface's name; it is up.
    pub dev: String,
    /// The host's address in it.
    pub address: IpAddr,
    /// The length of its prefix.
    pub length: u8,
}

/// The routes in the kernel's words, and those that cannot be said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// What to bring about.
    pub routes: BTreeMap<Route, KernelRoute>,
    /// Why it cannot be.
    pub problems: BTreeMap<Route, String>,
}

/// Says every route for a host in these subnets.
pub fn render(routes: impl Iterator<Item = Route>, subnets: &[Subnet]) -> Rendered {
    let mut rendered = Rendered::default();
    for route in routes {
        match through(route, subnets) {
            Ok(dev) => {
                let wanted = KernelRoute::through(route.prefix, route.via, dev);
                rendered.routes.insert(route, wanted);
            }
            Err(problem) => {
                rendered.problems.insert(route, problem);
            }
        }
    }
    rendered
}

/// The interface that the next hop is reached through without a router: the one with the longest matching subnet.
fn through(route: Route, subnets: &[Subnet]) -> Result<&str, String> {
    if subnets.iter().any(|subnet| subnet.address == route.via) {
        return Err(format!("the next hop {} is this engine itself", route.via));
    }
    let found = subnets
        .iter()
        .filter(|subnet| IpNet::new(subnet.address, subnet.length).is_ok_and(|net| net.contains(&route.via)))
        .max_by_key(|subnet| subnet.length);
    found.map(|subnet| subnet.dev.as_str()).ok_or_else(|| {
        format!(
            "no interface of this engine is up with an address in a subnet of {}: engine and nodes must share one",
            route.via
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_goes_through_the_interface_that_shares_the_nodes_subnet() {
        let subnets = [subnet("eth0", "10.0.0.5", 8), subnet("eth1", "10.100.1.200", 24)];
        let rendered = render([route("192.168.101.0/24", "10.100.1.101")].into_iter(), &subnets);
        let said: Vec<String> = rendered.routes.values().map(ToString::to_string).collect();
        assert_eq!(said, ["192.168.101.0/24 via 10.100.1.101 dev eth1"]);
    }

    #[test]
    fn a_next_hop_behind_a_router_is_a_problem_that_says_why_and_costs_the_others_nothing() {
        let (near, far) =
            (route("192.168.101.0/24", "10.100.1.101"), route("192.168.102.0/24", "172.31.0.7"));
        let rendered = render([near, far].into_iter(), &[subnet("eth1", "10.100.1.200", 24)]);
        assert!(rendered.routes.contains_key(&near));
        assert!(rendered.problems[&far].contains("172.31.0.7"), "{:?}", rendered.problems);
    }

    #[test]
    fn a_next_hop_that_is_the_engine_itself_would_be_a_loop() {
        let own = route("192.168.101.0/24", "10.100.1.200");
        let rendered = render([own].into_iter(), &[subnet("eth1", "10.100.1.200", 24)]);
        assert!(rendered.problems[&own].contains("itself"));
    }

    #[test]
    fn a_virtual_address_is_no_subnet() {
        let far = route("192.168.101.0/24", "172.16.251.2");
        let rendered = render([far].into_iter(), &[subnet("eth0", "172.16.251.1", 32)]);
        assert!(rendered.problems.contains_key(&far));
    }

    fn subnet(dev: &str, address: &str, length: u8) -> Subnet {
        Subnet { dev: dev.into(), address: address.parse().unwrap(), length }
    }

    fn route(prefix: &str, via: &str) -> Route {
        Route { prefix: prefix.parse().unwrap(), via: via.parse().unwrap() }
    }
}
