//! The watches: one reflector per kind. Each change wakes the pass.

use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, PodStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use portolan_crds::{Egress, ExternalIPPool, IPLease, IPPool, ServiceEngine};
use portolan_daemon::follow::{follow, follow_part};
use portolan_daemon::reconcile::Wake;
use portolan_daemon::tasks::Tasks;

/// The stores of all kinds.
pub struct Stores {
    /// Nodes.
    pub nodes: Store<Node>,
    /// Pods, of which only addresses and controllers are kept. They wake no pass.
    pub pods: Store<Pod>,
    /// Services.
    pub services: Store<Service>,
    /// Endpoints of Services.
    pub slices: Store<EndpointSlice>,
    /// Service CIDRs.
    pub cidrs: Store<ServiceCIDR>,
    /// Pools of pod addresses.
    pub pools: Store<IPPool>,
    /// Leases of them.
    pub leases: Store<IPLease>,
    /// Pools of external addresses.
    pub external: Store<ExternalIPPool>,
    /// Egresses.
    pub egresses: Store<Egress>,
    /// Engines.
    pub engines: Store<ServiceEngine>,
}

impl Stores {
    /// Starts all watches.
    pub fn start(client: &Client, wake: &Wake, tasks: &mut Tasks) -> Self {
        let woken = || {
            let wake = wake.clone();
            move || wake.up()
        };
        Self {
            nodes: follow(client, watcher::Config::default(), tasks, "watch of nodes", woken()),
            pods: follow_part(client, watcher::Config::default(), tasks, "watch of pods", essence, || {}),
            services: follow(client, watcher::Config::default(), tasks, "watch of services", woken()),
            slices: follow(client, watcher::Config::default(), tasks, "watch of endpointslices", woken()),
            cidrs: follow(client, watcher::Config::default(), tasks, "watch of servicecidrs", woken()),
            pools: follow(client, watcher::Config::default(), tasks, "watch of ippools", woken()),
            leases: follow(client, watcher::Config::default(), tasks, "watch of ipleases", woken()),
            external: follow(client, watcher::Config::default(), tasks, "watch of externalippools", woken()),
            egresses: follow(client, watcher::Config::default(), tasks, "watch of egresses", woken()),
            engines: follow(client, watcher::Config::default(), tasks, "watch of serviceengines", woken()),
        }
    }

    /// Returns when every kind has been listed.
    ///
    /// # Errors
    /// When a watch has ended, which happens at the agent's end only.
    pub async fn listed(&self) -> Result<()> {
        self.nodes.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.slices.wait_until_ready().await?;
        self.cidrs.wait_until_ready().await?;
        self.pools.wait_until_ready().await?;
        self.leases.wait_until_ready().await?;
        self.external.wait_until_ready().await?;
        self.egresses.wait_until_ready().await?;
        self.engines.wait_until_ready().await?;
        Ok(())
    }
}

/// What is kept of a pod: a cluster has many.
fn essence(pod: &mut Pod) {
    let spec = pod.spec.take().unwrap_or_default();
    pod.spec = Some(PodSpec { host_network: spec.host_network, ..PodSpec::default() });
    let status = pod.status.take().unwrap_or_default();
    pod.status = Some(PodStatus { pod_ips: status.pod_ips, phase: status.phase, ..PodStatus::default() });
    pod.metadata.annotations = None;
}

/// All objects of a store, by name, so that every pass sees them in one order.
pub fn sorted<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>) -> Vec<Arc<K>> {
    let mut all = store.state();
    all.sort_by_key(|object| (object.namespace(), object.name_any()));
    all
}
