//! One consistent look at the cluster: the stores' objects, with what core needs of them. What is not valid keeps its
//! error, so that its status can say it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use portolan_core::egress::owner::Member;
use portolan_core::external::ExternalPool;
use portolan_core::ipam::{Lease, Pool};
use portolan_core::routes;
use portolan_crds::node::{hop, member};
use portolan_crds::{Egress, ExternalIPPool, IPLease, IPPool, Invalid, ServiceEngine};

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
    /// Lease objects.
    pub lease_objects: Vec<Arc<IPLease>>,
    /// Valid leases, by name.
    pub leases: BTreeMap<String, Lease>,
    /// Pools of external addresses.
    pub external: Parsed<ExternalIPPool, ExternalPool>,
    /// Egresses.
    pub egresses: Vec<Arc<Egress>>,
    /// Engines.
    pub engines: Vec<Arc<ServiceEngine>>,
}

impl Facts {
    /// Looks at the stores.
    pub fn of(stores: &Stores) -> Self {
        let nodes = sorted(&stores.nodes);
        let cidrs = sorted(&stores.cidrs);
        let cidrs = cidrs.iter().flat_map(|one| one.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()));
        let lease_objects = sorted(&stores.leases);
        let leases = lease_objects.iter().filter_map(|object| Lease::try_from(&**object).ok());
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
            leases: leases.map(|lease| (lease.name.clone(), lease)).collect(),
            lease_objects,
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
