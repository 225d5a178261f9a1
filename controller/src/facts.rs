//! One consistent look at the cluster: the stores' objects, with what core needs of them. What is not valid keeps its
//! error, so that its status can say it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use portolan_core::address::Ranges;
use portolan_core::egress::owner::Member;
use portolan_core::external::ExternalPool;
use portolan_core::ipam::owner::Identity;
use portolan_core::ipam::{Lease, Owner, Pool, View};
use portolan_core::routes;
use portolan_crds::node::{hop, member};
use portolan_crds::{Egress, ExternalIPPool, IPPool, Invalid, ServiceEngine};

use crate::stores::{Stores, sorted};

/// An object with what it says, or why it says nothing.
pub type Parsed<K, T> = Vec<(Arc<K>, Result<T, Invalid>)>;

/// The cluster at one moment.
pub struct Facts {
    /// Nodes, as next hops.
    pub nodes: Vec<routes::Node>,
    /// Nodes, as owners of egress addresses.
    pub members: Vec<Member>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// Their endpoints.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Service CIDRs.
    pub cidrs: Vec<IpNet>,
    /// Pools of pod addresses.
    pub pools: Parsed<IPPool, Pool>,
    /// Valid leases.
    pub leases: View,
    /// Pods with addresses of their own.
    pub pods: Vec<PodFacts>,
    /// Nodes that an administrator has declared to be off (taint `node.kubernetes.io/out-of-service`).
    pub out_of_service: BTreeSet<String>,
    /// Pools of external addresses.
    pub external: Parsed<ExternalIPPool, ExternalPool>,
    /// Egresses.
    pub egresses: Vec<Arc<Egress>>,
    /// Engines.
    pub engines: Vec<Arc<ServiceEngine>>,
}

/// A pod that is not finished and not in its node's network.
pub struct PodFacts {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Who its addresses would be kept for.
    pub owner: Owner,
}

impl Facts {
    /// The addresses of all pods.
    pub fn pod_addresses(&self) -> Ranges {
        self.pods.iter().flat_map(|pod| &pod.addresses).map(|address| IpNet::from(*address)).collect()
    }

    /// Looks at the stores.
    pub fn of(stores: &Stores) -> Self {
        let nodes = sorted(&stores.nodes);
        let cidrs = sorted(&stores.cidrs);
        let cidrs = cidrs.iter().flat_map(|one| one.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()));
        let leases = sorted(&stores.leases);
        let leases = leases.iter().filter_map(|object| Lease::try_from(&**object).ok());
        Self {
            nodes: nodes.iter().map(|node| hop(node)).collect(),
            members: nodes.iter().map(|node| member(node)).collect(),
            services: sorted(&stores.services),
            slices: sorted(&stores.slices),
            cidrs: cidrs.filter_map(|cidr| cidr.parse().ok()).collect(),
            pools: sorted(&stores.pools)
                .into_iter()
                .map(|one| (one.clone(), Pool::try_from(&*one)))
                .collect(),
            leases: leases.collect(),
            pods: stores.pods.state().iter().filter_map(|pod| pod_facts(pod)).collect(),
            out_of_service: nodes.iter().filter(|node| is_off(node)).map(|node| node.name_any()).collect(),
            external: sorted(&stores.external)
                .into_iter()
                .map(|one| (one.clone(), ExternalPool::try_from(&*one)))
                .collect(),
            egresses: sorted(&stores.egresses),
            engines: sorted(&stores.engines),
        }
    }

    /// Valid external pools, by name.
    pub fn external_pools(&self) -> BTreeMap<String, ExternalPool> {
        let valid = self.external.iter().filter_map(|(_, pool)| pool.as_ref().ok());
        valid.map(|pool| (pool.name.clone(), pool.clone())).collect()
    }
}

fn is_off(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service")
}

fn pod_facts(pod: &Pod) -> Option<PodFacts> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if finished || spec.host_network == Some(true) {
        return None;
    }
    let addresses = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let identity = Identity {
        namespace: &pod.namespace()?,
        name: &pod.name_any(),
        labels: pod.labels(),
        controller: controller.map(|owner| (owner.kind.as_str(), owner.name.as_str())),
        wanted: &[],
    };
    Some(PodFacts { addresses, owner: identity.owner() })
}
