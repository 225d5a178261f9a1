//! The watches: one reflector per kind, and the world that is built from them.
//!
//! Owns the stores. One task per kind keeps its store current and repairs its watch with backoff for as long as the agent
//! lives; one task builds the world after every burst of changes and publishes it (`watch`: the last value counts). Until
//! every kind has been listed there is no world, and nothing is decided.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use portolan_core::address::{Range, Ranges};
use portolan_core::ipam::overlap::effective;
use portolan_core::ipam::{Lease, Pool, View};
use portolan_core::routes;
use portolan_core::{egress, external};
use portolan_crds::annotation::{self, ADDRESSES, POOLS};
use portolan_crds::node::{hop, member};
use portolan_crds::{Egress, ExternalIPPool, IPLease, IPPool};
use portolan_daemon::follow::follow;
use portolan_daemon::tasks::Tasks;
use tokio::sync::{Notify, watch};

use crate::world::{NamespaceFacts, PodFacts, World};

/// The stores of all kinds.
struct Stores {
    nodes: Store<Node>,
    namespaces: Store<Namespace>,
    pods: Store<Pod>,
    services: Store<ServiceCIDR>,
    pools: Store<IPPool>,
    leases: Store<IPLease>,
    external: Store<ExternalIPPool>,
    egresses: Store<Egress>,
    leases_changed: Arc<AtomicBool>,
}

/// What is not built anew for every world: leases are many, and each change of pools costs the owner a look at all of them.
#[derive(Default)]
struct Built {
    pools: Arc<BTreeMap<String, Pool>>,
    leases: Arc<View>,
}

/// Starts the watches. The receiver has a world once everything has been listed.
pub fn start(client: &Client, node: &str, tasks: &mut Tasks) -> watch::Receiver<Option<Arc<World>>> {
    let changed = Arc::new(Notify::new());
    let notify = || {
        let changed = Arc::clone(&changed);
        move || changed.notify_one()
    };
    let leases_changed = Arc::new(AtomicBool::new(true));
    let of_leases = {
        let (notify, leases_changed) = (notify(), Arc::clone(&leases_changed));
        move || {
            leases_changed.store(true, Ordering::Release);
            notify();
        }
    };
    let mine = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let all = watcher::Config::default;
    let stores = Stores {
        nodes: follow(client, all(), tasks, "watch of nodes", notify()),
        namespaces: follow(client, all(), tasks, "watch of namespaces", notify()),
        pods: follow(client, mine, tasks, "watch of pods", notify()),
        services: follow(client, all(), tasks, "watch of servicecidrs", notify()),
        pools: follow(client, all(), tasks, "watch of ippools", notify()),
        leases: follow(client, all(), tasks, "watch of ipleases", of_leases),
        external: follow(client, all(), tasks, "watch of externalippools", notify()),
        egresses: follow(client, all(), tasks, "watch of egresses", notify()),
        leases_changed,
    };
    let (publish, worlds) = watch::channel(None);
    tasks.spawn("world", async move {
        if stores.listed().await.is_err() {
            return;
        }
        let mut built = Built::default();
        loop {
            publish.send_replace(Some(Arc::new(stores.world(&mut built))));
            changed.notified().await;
        }
    });
    worlds
}

impl Stores {
    async fn listed(&self) -> Result<()> {
        self.nodes.wait_until_ready().await?;
        self.namespaces.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.pools.wait_until_ready().await?;
        self.leases.wait_until_ready().await?;
        self.external.wait_until_ready().await?;
        self.egresses.wait_until_ready().await?;
        Ok(())
    }

    fn world(&self, built: &mut Built) -> World {
        let cidrs = self.services.state();
        let services =
            cidrs.iter().flat_map(|one| one.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()));
        let services: Vec<_> = services.filter_map(|cidr| cidr.parse().ok()).collect();
        let nodes: Vec<_> = self.nodes.state().iter().map(|node| hop(node)).collect();
        let external = valid(&self.external, |pool| external::ExternalPool::try_from(pool));
        let outside = external.values().map(|pool| &pool.usable);
        let pools = valid(&self.pools, |pool| Pool::try_from(pool));
        let pools = effective(pools.into_values(), &taken(&nodes, &services, outside));
        if *built.pools != pools {
            built.pools = Arc::new(pools);
        }
        // Before the look at the store: what changes after it is looked at again.
        if self.leases_changed.swap(false, Ordering::AcqRel) {
            let leases = valid(&self.leases, |lease| Lease::try_from(lease));
            built.leases = Arc::new(leases.into_values().collect());
        }
        World {
            members: self.nodes.state().iter().map(|node| member(node)).collect(),
            pools: Arc::clone(&built.pools),
            leases: Arc::clone(&built.leases),
            egresses: valid(&self.egresses, |egress| egress::Egress::try_from(egress)),
            external: external.into_iter().map(|(name, pool)| (name, pool.nodes)).collect(),
            namespaces: self.namespaces.state().iter().map(|one| (one.name_any(), namespace(one))).collect(),
            pods: self.pods.state().iter().filter_map(|pod| pod_facts(pod)).collect(),
            nodes,
            services,
        }
    }
}

/// Addresses that no pool gives, whatever it says.
fn taken<'a>(
    nodes: &[routes::Node],
    services: &[ipnet::IpNet],
    external: impl Iterator<Item = &'a Ranges>,
) -> Ranges {
    let cidrs: Ranges = nodes.iter().flat_map(|node| &node.pod_cidrs).chain(services).copied().collect();
    let addresses = nodes.iter().flat_map(routes::Node::addresses);
    let addresses: Ranges = addresses.filter_map(|address| Range::new(address, address)).collect();
    external.fold(cidrs.union(&addresses), |all, ranges| all.union(ranges))
}

/// What core can decide with. An object that is not valid has a condition, which the controller writes; here it does not
/// exist.
fn valid<K, T, E>(store: &Store<K>, convert: impl Fn(&K) -> Result<T, E>) -> BTreeMap<String, T>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    E: std::fmt::Display,
{
    let convert = |object: &Arc<K>| {
        let name = object.name_any();
        match convert(object) {
            Ok(value) => Some((name, value)),
            Err(error) => {
                tracing::debug!(kind = %K::kind(&()), name, %error, "not valid, passed over");
                None
            }
        }
    };
    store.state().iter().filter_map(convert).collect()
}

fn namespace(from: &Namespace) -> NamespaceFacts {
    NamespaceFacts { labels: from.labels().clone(), pools: pools(from) }
}

fn pod_facts(pod: &Pod) -> Option<((String, String), PodFacts)> {
    let key = (pod.namespace()?, pod.name_any());
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let facts = PodFacts {
        uid: pod.uid()?,
        labels: pod.labels().clone(),
        pools: pools(pod),
        wanted: wanted(pod),
        controller: controller.map(|owner| (owner.kind.clone(), owner.name.clone())),
        starts: starts(pod),
    };
    Some((key, facts))
}

fn starts(pod: &Pod) -> bool {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default();
    let status = pod.status.as_ref();
    let pending = status.and_then(|status| status.phase.as_deref()).is_none_or(|phase| phase == "Pending");
    let addressed = status.is_some_and(|status| status.pod_ip.is_some());
    !host_network && pending && !addressed && pod.metadata.deletion_timestamp.is_none()
}

fn wanted(pod: &Pod) -> Result<Vec<IpAddr>, String> {
    let Some(key) = ADDRESSES.iter().find(|key| pod.annotations().contains_key(**key)) else {
        return Ok(vec![]);
    };
    let listed = pod.annotations().get(*key).map(|value| annotation::list(value)).unwrap_or_default();
    let parse = |text: &String| {
        text.parse().map_err(|_| format!("annotation {key} has {text:?}, which is not an IP address: list addresses, separated by commas"))
    };
    listed.iter().map(parse).collect()
}

fn pools(object: &impl ResourceExt) -> Vec<String> {
    annotation::first(Some(object.annotations()), &POOLS).map(annotation::list).unwrap_or_default()
}
