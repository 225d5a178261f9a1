//! The watches: one reflector per kind, and the world that is built from them.
//!
//! Owns the stores. One task per kind keeps its store current and repairs its watch with backoff for as long as the agent
//! lives; one task builds the world after every burst of changes and publishes it (`watch`: the last value counts). Until
//! every kind has been listed there is no world, and nothing is decided.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use portolan_core::egress::owner::Member;
use portolan_core::ipam::Lease;
use portolan_core::{egress, external, ipam, routes};
use portolan_crds::annotation::{self, POOLS};
use portolan_crds::{Egress, ExternalIPPool, IPLease, IPPool};
use portolan_daemon::flood::Flood;
use portolan_daemon::tasks::Tasks;
use serde::de::DeserializeOwned;
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
    let mine = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let all = watcher::Config::default;
    let stores = Stores {
        nodes: follow(client, all(), &changed, tasks, "watch of nodes"),
        namespaces: follow(client, all(), &changed, tasks, "watch of namespaces"),
        pods: follow(client, mine, &changed, tasks, "watch of pods"),
        services: follow(client, all(), &changed, tasks, "watch of servicecidrs"),
        pools: follow(client, all(), &changed, tasks, "watch of ippools"),
        leases: follow(client, all(), &changed, tasks, "watch of ipleases"),
        external: follow(client, all(), &changed, tasks, "watch of externalippools"),
        egresses: follow(client, all(), &changed, tasks, "watch of egresses"),
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

/// Keeps one store current, for ever. What no one reads is not kept.
fn follow<K>(
    client: &Client,
    config: watcher::Config,
    changed: &Arc<Notify>,
    tasks: &mut Tasks,
    name: &'static str,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let (api, changed) = (Api::<K>::all(client.clone()), Arc::clone(changed));
    tasks.spawn(name, async move {
        let mut flood = Flood::new(Duration::from_secs(60));
        let stream = watcher(api, config)
            .default_backoff()
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .inspect_err(|error| {
                if let Some(repeated) = flood.admit(&error.to_string(), Instant::now()) {
                    tracing::warn!(%error, repeated, "{name} is interrupted and will be repeated");
                }
            });
        stream.for_each(|_| async { changed.notify_one() }).await;
    });
    reader
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
            nodes: self.nodes.state().iter().map(|node| route_node(node)).collect(),
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

fn route_node(node: &Node) -> routes::Node {
    let spec = node.spec.clone().unwrap_or_default();
    let cidrs = spec.pod_cidrs.unwrap_or_default();
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses.into_iter().flatten().find(|address| address.type_ == "InternalIP");
    routes::Node {
        name: node.name_any(),
        address: internal.and_then(|address| address.address.parse().ok()),
        pod_cidrs: cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
    }
}

fn member(node: &Node) -> Member {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    Member { node: node.name_any(), labels: node.labels().clone(), eligible: ready && !cordoned }
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
