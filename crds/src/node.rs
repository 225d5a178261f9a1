//! A Node (`core/v1`), as core's decisions see it. The same for agents and controller: they must decide alike.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use portolan_core::egress::owner::Member;
use portolan_core::routes;

/// A node as a next hop: its first InternalIP, the first of the other family, and `spec.podCIDRs`.
pub fn hop(node: &Node) -> routes::Node {
    let cidrs = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    let internal: Vec<IpAddr> = internal.filter_map(|address| address.address.parse().ok()).collect();
    let first = internal.first().copied();
    routes::Node {
        name: node.name_any(),
        address: first,
        second: internal.into_iter().find(|ip| first.is_some_and(|first| first.is_ipv4() != ip.is_ipv4())),
        pod_cidrs: cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
    }
}

/// A node as an owner of egress addresses: eligible while it is Ready and not cordoned.
pub fn member(node: &Node) -> Member {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    Member { node: node.name_any(), labels: node.labels().clone(), eligible: ready && !cordoned }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn only_a_ready_node_that_is_not_cordoned_may_own_addresses() {
        let node = |ready: &str, cordoned: bool| -> Node {
            from_value(json!({
                "metadata": { "name": "node-1" },
                "spec": { "podCIDRs": ["10.10.1.0/24"], "unschedulable": cordoned },
                "status": {
                    "addresses": [{ "type": "Hostname", "address": "node-1" }, { "type": "InternalIP", "address": "172.16.11.11" }, { "type": "InternalIP", "address": "2001:db8::11" }],
                    "conditions": [{ "type": "Ready", "status": ready }],
                },
            }))
            .unwrap()
        };
        assert!(member(&node("True", false)).eligible);
        assert!(!member(&node("True", true)).eligible);
        assert!(!member(&node("Unknown", false)).eligible);
        let addresses: Vec<_> = hop(&node("True", false)).addresses().collect();
        assert_eq!(addresses, ["172.16.11.11", "2001:db8::11"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    }
}
