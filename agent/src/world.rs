//! What this node knows of the cluster, as core types. Built anew from the watch's stores at every change; read by the
//! node's owner, who never sees a Kubernetes type.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portolan_core::address::{Range, Ranges};
use portolan_core::egress::Egress;
use portolan_core::egress::owner::{Member, owners};
use portolan_core::egress::select::{Pod, winner};
use portolan_core::ipam::choose::Asker;
use portolan_core::ipam::owner::Identity;
use portolan_core::ipam::{Need, Outbound, Pool, View};
use portolan_core::labels::{Labels, Selector};
use portolan_core::routes::Node;

/// The cluster, as far as this node needs it.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Every node.
    pub nodes: Vec<Node>,
    /// Every node, as a possible owner of egress addresses.
    pub members: Vec<Member>,
    /// Every valid pool, without what is not its to give.
    pub pools: Arc<BTreeMap<String, Pool>>,
    /// Every lease.
    pub leases: Arc<View>,
    /// Every valid Egress.
    pub egresses: BTreeMap<String, Egress>,
    /// On which nodes the addresses of each external pool may live.
    pub external: BTreeMap<String, Selector>,
    /// Every namespace.
    pub namespaces: BTreeMap<String, NamespaceFacts>,
    /// The pods of this node, by namespace and name.
    pub pods: BTreeMap<(String, String), PodFacts>,
    /// Service CIDRs.
    pub services: Vec<IpNet>,
}

/// A namespace.
#[derive(Debug, Clone, Default)]
pub struct NamespaceFacts {
    /// Its labels.
    pub labels: Labels,
    /// The pools its annotation lists.
    pub pools: Vec<String>,
}

/// A pod of this node.
#[derive(Debug, Clone)]
pub struct PodFacts {
    /// Its uid: a StatefulSet's pod comes back under its old name.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// The pools its annotation lists.
    pub pools: Vec<String>,
    /// The addresses its annotation lists, or what is wrong with the list.
    pub wanted: Result<Vec<IpAddr>, String>,
    /// Kind and name of its controller.
    pub controller: Option<(String, String)>,
    /// It is to start here, in a network of its own, and has no address yet.
    pub starts: bool,
}

impl Default for PodFacts {
    fn default() -> Self {
        let (uid, labels, pools, controller) = Default::default();
        Self { uid, labels, pools, wanted: Ok(vec![]), controller, starts: false }
    }
}

impl PodFacts {
    /// What addresses it needs, where its pools keep addresses or do not.
    pub fn need(&self, namespace: &str, name: &str, keeps: bool) -> Need {
        let wanted = match &self.wanted {
            Ok(wanted) => wanted,
            Err(why) => return Need::Impossible(why.clone()),
        };
        let controller = self.controller.as_ref().map(|(kind, name)| (kind.as_str(), name.as_str()));
        Identity { namespace, name, labels: &self.labels, controller, wanted }.need(keeps)
    }
}

impl World {
    /// This node's labels and pod CIDRs.
    pub fn node(&self, name: &str) -> (Labels, Vec<IpNet>) {
        let labels =
            self.members.iter().find(|member| member.node == name).map(|member| member.labels.clone());
        let cidrs = self.nodes.iter().find(|node| node.name == name).map(|node| node.pod_cidrs.clone());
        (labels.unwrap_or_default(), cidrs.unwrap_or_default())
    }

    /// The address of every node that has one.
    pub fn addresses(&self) -> BTreeMap<String, IpAddr> {
        self.nodes.iter().filter_map(|node| Some((node.name.clone(), node.address?))).collect()
    }

    /// The owner of every egress address: the same answer on every node.
    pub fn owners(&self) -> BTreeMap<IpAddr, String> {
        let of_egress = |egress: &Egress| {
            egress.id?;
            let pool = egress.pool.as_ref().and_then(|pool| self.external.get(pool));
            Some((egress.address?, pool.cloned().unwrap_or_default()))
        };
        owners(&self.egresses.values().filter_map(of_egress).collect(), &self.members)
    }

    /// A pod with its namespace, once both are known. `uid` is the runtime's, where it names one.
    pub fn pod(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Option<(&PodFacts, &NamespaceFacts)> {
        let pod = self.pods.get(&(namespace.to_owned(), name.to_owned()))?;
        let same = uid.is_none_or(|uid| uid == pod.uid);
        same.then_some(pod).zip(self.namespaces.get(namespace))
    }

    /// The Egress that selects a pod.
    pub fn egress(&self, namespace: &str, name: &str) -> Option<&Egress> {
        let (pod, namespace) = self.pod(namespace, name, None)?;
        winner(Pod { labels: &pod.labels, namespace_labels: &namespace.labels }, self.egresses.values())
    }

    /// What is never translated and never steered: node CIDRs, pools, Services, the nodes themselves.
    pub fn cluster(&self) -> Ranges {
        let nodes: Ranges = self.nodes.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        let services: Ranges = self.services.iter().copied().collect();
        let addresses = self.nodes.iter().flat_map(Node::addresses);
        let addresses: Ranges = addresses.filter_map(|address| Range::new(address, address)).collect();
        let pools = self.pools.values().fold(nodes, |all, pool| all.union(&pool.usable));
        let leases: Ranges = self.leases.iter().map(|lease| lease.block).collect();
        pools.union(&leases).union(&services).union(&addresses)
    }

    /// Pods that leave with their node's address where no Egress selects them.
    pub fn masquerade(&self) -> Ranges {
        let nodes: Ranges = self.nodes.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        let masked = |pool: &Pool| pool.outbound == Outbound::NodeAddress;
        let pools = self.pools.values().filter(|pool| masked(pool));
        // Leases count too: an address that has been taken out of its pool may still be a pod's.
        let leases = self.leases.iter().filter(|lease| self.pools.get(&lease.pool).is_some_and(masked));
        let leases: Ranges = leases.map(|lease| lease.block).collect();
        pools.fold(nodes.union(&leases), |all, pool| all.union(&pool.usable))
    }
}

/// What decides about a pod's pools.
pub fn asker<'a>(
    namespace: &'a str,
    pod: &'a PodFacts,
    facts: &'a NamespaceFacts,
    network_pools: &'a [String],
) -> Asker<'a> {
    let (namespace_labels, namespace_pools, pod_pools) = (&facts.labels, &facts.pools, &pod.pools);
    Asker { namespace, namespace_labels, namespace_pools, pod_pools, network_pools }
}
