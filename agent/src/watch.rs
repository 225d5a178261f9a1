//! The watches: one reflector per kind, and the world that is built from them.
//!
//! Owns the stores. One task per kind keeps its store current and repairs its watch with backoff for as long as the agent
//! lives; one task builds the world after every burst of changes and publishes it (`watch`: the last value counts). Until
//! every kind has been listed there is no world, and nothing is decided.

use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use portolan_core::ipam::Lease;
use portolan_core::{egress, external, ipam};
use portolan_crds::annotation::{self, POOLS};
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
}

/// Starts the watches. The receiver has a world once everything has been listed.
pub fn start(client: &Client, node: &str, tasks: &mut Tasks) -> watch::Receiver<Option<Arc<World>>> {
    let changed = Arc::new(Notify::new());
    let notify = || {
        let changed = Arc::clone(&changed);
        move || changed.notify_one()
    };
    let mine = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let all = watcher::Config::default;
    let stores = Stores {
        nodes: follow(client, all(), tasks, "watch of nodes", notify()),
        namespaces: follow(client, all(), tasks, "watch of namespaces", notify()),
        pods: follow(client, mine, tasks, "watch of pods", notify()),
        services: follow(client, all(), tasks, "watch of servicecidrs", notify()),
        pools: follow(client, all(), tasks, "watch of ippools", notify()),
        leases: follow(client, all(), tasks, "watch of ipleases", notify()),
        external: follow(client, all(), tasks, "watch of externalippools", notify()),
        egresses: follow(client, all(), tasks, "watch of egresses", notify()),
    };
    let (publish, worlds) = watch::channel(None);
    tasks.spawn("world", async move {
        if stores.listed().await.is_err() {
            return;
        }
        loop {
            publish.send_replace(Some(Arc::new(stores.world())));
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

    fn world(&self) -> World {
        let cidrs = self.services.state();
        let services =
            cidrs.iter().flat_map(|one| one.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()));
        World {
            nodes: self.nodes.state().iter().map(|node| hop(node)).collect(),
            members: self.nodes.state().iter().map(|node| member(node)).collect(),
            pools: valid(&self.pools, |pool| ipam::Pool::try_from(pool)),
            leases: valid(&self.leases, |lease| Lease::try_from(lease)),
            egresses: valid(&self.egresses, |egress| egress::Egress::try_from(egress)),
            external: valid(&self.external, |pool| {
                external::ExternalPool::try_from(pool).map(|pool| pool.nodes)
            }),
            namespaces: self.namespaces.state().iter().map(|one| (one.name_any(), namespace(one))).collect(),
            pods: self.pods.state().iter().filter_map(|pod| pod_facts(pod)).collect(),
            services: services.filter_map(|cidr| cidr.parse().ok()).collect(),
        }
    }
}

/// What core can decide with. An object that is not valid has a condition, which the controller writes; here it does not
/// exist.
fn valid<K, T, E>(
    store: &Store<K>,
    convert: impl Fn(&K) -> Result<T, E>,
) -> std::collections::BTreeMap<String, T>
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
    Some((key, PodFacts { uid: pod.uid()?, labels: pod.labels().clone(), pools: pools(pod) }))
}

fn pools(object: &impl ResourceExt) -> Vec<String> {
    annotation::first(Some(object.annotations()), &POOLS).map(annotation::list).unwrap_or_default()
}
