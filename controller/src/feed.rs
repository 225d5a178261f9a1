//! What the engines are to be told, from one look at the cluster: routes for all, virtual services by pool.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use portolan_core::address::Ranges;
use portolan_core::balancing::{ServicePort, Slice, VirtualService, virtual_services};
use portolan_core::routes;
use portolan_wire::engine::Route;

use crate::facts::Facts;
use crate::services::Vips;

/// All that any engine may be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Feed {
    /// Prefix via node.
    pub routes: Vec<Route>,
    /// Virtual services.
    pub services: Vec<VirtualService>,
    /// Each external pool's addresses: an engine serves the virtual addresses of its own pool.
    pub pools: BTreeMap<String, Ranges>,
}

/// The feed of this moment.
pub fn feed(cluster: &str, facts: &Facts, vips: &Vips) -> Feed {
    let table = routes::table(&facts.nodes, &facts.leases);
    for conflict in &table.conflicts {
        let (prefix, node, with, holder) = (conflict.prefix, &conflict.node, conflict.with, &conflict.holder);
        tracing::debug!(%prefix, node, %with, holder, "not routed: another node holds it");
    }
    let ipv4 = |(prefix, hop): (&ipnet::IpNet, &routes::Hop)| {
        hop.via.filter(IpAddr::is_ipv4).map(|via| Route { prefix: *prefix, via })
    };
    let services =
        vips.services().iter().flat_map(|(service, vip)| of_service(cluster, facts, service, *vip));
    Feed {
        routes: table.routes.iter().filter_map(ipv4).collect(),
        services: services.collect(),
        pools: facts.external_pools().into_iter().map(|(name, pool)| (name, pool.usable)).collect(),
    }
}

fn of_service(cluster: &str, facts: &Facts, service: &Service, vip: IpAddr) -> Vec<VirtualService> {
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let mine = facts.slices.iter().filter(|slice| {
        slice.namespace().as_deref() == Some(namespace.as_str())
            && slice.labels().get("kubernetes.io/service-name") == Some(&name)
    });
    let slices: Vec<_> = mine.map(|slice| facts_of(slice)).collect();
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let ports: Vec<_> = tcp
        .filter_map(|port| {
            let number = u16::try_from(port.port).ok()?;
            Some(ServicePort { name: port.name.clone().unwrap_or_default(), port: number })
        })
        .collect();
    virtual_services(cluster, &namespace, &name, vip, &ports, &slices)
}

/// Ready endpoints with their TCP ports. An endpoint that says nothing about readiness is ready (EndpointConditions).
fn facts_of(slice: &EndpointSlice) -> Slice {
    let ports =
        slice.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let ports = ports
        .filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.port?).ok()?)))
        .collect();
    let endpoints = slice.endpoints.iter();
    let ready = endpoints.filter(|one| one.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    // All addresses of an endpoint are the same pod; the first counts, as it does for kube-proxy.
    let ready = ready.filter_map(|one| one.addresses.first()?.parse().ok()).collect();
    Slice { ports, ready }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn only_ready_endpoints_are_members() {
        let slice: EndpointSlice = from_value(json!({
            "metadata": { "name": "nginx1-x" }, "addressType": "IPv4",
            "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }],
            "endpoints": [
                { "addresses": ["10.20.1.1"], "conditions": { "ready": true } },
                { "addresses": ["10.20.1.2"], "conditions": { "ready": false } },
                { "addresses": ["10.20.1.3"] },
            ],
        }))
        .unwrap();
        let facts = facts_of(&slice);
        assert_eq!(facts.ports, [(String::new(), 8080)].into());
        assert_eq!(
            facts.ready.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.20.1.1", "10.20.1.3"]
        );
    }
}
